"""The journal in one SQLite file: WAL, `synchronous=FULL`, one writer thread, group commit.

What commands read and change by hand is in `tending`; how a record changes, in `rules`.
"""

from __future__ import annotations

import contextlib
import functools
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from ingest.journal import refusals, rules
from ingest.journal.commit import GroupCommit
from ingest.journal.database import translated
from ingest.journal.held import Held
from ingest.journal.lock import make_directory
from ingest.journal.opening import OpenFiles, opened
from ingest.journal.recall import unchanged
from ingest.journal.records import Claimed, Opening
from ingest.journal.rows import COLUMNS, IS_SETTLED, IS_UNSETTLED, encoded, record_of
from ingest.model import JobId, PackId, RunId
from ingest.policy.lifecycle import OUTCOMES, State

if TYPE_CHECKING:
    import asyncio
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence, Set
    from pathlib import Path

    from ingest.journal.changes import Change
    from ingest.journal.records import Admission, Candidate, Record, Refusal
    from ingest.model import Fingerprint, Stretch, Summary, Target

__all__ = ["SqliteJournal"]

_EQUALS: Final = (
    f"SELECT {COLUMNS} FROM jobs WHERE target_id = ? AND pack_id = ? AND fingerprint = ? AND job_id <> ? "  # noqa: S608
    "AND state IN ('added', 'stored', 'parked') ORDER BY state = 'added' DESC, job_id LIMIT 1"
)
_PENDING: Final = (
    f"SELECT {COLUMNS} FROM jobs WHERE {IS_UNSETTLED} AND state = 'pending' "  # noqa: S608
    "AND target_id = ? AND job_id > ? "
    "ORDER BY job_id LIMIT ?"
)
_IN_STATE: Final = (
    f"SELECT {COLUMNS} FROM jobs WHERE {IS_UNSETTLED} AND target_id = ? AND state = ? "  # noqa: S608
    "ORDER BY job_id"
)
_LAST_NUMBER: Final = "SELECT ifnull(max(job_id), 0) FROM jobs"
_PACKS: Final = "SELECT pack_id, key_id FROM packs WHERE target_id = ? ORDER BY rowid DESC"
_PAGES: Final = {
    is_settled: (
        f"SELECT {COLUMNS} FROM jobs INDEXED BY {index} "  # noqa: S608
        f"WHERE target_id = ? AND pack_id = ? AND state = ? AND {part} AND (url IS NOT NULL OR adds_sent > 0) "
        "AND job_id > ? ORDER BY job_id LIMIT ?"
    )
    for is_settled, index, part in ((True, "jobs_settled", IS_SETTLED), (False, "jobs_unsettled", IS_UNSETTLED))
}
# Each index has the jobs of one state by number, so that a page costs what it holds.
_AUDITS: Final = f"SELECT {COLUMNS} FROM jobs WHERE target_id = ? AND audit_is_open = 1 ORDER BY job_id"  # noqa: S608


LOOKUP: Final = 64
# Jobs that one statement asks for: a known one costs 14 µs one by one, 9 so, and no less with more of them.


def _latest_of(target_id: int, pack_id: PackId, keys: Sequence[bytes]) -> tuple[Any, ...]:
    """A statement and its parameters: the latest revision of each key."""
    # Filled up to a power of two with what equals nothing, so that a few statements serve every number of keys.
    count = 1 << (len(keys) - 1).bit_length()
    return _latest_among(count), target_id, pack_id, *keys, *[None] * (count - len(keys))


@functools.cache
def _latest_among(count: int) -> str:
    # Beside `max` the other columns are those of its row (https://www.sqlite.org/lang_select.html#bareagg).
    return (
        f"SELECT {COLUMNS}, max(revision) FROM jobs "  # noqa: S608
        f"WHERE target_id = ? AND pack_id = ? AND key IN ({', '.join('?' * count)}) GROUP BY key"
    )


