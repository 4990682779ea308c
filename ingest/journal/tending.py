"""Reading a SQLite journal, and changing it by hand, outside a run.

`SqliteReader` takes no lock and may work beside a run; `SqliteEditor` takes the writer's. Both block: they serve
commands, not the pipeline.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from ingest.journal import refusals, rules
from ingest.journal.database import connect_readonly, transaction, translating
from ingest.journal.opening import opened
from ingest.journal.records import PackRecord, RunRecord, Selection
from ingest.journal.rows import COLUMNS, IS_NOT_ADDED, IS_SETTLED, IS_UNSETTLED, record_of, update
from ingest.model import JobId, PackId, RunId, Summary
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ingest.journal.records import Record, Refusal
    from ingest.model import Target

__all__ = ["SqliteEditor", "SqliteReader"]

UNSENT: Final = frozenset({State.PENDING, State.CLAIMED})
SENT: Final = frozenset({State.STORED, State.PARKED})
RETRIED: Final = frozenset({State.FAILED, State.REJECTED})

BATCH: Final = 500
# Records in memory at once while many are changed in one transaction.


class SqliteReader:
    """See `journal.base.JournalReader`. `target` None reads the jobs of every target."""

    def __init__(self, connection: sqlite3.Connection, target: Target | None) -> None:
        self._connection = connection
        self._target = target

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, target: Target | None) -> Iterator[SqliteReader]:
        """Open the journal for reading. Raises `UsageError` where there is none, or it can't be read, then or later."""
        with contextlib.closing(connect_readonly(path)) as connection, translating(path):
            yield cls(connection, target)

    def packs(self) -> Sequence[PackRecord]:
        """See `JournalReader.packs`."""
        where, parameters = _where(self._target, Selection())
        states: dict[PackId, dict[State, int]] = {}
        # An index for each part; in one statement, so that a job which is settled meanwhile is counted once.
        statement = " UNION ALL ".join(
            f"SELECT pack_id, state, count(*) FROM jobs INDEXED BY {index} "  # noqa: S608
            f"WHERE {where} AND {part} GROUP BY pack_id, state"
            for index, part in (("jobs_settled", IS_SETTLED), ("jobs_unsettled", IS_UNSETTLED))
        )
        for pack_id, state, count in self._connection.execute(statement, parameters * 2):
            states.setdefault(PackId(pack_id), {})[State(state)] = count
        return [PackRecord(pack_id=pack_id, states=counts) for pack_id, counts in states.items()]

    def records(self, selection: Selection) -> Iterator[Record]:
        """See `JournalReader.records`."""
        where, parameters = _where(self._target, selection)
        rows = self._connection.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE {where} ORDER BY job_id",  # noqa: S608
            parameters,
        )
        return map(record_of, rows)

    def runs(self, limit: int) -> Sequence[RunRecord]:
        """See `JournalReader.runs`."""
        rows = self._connection.execute(
            "SELECT run_id, started_at, ended_at, pid, summary FROM runs ORDER BY started_at DESC LIMIT ?", [limit]
        )
        return [
            RunRecord(
                run_id=RunId(run_id),
                started_at=started_at,
                ended_at=ended_at,
                pid=pid,
                summary=None if summary is None else msgspec.json.decode(summary, type=Summary),
            )
            for run_id, started_at, ended_at, pid, summary in rows
        ]

    def oldest_pending(self) -> float | None:
        """See `JournalReader.oldest_pending`."""
        where, parameters = _where(self._target, Selection(states=UNSENT | SENT))
        # The lowest number is the oldest, and the short index of unsettled jobs has it.
        row = self._connection.execute(
            f"SELECT admitted_at FROM jobs WHERE {where} ORDER BY job_id LIMIT 1",  # noqa: S608
            parameters,
        ).fetchone()
        return None if row is None else float(row[0])

    def refusals(self, reason: str | None) -> Iterator[Refusal]:
        """See `JournalReader.refusals`."""
        return refusals.stored(self._connection, self._target, reason)


class SqliteEditor:
    """See `journal.base.JournalEditor`. Made by `open`, which holds the writer's lock."""

    def __init__(self, connection: sqlite3.Connection, target: Target | None) -> None:
        self._connection = connection
        self._target = target

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, target: Target | None) -> Iterator[SqliteEditor]:
        """Open an existing journal for changes; `JournalInUse` beside a run, `UsageError` where there is none.

        A change that the disk refuses raises `MachineError`, and nothing of it is kept.
        """
        connect_readonly(path).close()
        with opened(path) as files:
            yield cls(files.connection, target)

    def retry(self, selection: Selection) -> int:
        """See `JournalEditor.retry`."""
        states = frozenset({State.FAILED}) if selection.states is None else selection.states & RETRIED
        where, parameters = _where(self._target, replace(selection, states=states))
        statement = f"SELECT {COLUMNS} FROM jobs WHERE {where} AND job_id > ? ORDER BY job_id LIMIT {BATCH}"  # noqa: S608
        count, after = 0, JobId(0)
        with transaction(self._connection):
            while chosen := [record_of(row) for row in self._connection.execute(statement, [*parameters, after])]:
                for record in chosen:
                    update(self._connection, record, rules.retry(record))
                count, after = count + len(chosen), chosen[-1].job_id
        return count

    def forget(self, selection: Selection) -> tuple[int, int]:
        """See `JournalEditor.forget`."""
        states = UNSENT | SENT if selection.states is None else selection.states
        with transaction(self._connection):
            where, parameters = _where(self._target, replace(selection, states=states & SENT))
            kept = self._connection.execute(f"SELECT count(*) FROM jobs WHERE {where}", parameters).fetchone()[0]  # noqa: S608
            where, parameters = _where(self._target, replace(selection, states=states & UNSENT))
            gone = self._connection.execute(f"DELETE FROM jobs WHERE {where}", parameters).rowcount  # noqa: S608
        return gone, int(kept)


def _where(target: Target | None, selection: Selection) -> tuple[str, list[str]]:
    """A condition on `jobs`, with its parameters."""
    clauses, parameters = ["1"], list[str]()
    if target is not None:
        clauses.append("target_id = (SELECT target_id FROM targets WHERE base_url = ?)")
        parameters.append(target)
    if selection.states is not None:
        clauses.append(f"state IN ({', '.join(repr(state.value) for state in sorted(selection.states))})")
        if selection.states <= UNSENT | SENT:
            clauses.append(IS_UNSETTLED)
        elif selection.states <= RETRIED:
            clauses.append(IS_NOT_ADDED)
    if selection.reason is not None:
        clauses.append("reason = ?")
        parameters.append(selection.reason)
    if selection.pack_id is not None:
        clauses.append("pack_id = ?")
        parameters.append(selection.pack_id)
    return " AND ".join(clauses), parameters
