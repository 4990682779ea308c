"""Comparing a journal with its packs, and mending what differs by debts that a run pays.

Adds nothing and deletes nothing itself. A pack is read as a stream, one at a time; what grows with it in memory are
the urls of its own jobs (some 650 bytes a job), and with the differences, their records.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

import anyio

from ingest.errors import GaveUp, StopError, UsageError
from ingest.model import JobId, SummaryError
from ingest.operations.differences import COMPARED, Difference, What, differences, is_owing, mend
from ingest.operations.holdings import Holdings, Names
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Container, Iterable, Mapping, Sequence

    from ingest.api.messages import PackScan
    from ingest.journal.base import JournalMender
    from ingest.journal.records import Record
    from ingest.model import PackId, Summary

__all__ = ["PackView", "Report", "Verification"]

PAGE: Final = 1000
# Records in memory at once, and changes in one commit.


class PackView(Protocol):
    """What a comparison asks of the API. Its errors are `StopError`s: a comparison without an answer is none."""

    def remember(self, packs: Mapping[PackId, str]) -> None:
        """The journal has jobs of these packs, which that key saw last: a key that sees none of them is refused."""
        ...

    async def scan(self, pack_id: PackId, wanted: Collection[str]) -> PackScan | None:
        """Which of the `wanted` urls the pack holds; None where it is surely out of this key's sight."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was compared and found. `error` is why mending, or the look after it, ended early."""

    checked: int  # jobs
    packs: int
    differences: Sequence[Difference]
    gone: frozenset[PackId]  # packs out of sight: all their `added` jobs are missing, and none can be mended
    error: SummaryError | None = None
    error_exit_code: int = 0

    @property
    def left(self) -> int:
        """Differences that are not mended."""
        return sum(not difference.is_mended for difference in self.differences)

    @property
    def exit_code(self) -> int:
        """How the command ends: 1 for differences that are left, unless something else ended it."""
        return self.error_exit_code or int(self.left > 0)

    def count(self, what: What) -> int:
        """Differences of one kind, mended ones included."""
        return sum(difference.what is what for difference in self.differences)


@dataclass(slots=True)
class _Compared:
    """What a comparison of one pack, or of several, came to."""

    checked: int = 0
    differences: list[Difference] = field(default_factory=list)
    gone: set[PackId] = field(default_factory=set)
    owing: set[PackId] = field(default_factory=set)  # packs that a run has still to look at
    sound: set[JobId] = field(default_factory=set)  # of the jobs that were watched, those that are added, and once


