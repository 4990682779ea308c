"""The journal in this process's memory: the same rules, forgotten at the end.

For a library's caller who wants no file, and for tests. Nothing survives the process, so a second run adds again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ingest.journal import rules
from ingest.journal.records import Claimed, Opening, Refusal
from ingest.model import FileStamp, JobId, RunId
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence, Set

    from ingest.journal.changes import Change
    from ingest.journal.records import Admission, Candidate, Record
    from ingest.model import Fingerprint, PackId, Stretch, Summary

__all__ = ["MemoryJournal"]


class MemoryJournal:
    """See `journal.base`: `Journal` and what else a run or a mender asks. A second `begin` is a start after a crash."""

    def __init__(self) -> None:
        self._records: dict[JobId, Record] = {}
        self._latest: dict[tuple[PackId, str], JobId] = {}
        self._equals: dict[tuple[PackId, Fingerprint], set[JobId]] = {}
        self._urls: set[str | None] = set()
        self._key_id = ""
        self._packs: dict[PackId, str] = {}  # with the key that last saw them
        self._run_id = RunId("")
        self._refusals: dict[tuple[str, str], Refusal] = {}

    async def begin(self, run_id: RunId, *, key_id: str, pid: int) -> Opening:
        """See `Journal.begin`."""
        self._run_id, self._key_id = run_id, key_id
        for record in self._in({State.CLAIMED, State.STORED}):
            self._put(rules.recover(record, now=time.time()))
        return Opening(
            parked=self._in({State.PARKED}),
            audits=[record for record in self._records.values() if record.audit_is_open],
            packs=await self.packs(),
        )

    async def admit(self, run_id: RunId, candidates: Sequence[Candidate]) -> Sequence[Admission]:
        """See `Journal.admit`."""
        for candidate in candidates:
            self._reach(candidate.pack_id, candidate.key_id)
        return [self._admit_one(run_id, candidate) for candidate in candidates]

    async def unchanged(
        self, pack_id: PackId, stretches: Sequence[Stretch], *, key_id: str | None = None
    ) -> Sequence[Set[str]]:
        """See `JournalRecall.unchanged`."""
        known = [
            {name for name in stretch.stamps if self._is_unchanged(pack_id, stretch, name)} for stretch in stretches
        ]
        if any(known):
            self._reach(pack_id, key_id)
        return known

    async def resume(self, run_id: RunId, *, after: JobId, limit: int) -> Sequence[Record]:
        """See `Journal.resume`."""
        pending = [record for record in self._in({State.PENDING}) if record.job_id > after]
        return [self._put(rules.claim(record, run_id)) for record in pending[:limit]]

    async def find_equal(self, record: Record, fingerprint: Fingerprint) -> Record | None:
        """See `Journal.find_equal`."""
        others = [
            self._records[job_id]
            for job_id in sorted(self._equals.get((record.pack_id, fingerprint), ()))
            if job_id != record.job_id and self._records[job_id].fingerprint == fingerprint
        ]
        added = (other for other in others if other.state is State.ADDED)
        open_ = (other for other in others if other.state in {State.STORED, State.PARKED})
        return next(added, None) or next(open_, None)

    def submit(self, change: Change) -> asyncio.Future[Record]:
        """See `Journal.submit`."""
        return self._done(lambda: self._apply(change))

    async def end(self, run_id: RunId, summary: Summary) -> None:
        """See `Journal.end`."""
        for record in self._in({State.CLAIMED}):
            self._put(rules.put_back(record))

    async def refuse(self, refusals: Sequence[Refusal]) -> Sequence[bool]:
        """See `JournalRefusals.refuse`."""
        return [self._refuse(refusal) for refusal in refusals]

    async def mended(self, run_id: RunId, source: str, *, retells: Callable[[str], bool]) -> int:
        """See `JournalRefusals.mended`."""
        gone = [
            name
            for name, refusal in self._refusals.items()
            if refusal.source == source and refusal.run_id != run_id and retells(refusal.place)
        ]
        for name in gone:
            del self._refusals[name]
        return len(gone)

    async def packs(self) -> Mapping[PackId, str]:
        """See `JournalMender.packs`."""
        return dict(reversed(self._packs.items()))

    async def page(self, pack_id: PackId, state: State, *, after: JobId, limit: int) -> Sequence[Record]:
        """See `JournalMender.page`."""
        wanted = (record for record in self._in({state}) if record.pack_id == pack_id and record.urls)
        return [record for record in wanted if record.job_id > after][:limit]

    def _apply(self, change: Change) -> Record:
        record = rules.apply(self._records[change.job_id], change, now=time.time(), run_id=self._run_id)
        if rules.reaches_pack(change):
            self._reach(record.pack_id, change.key_id)
        return self._put(record)

    def _refuse(self, refusal: Refusal) -> bool:
        name = refusal.source, refusal.place
        before = self._refusals.get(name)
        self._refusals[name] = refusal
        return before is None or before.reason != refusal.reason

    def _is_unchanged(self, pack_id: PackId, stretch: Stretch, name: str) -> bool:
        number = self._latest.get((pack_id, stretch.directory + name))
        if number is None:
            return False
        latest = self._records[number]
        return latest.state in {State.ADDED, State.DUPLICATE} and latest.stamp == _stamp_of(stretch, name)

    def _reach(self, pack_id: PackId, key_id: str | None) -> None:
        key_id = self._key_id if key_id is None else key_id
        before = self._packs.setdefault(pack_id, key_id)
        if before != key_id:  # of one scope: what that one saw, this one sees
            self._packs = {known: key_id if by == before else by for known, by in self._packs.items()}

    def _admit_one(self, run_id: RunId, candidate: Candidate) -> Admission:
        number = self._latest.get((candidate.pack_id, candidate.key))
        latest = None if number is None else self._records[number]
        admission = rules.admit(latest, candidate, run_id=run_id, now=time.time())
        if admission.record.job_id == rules.UNNUMBERED:
            record = self._put(replace(admission.record, job_id=JobId(len(self._records) + 1)))
            self._latest[record.pack_id, record.key] = record.job_id
            return Claimed(record=record)
        self._put(admission.record)
        return admission

    def _put(self, record: Record) -> Record:
        before = self._records.get(record.job_id)
        url_before = before.url if before else None
        if record.url != url_before:
            if record.url in self._urls:
                raise ValueError(f"the url of job {record.job_id} belongs to another job")
            self._urls -= {url_before}
            self._urls |= {record.url} - {None}
        if record.fingerprint is not None and (before is None or before.fingerprint != record.fingerprint):
            self._equals.setdefault((record.pack_id, record.fingerprint), set()).add(record.job_id)
        self._records[record.job_id] = record
        return record

    def _in(self, states: set[State]) -> list[Record]:
        return self._sorted(record for record in self._records.values() if record.state in states)

    @staticmethod
    def _sorted(records: Iterable[Record]) -> list[Record]:
        return sorted(records, key=lambda record: record.job_id)

    @staticmethod
    def _done(work: Callable[[], Record]) -> asyncio.Future[Record]:
        future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
            future.exception()
        return future


def _stamp_of(stretch: Stretch, name: str) -> FileStamp:
    size_bytes, mtime_ns = stretch.stamps[name]
    return FileStamp(size_bytes=size_bytes, mtime_ns=mtime_ns)
