"""What this process wrote last of the jobs in hand and of the packs, so that it is not read back.

True because the writer's lock keeps every other ingest from the file; what a rollback took back is forgotten by
`forget`.
Remembers nothing of jobs that wait or have ended, and decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ingest.journal.rows import COLUMNS, insert, record_of, update
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from ingest.journal.records import Record
    from ingest.model import JobId, PackId

__all__ = ["Held"]

MAX_HELD: Final = 16_384
# More than a run has in hand (`max_open_jobs`); past it all is forgotten and read back, which costs 10 µs a job.

IN_HAND: Final = frozenset({State.CLAIMED, State.STORED})

_BY_ID: Final = f"SELECT {COLUMNS} FROM jobs WHERE job_id = ?"  # noqa: S608
_SEEN_BY: Final = "SELECT key_id FROM packs WHERE target_id = ? AND pack_id = ?"
_FIRST_SEEN: Final = "INSERT INTO packs (target_id, pack_id, key_id) VALUES (?, ?, ?)"
_SEEN_BY_ANOTHER: Final = "UPDATE packs SET key_id = ? WHERE target_id = ? AND key_id = ?"


class Held:
    """Reads and writes of one target that go by a number or a name; used in the writer thread alone.

    Every write of a job goes through here, or this would give back what is no longer true.
    """

    def __init__(self) -> None:
        self._records: dict[JobId, Record] = {}
        self._reached: set[tuple[PackId, str]] = set()

    def forget(self) -> None:
        """What was written since may not be in the file."""
        self._records.clear()
        self._reached.clear()

    def record(self, connection: sqlite3.Connection, job_id: JobId) -> Record:
        """The job as it is; `KeyError` where there is none."""
        held = self._records.get(job_id)
        if held is not None:
            return held
        row = connection.execute(_BY_ID, (job_id,)).fetchone()
        if row is None:
            raise KeyError(job_id)
        return record_of(row)

    def insert(self, connection: sqlite3.Connection, target_id: int, records: Sequence[Record]) -> None:
        """See `rows.insert`."""
        insert(connection, target_id, records)
        for record in records:
            self._hold(record)

    def update(self, connection: sqlite3.Connection, before: Record, after: Record) -> Record:
        """See `rows.update`; the job as it then is."""
        update(connection, before, after)
        self._hold(after)
        return after

    def _hold(self, record: Record) -> None:
        if record.state not in IN_HAND:
            self._records.pop(record.job_id, None)
            return
        if len(self._records) >= MAX_HELD:
            self._records.clear()
        self._records[record.job_id] = record

    def reach(self, connection: sqlite3.Connection, target_id: int, pack_id: PackId, key_id: str) -> None:
        """The key sees the pack. Where another key did, they are of one scope: it sees what that one saw."""
        if (pack_id, key_id) in self._reached:
            return
        row = connection.execute(_SEEN_BY, (target_id, pack_id)).fetchone()
        if row is None:
            connection.execute(_FIRST_SEEN, (target_id, pack_id, key_id))
        elif row[0] != key_id:
            connection.execute(_SEEN_BY_ANOTHER, (key_id, target_id, row[0]))
            self._reached.clear()  # the other key is the latest of none of them any more
        if len(self._reached) >= MAX_HELD:
            self._reached.clear()
        self._reached.add((pack_id, key_id))
