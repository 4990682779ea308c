"""A part of a source: the jobs of one shard among several that share it without a word to each other.

Which shard a job belongs to is told by its key alone, so that every job is in exactly one of them, whatever the machine
(the images must lie under the same paths on all). Names no job itself.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blake3 import blake3

from ingest.model import Occasion
from ingest.sources.base import NoJob, RefusingSource, SkimmingSource
from ingest.sources.keys import key_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
    from contextlib import AbstractAsyncContextManager

    from ingest.model import Job, Stretch
    from ingest.sources.base import Delivery, Recognise, Source, SourceReport

__all__ = ["Shard", "sharded"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Number `index` (from 0) of `count` shards; in words `0/4` to `3/4`. `ValueError` for one that there isn't."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"there is no shard {self.index} of {self.count}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, key: str) -> bool:
        """Whether what goes by that key belongs to this shard."""
        digest = blake3(key.encode("utf-8", "surrogateescape")).digest(length=8)
        return int.from_bytes(digest, "big") % self.count == self.index


def sharded(source: Source, shard: Shard) -> Source:
    """`source` without the jobs of other shards, which are counted in its report. Acknowledges nothing by itself.

    For sources that every shard reads as a whole; the messages of a queue go to one reader each by themselves.
    """
    return _SkimmedPart(source, shard) if isinstance(source, SkimmingSource) else _Part(source, shard)


class _Part:
    """The jobs of one shard."""

    def __init__(self, source: Source, shard: Shard) -> None:
        self.name = source.name
        self.origin = source.origin if isinstance(source, RefusingSource) else source.name
        self.report: SourceReport = source.report
        self._source = source
        self._shard = shard

    def open(self) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass."""
        return self._opened(self._source.open)

    def retells(self, place: str) -> bool:
        """See `RefusingSource.retells`: another shard's places are told in that one's passes."""
        retells = isinstance(self._source, RefusingSource) and self._source.retells(place)
        return retells and self._shard.has(self._key_of_place(place))

    async def count(self) -> int:
        """About as many as there are in all, by the number of shards."""
        count: Callable[[], Awaitable[int]] | None = getattr(self._source, "count", None)
        return 0 if count is None else round(await count() / self._shard.count)

    @asynccontextmanager
    async def _opened(
        self, enter: Callable[[], AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]]
    ) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        async with enter() as batches:
            yield self._own(batches)

    async def _own(self, batches: AsyncIterator[Sequence[Delivery]]) -> AsyncIterator[Sequence[Delivery]]:
        async for batch in batches:
            own = [delivery for delivery in batch if self._shard.has(self._key(delivery.job))]
            self.report.elsewhere += len(batch) - len(own)
            if own:
                yield own

    def _key(self, job: Job | NoJob) -> str:
        match job:
            case NoJob(place=place):
                return self._key_of_place(place)
            case _:
                return key_of(job)

    def _key_of_place(self, place: str) -> str:
        return f"{self.origin}\n{place}"


class _SkimmedPart(_Part):
    """The same of a source that can be skimmed: other shards' files are taken for known, and never opened."""

    _source: SkimmingSource

    def skim(self, recognise: Recognise) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """See `SkimmingSource.skim`."""

        async def of_this_shard(
            stretches: Sequence[Stretch], occasion: Occasion = Occasion.FIRST
        ) -> Sequence[Set[str]]:
            others = [self._others(stretch) for stretch in stretches]
            known = await recognise(
                [
                    replace(stretch, stamps={name: at for name, at in stretch.stamps.items() if name not in left_out})
                    for stretch, left_out in zip(stretches, others, strict=True)
                ],
                occasion,
            )
            self.report.elsewhere += sum(map(len, others))
            return [names | left_out for names, left_out in zip(known, others, strict=True)]

        return self._opened(lambda: self._source.skim(of_this_shard))

    def _others(self, stretch: Stretch) -> set[str]:
        return {name for name in stretch.stamps if not self._shard.has(stretch.directory + name)}