class SqliteJournal:
    """See `journal.base`: `Journal` and what else a run or a mender asks. Made by `open`; of one target and process."""

    def __init__(self, commits: GroupCommit, held: Held, target_id: int) -> None:
        self._commits = commits
        self._held = held  # touched in the writer thread alone
        self._target_id = target_id
        self._run_id = RunId("")
        self._key_id = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, path: Path, target: Target, *, on_commit: Callable[[float], None] = lambda _: None
    ) -> AsyncIterator[SqliteJournal]:
        """Open, lock and migrate the journal at `path`, made where there is none, and its directory with it.

        `on_commit` is called in the event loop with each commit's duration in seconds. Raises `JournalInUse`,
        `JournalNewer`, `JournalCorrupt`, `UsageError` and `MachineError`; the last also from every later call once the
        file was deleted or replaced.
        """
        held = Held()
        async with GroupCommit.running(
            lambda: _opened(path),
            on_commit=on_commit,
            on_rollback=held.forget,
            translate=lambda error: translated(error, path),
        ) as commits:
            target_id = await commits.submit(lambda connection: _target_id(connection, target))
            yield cls(commits, held, target_id)

    async def begin(self, run_id: RunId, *, key_id: str, pid: int) -> Opening:
        """See `Journal.begin`."""
        self._run_id, self._key_id = run_id, key_id

        def work(connection: sqlite3.Connection) -> Opening:
            for state in (State.CLAIMED, State.STORED):
                for record in self._select(connection, _IN_STATE, self._target_id, state.value):
                    self._held.update(connection, record, rules.recover(record, now=time.time()))
            connection.execute(
                "INSERT INTO runs (run_id, target_id, started_at, pid) VALUES (?, ?, ?, ?)",
                [run_id, self._target_id, time.time(), pid],
            )
            return Opening(
                parked=self._select(connection, _IN_STATE, self._target_id, State.PARKED.value),
                audits=self._select(connection, _AUDITS, self._target_id),
                packs=self._known_packs(connection),
            )

        return await self._commits.submit(work)

    async def admit(self, run_id: RunId, candidates: Sequence[Candidate]) -> Sequence[Admission]:
        """See `Journal.admit`."""

        def work(connection: sqlite3.Connection) -> list[Admission]:
            for pack_id, key_id in dict.fromkeys((candidate.pack_id, candidate.key_id) for candidate in candidates):
                self._reach(connection, pack_id, key_id)
            return self._admit(connection, run_id, candidates)

        return await self._commits.submit(work)

    async def unchanged(
        self, pack_id: PackId, stretches: Sequence[Stretch], *, key_id: str | None = None
    ) -> Sequence[Set[str]]:
        """See `JournalRecall.unchanged`."""

        def work(connection: sqlite3.Connection) -> list[set[str]]:
            known = [unchanged(connection, self._target_id, pack_id, stretch) for stretch in stretches]
            if any(known):
                self._reach(connection, pack_id, key_id)
            return known

        return await self._commits.submit(work)

    async def refuse(self, refused: Sequence[Refusal]) -> Sequence[bool]:
        """See `JournalRefusals.refuse`."""
        return await self._commits.submit(lambda connection: refusals.keep(connection, self._target_id, refused))

    async def mended(self, run_id: RunId, source: str, *, retells: Callable[[str], bool]) -> int:
        """See `JournalRefusals.mended`."""
        return await self._commits.submit(
            lambda connection: refusals.drop(connection, self._target_id, run_id, source, retells)
        )

    async def resume(self, run_id: RunId, *, after: JobId, limit: int) -> Sequence[Record]:
        """See `Journal.resume`."""

        def work(connection: sqlite3.Connection) -> list[Record]:
            pending = self._select(connection, _PENDING, self._target_id, after, limit)
            return [self._held.update(connection, record, rules.claim(record, run_id)) for record in pending]

        return await self._commits.submit(work)

    async def find_equal(self, record: Record, fingerprint: Fingerprint) -> Record | None:
        """See `Journal.find_equal`."""

        def work(connection: sqlite3.Connection) -> Record | None:
            found = self._select(connection, _EQUALS, self._target_id, record.pack_id, fingerprint, record.job_id)
            return found[0] if found else None

        return await self._commits.submit(work)

    def submit(self, change: Change) -> asyncio.Future[Record]:
        """See `Journal.submit`."""

        def work(connection: sqlite3.Connection) -> Record:
            before = self._held.record(connection, change.job_id)
            after = rules.apply(before, change, now=time.time(), run_id=self._run_id)
            self._held.update(connection, before, after)
            if rules.reaches_pack(change):
                self._reach(connection, after.pack_id, change.key_id)
            return after

        return self._commits.submit(work)

    async def end(self, run_id: RunId, summary: Summary) -> None:
        """See `Journal.end`."""

        def work(connection: sqlite3.Connection) -> None:
            for record in self._select(connection, _IN_STATE, self._target_id, State.CLAIMED.value):
                self._held.update(connection, record, rules.put_back(record))
            connection.execute(
                "UPDATE runs SET ended_at = ?, summary = ? WHERE run_id = ?",
                [time.time(), msgspec.json.encode(summary).decode(), run_id],
            )

        await self._commits.submit(work)

    async def packs(self) -> Mapping[PackId, str]:
        """See `JournalMender.packs`."""
        return await self._commits.submit(self._known_packs)

    async def page(self, pack_id: PackId, state: State, *, after: JobId, limit: int) -> Sequence[Record]:
        """See `JournalMender.page`."""
        statement = _PAGES[state in OUTCOMES]
        return await self._commits.submit(
            lambda connection: self._select(connection, statement, self._target_id, pack_id, state.value, after, limit)
        )

    def _reach(self, connection: sqlite3.Connection, pack_id: PackId, key_id: str | None) -> None:
        self._held.reach(connection, self._target_id, pack_id, self._key_id if key_id is None else key_id)

    def _known_packs(self, connection: sqlite3.Connection) -> Mapping[PackId, str]:
        return {PackId(pack_id): key_id for pack_id, key_id in connection.execute(_PACKS, [self._target_id])}

    def _admit(self, connection: sqlite3.Connection, run_id: RunId, candidates: Sequence[Candidate]) -> list[Admission]:
        latest = self._latest(connection, candidates)
        (last,) = connection.execute(_LAST_NUMBER).fetchone()
        admissions: list[Admission] = []
        inserted: list[Record] = []
        updated: list[tuple[Record, Record]] = []
        for candidate in candidates:
            name = candidate.pack_id, candidate.key
            before = latest.get(name)
            admission = rules.admit(before, candidate, run_id=run_id, now=time.time())
            if admission.record.job_id == rules.UNNUMBERED:
                admission = Claimed(record=replace(admission.record, job_id=JobId(last + 1 + len(inserted))))
                inserted.append(admission.record)
            elif before is not None and admission.record is not before:
                updated.append((before, admission.record))
            latest[name] = admission.record
            admissions.append(admission)
        self._held.insert(connection, self._target_id, inserted)
        for before, after in updated:
            self._held.update(connection, before, after)
        return admissions

    def _latest(
        self, connection: sqlite3.Connection, candidates: Sequence[Candidate]
    ) -> dict[tuple[PackId, str], Record]:
        """The latest revision of each job that is there already."""
        keys: dict[PackId, list[bytes]] = {}
        for candidate in candidates:
            keys.setdefault(candidate.pack_id, []).append(encoded(candidate.key))
        found = [
            record
            for pack_id, named in keys.items()
            for start in range(0, len(named), LOOKUP)
            for record in self._select(connection, *_latest_of(self._target_id, pack_id, named[start : start + LOOKUP]))
        ]
        return {(record.pack_id, record.key): record for record in found}

    @staticmethod
    def _select(connection: sqlite3.Connection, statement: str, *parameters: Any) -> list[Record]:
        return [record_of(row) for row in connection.execute(statement, parameters)]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[OpenFiles]:
    # The writer thread holds the lock, so that nobody else gets it before this thread's last commit.
    make_directory(path.parent)
    with opened(path) as files:
        yield files


def _target_id(connection: sqlite3.Connection, target: Target) -> int:
    connection.execute("INSERT INTO targets (base_url) VALUES (?) ON CONFLICT DO NOTHING", [target])
    return int(connection.execute("SELECT target_id FROM targets WHERE base_url = ?", [target]).fetchone()[0])