class Verification:
    """One comparison. `pay_debts` runs the pipeline for nothing but lookups, their adds, and audits."""

    def __init__(
        self,
        journal: JournalMender,
        packs: PackView,
        *,
        settle_delay_s: float,
        pay_debts: Callable[[], Awaitable[Summary]],
    ) -> None:
        self._journal = journal
        self._packs = packs
        self._settle_delay_s = settle_delay_s
        self._pay_debts = pay_debts
        self._calm_at = 0.0  # monotonic: a read begun from here on shows every add of earlier runs

    async def compare(self, only: PackId | None = None) -> Report:
        """Compare every pack of the journal, or `only` one. Changes nothing.

        Raises `UsageError` for a pack that the journal doesn't know, and what the view raises.
        """
        packs = await self._known(only)
        return _report(packs, await self._compare(packs))

    async def repair(self, only: PackId | None = None, *, on_begin: Callable[[int], None] = lambda _: None) -> Report:
        """Compare, mend, and compare once more what differed. `on_begin` hears how many differences are to be mended.

        Every change that is needed is durable before the first request, so a repair that dies is finished by the next
        one, or by the next run. What earlier runs left to look up is looked up as well. Raises as `compare` does, but
        for what happens once something was found: that is in the report.
        """
        packs = await self._known(only)
        before = await self._compare(packs)
        touched = {difference.record.pack_id for difference in before.differences} | before.owing
        touched -= before.gone
        if not touched:
            return _report(packs, before)
        mendable = [difference for difference in before.differences if difference.record.pack_id not in before.gone]
        on_begin(len(mendable))
        await self._tell_journal(mendable)
        paid = await self._pay_debts()
        if paid.error is not None and paid.exit_code != GaveUp.exit_code:
            return _report(packs, before, error=paid.error, exit_code=paid.exit_code)
        # Debts of packs out of sight may be unpaid (75) while everything else is mended: it is looked at all the same.
        try:
            after = await self._compare(sorted(touched), watched=frozenset(found.record.job_id for found in mendable))
        except StopError as error:
            told = SummaryError(code=error.code, message=str(error), hint=error.hint)
            return _report(packs, before, error=told, exit_code=error.exit_code)
        before.differences = _with_endings(before.differences, after)
        return _report(packs, before, error=paid.error, exit_code=paid.exit_code)

    async def _known(self, only: PackId | None) -> Sequence[PackId]:
        known = await self._journal.packs()
        self._packs.remember(known)
        if only is None:
            return list(known)
        if only not in known:
            raise UsageError(
                f"The journal knows no pack with the id {only!r}.",
                code="unknown_pack",
                hint="Packs are named by id here, not by name: `ingest status` lists them.",
            )
        return [only]

    async def _compare(self, packs: Iterable[PackId], *, watched: Container[JobId] = frozenset()) -> _Compared:
        self._calm_at = time.monotonic() + self._settle_delay_s
        total = _Compared()
        for pack_id in packs:
            found = await self._compare_one(pack_id, watched)
            total.checked += found.checked
            total.differences += found.differences
            total.gone |= found.gone
            total.owing |= found.owing
            total.sound |= found.sound
        return total

    async def _compare_one(self, pack_id: PackId, watched: Container[JobId]) -> _Compared:
        names = Names()
        async for record in self._records(pack_id):
            names.note(record)
        wanted = names.close()
        if not wanted:
            return _Compared()
        scan = await self._packs.scan(pack_id, wanted)
        found = await self._judge(pack_id, names, scan, watched)
        if scan is not None and scan.began_at < self._calm_at and any(map(self._is_young, found.differences)):
            # Its add was answered a moment before this command began, and reads may lag behind.
            await anyio.sleep(self._calm_at - time.monotonic())
            found = await self._judge(pack_id, names, await self._packs.scan(pack_id, wanted), watched)
        return found

    async def _judge(
        self, pack_id: PackId, names: Names, scan: PackScan | None, watched: Container[JobId]
    ) -> _Compared:
        holdings = Holdings(names, scan.found if scan is not None else ())
        found = _Compared(gone=set() if scan is not None else {pack_id})
        async for record in self._records(pack_id):
            found.checked += 1
            disagreements = differences(record, holdings.of(record))
            found.differences += disagreements
            if is_owing(record):
                found.owing.add(pack_id)
            if record.job_id in watched and record.state is State.ADDED and not disagreements:
                found.sound.add(record.job_id)
        found.differences.sort(key=lambda difference: difference.record.job_id)
        return found

    def _is_young(self, difference: Difference) -> bool:
        """Whether the job was settled so lately that a read may have missed it; a clock that went back says yes."""
        settled_at = difference.record.settled_at
        return (
            difference.what is What.MISSING
            and settled_at is not None
            and time.time() - settled_at < self._settle_delay_s
        )

    async def _records(self, pack_id: PackId) -> AsyncIterator[Record]:
        for state in COMPARED:
            after = JobId(0)
            while page := await self._journal.page(pack_id, state, after=after, limit=PAGE):
                for record in page:
                    yield record
                after = page[-1].job_id

    async def _tell_journal(self, found: Iterable[Difference]) -> None:
        changes = (change for difference in found if (change := mend(difference)) is not None)
        while batch := list(itertools.islice(changes, PAGE)):
            for durable in [self._journal.submit(change) for change in batch]:
                await durable


def _with_endings(before: Sequence[Difference], after: _Compared) -> list[Difference]:
    """What was found at first, with how it stands after mending, and what has come since."""
    left = {(difference.what, difference.record.job_id): difference for difference in after.differences}
    told: list[Difference] = []
    for difference in before:
        key = (difference.what, difference.record.job_id)
        if key in left:
            told.append(left.pop(key))
        else:
            told.append(replace(difference, is_mended=difference.record.job_id in after.sound))
    return [*told, *left.values()]


def _report(
    packs: Sequence[PackId], found: _Compared, *, error: SummaryError | None = None, exit_code: int = 0
) -> Report:
    return Report(
        checked=found.checked,
        packs=len(packs),
        differences=found.differences,
        gone=frozenset(found.gone),
        error=error,
        error_exit_code=exit_code if error is not None else 0,
    )
