"""The seam between the pipeline and whatever names jobs: `Source` and `Delivery`, what only some sources can do, and
`Sink` for whatever takes jobs for later.

Nothing here opens a file or a connection; the sources beside this module do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ingest.model import Occasion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
    from contextlib import AbstractAsyncContextManager

    from ingest.model import FileStamp, Job, Outcome, Stretch

__all__ = ["Delivery", "NoJob", "Recognise", "RefusingSource", "Sink", "SkimmingSource", "Source", "SourceReport"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoJob:
    """What a source could not read as a job: a row of a manifest, a message of a queue.

    `place` names it within its source, for people and the same next time ("17" for a line, a message's id); `reason` is
    for programs (`bad_row`, `path_outside_root`), `detail` for people: neither holds a secret that the row held.
    """

    place: str
    reason: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Delivery:
    """One job handed over by a source, to be acknowledged once its outcome is durable.

    A `NoJob` is acknowledged as `rejected`, once that is durable. `stamp` is what the source's own `stat` said, None
    where there is no file or it can't tell; with it a file that is already in its pack is skipped without being opened.
    `place` is as in `NoJob`, None where there is none: a job with one whose own pack can't be used is refused in the
    same way, and one without ends the run. The pipeline calls exactly one of `acknowledge` and `release`, once, and
    both may be no-ops, as they are here: a directory needs neither. Of what is not named for the first time
    (`occasion`) it calls neither where another delivery waits for the job already.
    """

    job: Job | NoJob
    stamp: FileStamp | None = None
    place: str | None = None
    occasion: Occasion = Occasion.FIRST

    async def is_out_of_reach(self) -> bool:
        """Whether the source itself is gone for the moment, so that an image which can't be read says nothing."""
        return False

    async def acknowledge(self, outcome: Outcome, reason: str | None) -> None:
        """The job's outcome is durable. Must be idempotent; an error means that it may be delivered again.

        A queue is told soon after, with others; where it can't be, it delivers the message again.
        """

    async def release(self) -> None:
        """The job was not finished and another run may have it; called on shutdown, must not block for long."""


@dataclass(slots=True)
class SourceReport:
    """What a source saw and did not hand over; filled while it is read, told at the end of the run."""

    ignored: dict[str, int] = field(default_factory=dict)
    # Files that are no images by name or content, by ending (".mov"; "" without one).

    unreadable: list[str] = field(default_factory=list)
    # Places that could not be looked into, with the reason, at most `MAX_UNREADABLE`; `unreadable_count` has them all.

    unreadable_count: int = 0

    elsewhere: int = 0
    # Jobs, and what was to be one, that belong to other shards.


MAX_UNREADABLE = 100
# More lines than this help nobody, and a report must not grow with the tree.


class Source(Protocol):
    """Names jobs, in its own order, once.

    `open` is entered once; leaving it frees whatever the source holds, also after a cancellation, and gives a queue
    back what was neither acknowledged nor released: so it stays open until every delivery has ended. The iterator
    yields batches of at least one delivery, in a stable order (a queue: in any), and ends when the source is drained (a
    queue: when nothing has come for a while, or never). It is read no faster than the pipeline takes jobs, and may be
    left before its end; a queue receives nothing while it is not read. Errors: `UsageError` for a source that isn't
    there and `GaveUp` for a broker that does not answer, both raised on entering; `GaveUp` from the iterator for one
    that stays away; what else turns up later is told in `report`.
    """

    name: str
    report: SourceReport

    def open(self) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass."""
        ...


class Recognise(Protocol):
    """Tells a source which files need not be handed over."""

    async def __call__(self, stretches: Sequence[Stretch], occasion: Occasion = Occasion.FIRST) -> Sequence[Set[str]]:
        """The names in each stretch that an earlier run, or this one, put into the run's pack with the same stamp.

        They are discovered, counted and acknowledged by this answer, if they are named for the first time, and must
        not be delivered as well; all others are delivered as ever. It keeps no order with deliveries that wait for
        their turn. Errors end the run.
        """
        ...


@runtime_checkable
class SkimmingSource(Source, Protocol):
    """A source of files that can leave out, many at a time, what an earlier run has done. None has to be one.

    The pipeline calls `skim` in place of `open` where every job is for one pack; the outcomes are the same either way,
    but a file that did not change costs little more than its `stat`.
    """

    def skim(self, recognise: Recognise) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass, as `open` does, without the deliveries of what `recognise` knows."""
        ...


@runtime_checkable
class RefusingSource(Source, Protocol):
    """A source that may hand over a `NoJob`. `origin` says which one of its kind it is, the same next time.

    It is a path or a URL, without secrets. What refused something and is none of these, is known by its `name` alone.
    """

    origin: str

    def retells(self, place: str) -> bool:
        """Whether a complete pass comes by this place, so that nothing is amiss there any more if it was not refused.

        False for a message of a queue, which comes once. Called in any thread.
        """
        ...


class Sink(Protocol):
    """Takes jobs for later: a queue, from which a source of the same URL hands them over.

    `open` is entered once and yields what publishes. Publishing returns when the broker has confirmed every job that it
    was given; an error means that some may be there and some not. Doing it again is harmless: a job with the same `id`
    is the same job. Errors: `UsageError` for what can't work, `GaveUp` for a broker that does not answer.
    """

    name: str

    def open(self) -> AbstractAsyncContextManager[Callable[[Sequence[Job]], Awaitable[None]]]:
        """Connect. Leaving closes the connection."""
        ...
