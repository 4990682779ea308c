"""The seam between the pipeline and whatever names jobs: `Source` and `Delivery`.

Nothing here opens a file or a connection; the sources beside this module do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from ingest.model import FileStamp, Job, Outcome

__all__ = ["Delivery", "Source", "SourceReport"]


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
