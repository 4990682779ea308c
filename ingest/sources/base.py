"""The seam between the pipeline and whatever names jobs: `Source` and `Delivery`, and `SkimmingSource` for directories.

Nothing here opens a file or a connection; the sources beside this module do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence, Set
    from contextlib import AbstractAsyncContextManager

    from ingest.model import FileStamp, Job, Outcome, Stretch

__all__ = ["Delivery", "Recognise", "SkimmingSource", "Source", "SourceReport"]


@dataclass(slots=True, kw_only=True)
class Delivery:
    """One job handed over by a source, to be acknowledged once its outcome is durable.

    `stamp` is what the source's own `stat` said, None where there is no file or it can't tell; with it a file that is
    already in its pack is skipped without being opened. The pipeline calls exactly one of `acknowledge` and `release`,
    once, and both may be no-ops, as they are here: a directory needs neither.
    """

    job: Job
    stamp: FileStamp | None = None

    async def acknowledge(self, outcome: Outcome, reason: str | None) -> None:
        """The job's outcome is durable. Must be idempotent; an error means that it may be delivered again."""

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


MAX_UNREADABLE = 100
# More lines than this help nobody, and a report must not grow with the tree.


class Source(Protocol):
    """Names jobs, in its own order, once.

    `open` is entered once; leaving it frees whatever the source holds, also after a cancellation. The iterator yields
    batches of at least one delivery, in a stable order, and ends when the source is drained (a queue: never). It is
    read no faster than the pipeline takes jobs, and may be left before its end. Errors: `UsageError` for a source that
    isn't there, raised on entering; what turns up later is told in `report`.
    """

    name: str
    report: SourceReport

    def open(self) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass."""
        ...


class Recognise(Protocol):
    """Tells a source which files need not be handed over."""

    async def __call__(self, stretches: Sequence[Stretch]) -> Sequence[Set[str]]:
        """The names in each stretch that an earlier run put into the run's pack with the same stamp.

        They are discovered, counted and acknowledged by this answer, and must not be delivered as well; all others are
        delivered as ever. It keeps no order with deliveries that wait for their turn. Errors end the run.
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
