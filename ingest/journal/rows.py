"""Records as rows of the table `jobs`, and back.

Knows the columns and nothing of when a row is written.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from ingest.journal.records import Record
from ingest.model import FileStamp, Fingerprint, JobId, Locator, PackId, RunId
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COLUMNS", "IS_NOT_ADDED", "IS_SETTLED", "IS_UNSETTLED", "encoded", "insert", "record_of", "update"]

_IDENTITY: Final = ("job_id", "pack_id", "key", "revision", "admitted_at")
"""What never changes of a job; leaving it out of an update spares the indexes that it is in."""

_NAMES: Final = (
    *_IDENTITY,
    *("locator", "file_name", "state", "run_id", "size_bytes", "mtime_ns", "fingerprint", "content_type", "url"),
    *("answered_url", "image_id", "attempts", "deaths", "is_alone", "adds_sent", "audit_is_open", "reason", "detail"),
    *("settled_at", "condemned"),
)

COLUMNS: Final = ", ".join(_NAMES)
"""The columns of `jobs` that `record_of` reads, in their order."""

IS_UNSETTLED: Final = "state IN ('pending', 'claimed', 'stored', 'parked')"
IS_SETTLED: Final = "state IN ('added', 'duplicate', 'rejected', 'failed')"
IS_NOT_ADDED: Final = "state IN ('rejected', 'failed')"
"""The conditions of the indexes `jobs_unsettled`, `jobs_settled` and `jobs_not_added`, to the letter: SQLite uses a
partial index only where a query says the same (https://www.sqlite.org/partialindex.html)."""

_INSERT: Final = f"INSERT INTO jobs (target_id, {', '.join(_NAMES[1:])}) VALUES (?{', ?' * (len(_NAMES) - 1)})"  # noqa: S608


def record_of(row: Sequence[Any]) -> Record:
    """A row of `COLUMNS` as a record."""
    return Record(
        job_id=JobId(row[0]),
        pack_id=PackId(row[1]),
        key=_decoded(row[2]),
        revision=row[3],
        admitted_at=row[4],
        locator=Locator(_decoded(row[5])),
        file_name=_decoded(row[6]),
        state=State(row[7]),
        run_id=RunId(row[8]),
        stamp=None if row[9] is None else FileStamp(size_bytes=row[9], mtime_ns=row[10]),
        fingerprint=None if row[11] is None else Fingerprint(row[11]),
        content_type=row[12],
        url=row[13],
        answered_url=row[14],
        image_id=row[15],
        attempts=row[16],
        deaths=row[17],
        is_alone=bool(row[18]),
        adds_sent=row[19],
        audit_is_open=bool(row[20]),
        reason=row[21],
        detail=row[22],
        settled_at=row[23],
        condemned=() if row[24] is None else tuple(json.loads(row[24])),
    )


def insert(connection: sqlite3.Connection, target_id: int, record: Record) -> JobId:
    """Write a job that no row holds yet; its number."""
    return JobId(connection.execute(_INSERT, (target_id, *_values_of(record)[1:])).lastrowid or 0)


def update(connection: sqlite3.Connection, before: Record, after: Record) -> None:
    """Write what differs between two states of one job. `ValueError` where its url is another job's."""
    old, new = _values_of(before), _values_of(after)
    changed = tuple(i for i in range(len(_IDENTITY), len(new)) if new[i] != old[i])
    if not changed:
        return
    try:
        connection.execute(_update_of(changed), (*[new[i] for i in changed], after.job_id))
    except sqlite3.IntegrityError as error:
        raise ValueError(f"the url of job {after.job_id} belongs to another job") from error


@functools.cache  # as many entries as there are kinds of change
def _update_of(changed: tuple[int, ...]) -> str:
    return f"UPDATE jobs SET {', '.join(f'{_NAMES[i]} = ?' for i in changed)} WHERE job_id = ?"  # noqa: S608


def encoded(text: str) -> bytes:
    """A key, locator or name as its column holds it: any bytes that a file system gave come back as they were."""
    return text.encode("utf-8", "surrogateescape")


def _decoded(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogateescape")


def _plain(text: str | None) -> str | None:
    # What is told to people may quote such a name; a text column can't hold it.
    return text if text is None or text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _values_of(record: Record) -> tuple[Any, ...]:
    stamp = record.stamp
    return (
        record.job_id,
        record.pack_id,
        encoded(record.key),
        record.revision,
        record.admitted_at,
        encoded(record.locator),
        encoded(record.file_name),
        record.state.value,
        record.run_id,
        stamp.size_bytes if stamp else None,
        stamp.mtime_ns if stamp else None,
        record.fingerprint,
        record.content_type,
        record.url,
        record.answered_url,
        record.image_id,
        record.attempts,
        record.deaths,
        record.is_alone,
        record.adds_sent,
        record.audit_is_open,
        _plain(record.reason),
        _plain(record.detail),
        record.settled_at,
        json.dumps(record.condemned) if record.condemned else None,
    )
