"""A journal of very many jobs, made in the program's own schema in seconds, as if earlier runs had written it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from typing import TYPE_CHECKING, Final

from ingest.assemble import target_of
from ingest.journal.database import connect, transaction
from ingest.policy.lifecycle import State
from tests.benchmarks.server import PACK

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["write_journal"]

COLUMNS: Final = (
    *("target_id", "pack_id", "key", "revision", "locator", "file_name", "state", "admitted_at", "run_id"),
    *("size_bytes", "mtime_ns", "fingerprint", "content_type", "url", "image_id", "adds_sent", "settled_at"),
)

BATCH: Final = 20_000


def write_journal(path: Path, base_url: str, files: Iterable[tuple[str, int, int]], *, state: State) -> None:
    """Each of `files` (path, size, mtime in ns) as a job in `state`, which is `ADDED` or `PENDING`."""
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA synchronous=OFF")  # of this connection alone
        connection.execute("INSERT INTO targets (target_id, base_url) VALUES (1, ?)", [target_of(base_url)])
        connection.execute("INSERT INTO packs VALUES (1, ?, 'bench')", [PACK])
        connection.execute(
            "INSERT INTO runs VALUES ('20260101-000000-0000', 1, ?, ?, 1, NULL)", [time.time(), time.time()]
        )
        rows = _rows(files, state)
        while batch := list(itertools.islice(rows, BATCH)):
            with transaction(connection):
                _insert(connection, batch)


def _insert(connection: sqlite3.Connection, batch: list[tuple[object, ...]]) -> None:
    places = ", ".join("?" * len(COLUMNS))
    connection.executemany(f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({places})", batch)


def _rows(files: Iterable[tuple[str, int, int]], state: State) -> Iterator[tuple[object, ...]]:
    now = time.time()
    for number, (path, size_bytes, mtime_ns) in enumerate(files):
        key, name = path.encode(), path.rpartition("/")[2].encode()
        row = (1, PACK, key, 1, key, name, state.value, now, "20260101-000000-0000", size_bytes, mtime_ns)
        if state is State.ADDED:
            fingerprint = hashlib.sha256(key).digest()
            url = (
                f"https://cdn.example.com/partner-api/workspaces/33333333-3333-3333-3333-333333333333/{number:032x}.jpg"
            )
            yield (*row, fingerprint, "image/jpeg", url, f"{number:08x}-1111-1111-1111-111111111111", 1, now)
        else:
            yield (*row, None, None, None, None, 0, None)
