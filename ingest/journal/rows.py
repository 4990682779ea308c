"""Records as rows of the table `jobs`, and back.

Knows the columns and nothing of when a row is written.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from itertools import compress
from operator import attrgetter, ne
from typing import TYPE_CHECKING, Any, Final, NamedTuple, overload

from msgspec.structs import astuple

from ingest.journal.records import Record
from ingest.model import FileStamp, Locator
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "COLUMNS",
    "IS_NOT_ADDED",
    "IS_SETTLED",
    "IS_UNSETTLED",
    "decoded",
    "encoded",
    "insert",
    "plain",
    "record_of",
    "update",
]


class _Column(NamedTuple):
    """One column of `jobs`: the field of a record that it holds, or holds a part of, and what is stored for it."""

    name: str
    field: str
    value: Callable[[Record], Any]


def _as_is(*fields: str) -> Iterator[_Column]:
    return (_Column(field, field, attrgetter(field)) for field in fields)


_TABLE: Final = (
    *_as_is("job_id", "pack_id"),
    _Column("key", "key", lambda record: encoded(record.key)),
    *_as_is("revision", "admitted_at"),
    _Column("locator", "locator", lambda record: encoded(record.locator)),
    _Column("file_name", "file_name", lambda record: encoded(record.file_name)),
    _Column("state", "state", lambda record: record.state.value),
    *_as_is("run_id"),
    _Column("size_bytes", "stamp", lambda record: record.stamp.size_bytes if record.stamp else None),
    _Column("mtime_ns", "stamp", lambda record: record.stamp.mtime_ns if record.stamp else None),
    *_as_is("fingerprint", "content_type", "url", "answered_url", "image_id", "attempts", "deaths"),
    _Column("is_alone", "is_alone", lambda record: int(record.is_alone)),
    *_as_is("adds_sent"),
    _Column("audit_is_open", "audit_is_open", lambda record: int(record.audit_is_open)),
    _Column("reason", "reason", lambda record: plain(record.reason)),
    _Column("detail", "detail", lambda record: plain(record.detail)),
    *_as_is("settled_at"),
    _Column("condemned", "condemned", lambda record: json.dumps(record.condemned) if record.condemned else None),
)
# An exact `int` or `str` in place of a subclass (`bool`, an enum), for which sqlite3 looks for an adapter: 2 µs each.

_FIELDS: Final = Record.__struct_fields__

COLUMNS: Final = ", ".join(column.name for column in _TABLE)
"""The columns of `jobs` that `record_of` reads, in their order."""

IS_UNSETTLED: Final = "state IN ('pending', 'claimed', 'stored', 'parked')"
IS_SETTLED: Final = "state IN ('added', 'duplicate', 'rejected', 'failed')"
IS_NOT_ADDED: Final = "state IN ('rejected', 'failed')"
"""The conditions of the indexes `jobs_unsettled`, `jobs_settled` and `jobs_not_added`, to the letter: SQLite uses a
partial index only where a query says the same (https://www.sqlite.org/partialindex.html)."""

_INSERT: Final = f"INSERT INTO jobs (target_id, {COLUMNS}) VALUES (?{', ?' * len(_TABLE)})"  # noqa: S608

_STATES: Final = {state.value: state for state in State}
# `State(value)` takes thirty times as long as looking it up (0.9 µs).


def record_of(row: Sequence[Any]) -> Record:
    """A row of `COLUMNS` as a record."""
    return Record(
        job_id=row[0],
        pack_id=row[1],
        key=decoded(row[2]),
        revision=row[3],
        admitted_at=row[4],
        locator=Locator(decoded(row[5])),
        file_name=decoded(row[6]),
        state=_STATES[row[7]],
        run_id=row[8],
        stamp=None if row[9] is None else FileStamp(size_bytes=row[9], mtime_ns=row[10]),
        fingerprint=row[11],
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


def insert(connection: sqlite3.Connection, target_id: int, records: Iterable[Record]) -> None:
    """Write jobs that no row holds yet, under their own numbers."""
    connection.executemany(_INSERT, [(target_id, *[column.value(record) for column in _TABLE]) for record in records])


def update(connection: sqlite3.Connection, before: Record, after: Record) -> None:
    """Write what differs between two states of one job. `ValueError` where its url is another job's."""
    changed = tuple(compress(_FIELDS, map(ne, astuple(before), astuple(after))))
    if not changed:
        return
    statement, columns = _update_of(changed)
    try:
        connection.execute(statement, [*[column.value(after) for column in columns], after.job_id])
    except sqlite3.IntegrityError as error:
        raise ValueError(f"the url of job {after.job_id} belongs to another job") from error


@functools.cache  # as many entries as there are kinds of change
def _update_of(changed: tuple[str, ...]) -> tuple[str, tuple[_Column, ...]]:
    # What never changes of a job is left out, which spares the indexes that it is in.
    columns = tuple(column for column in _TABLE if column.field in changed)
    settings = ", ".join(f"{column.name} = ?" for column in columns)
    return f"UPDATE jobs SET {settings} WHERE job_id = ?", columns  # noqa: S608


def encoded(text: str) -> bytes:
    """A key, locator or name as its column holds it: any bytes that a file system gave come back as they were."""
    return text.encode("utf-8", "surrogateescape")


def decoded(stored: bytes) -> str:
    """What `encoded` stored."""
    return stored.decode("utf-8", "surrogateescape")


@overload
def plain(text: str) -> str: ...
@overload
def plain(text: None) -> None: ...
@overload
def plain(text: str | None) -> str | None: ...
def plain(text: str | None) -> str | None:
    """What is told to people as a text column can hold it: it may quote such a name."""
    return text if text is None or text.isascii() else text.encode("utf-8", "backslashreplace").decode()
