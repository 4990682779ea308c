"""Opens the sandbox's database and keeps its schema: one code path for a folder and for memory.

Holds no packs and no files itself: `packs` and `files` do, on the connection that is opened here.

Every change is one transaction, committed on the event loop: with WAL and `synchronous=NORMAL` a commit is a write to
the page cache (some 20 µs), which a SIGKILL of the sandbox can't take back. Only power loss could, and a sandbox
promises nothing about that.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["fold", "iso", "now_ms", "open_database", "storage_secret"]

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS packs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    search_text TEXT NOT NULL,
    is_public INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS images (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    pack_id TEXT NOT NULL REFERENCES packs(id) ON DELETE CASCADE,
    url TEXT NOT NULL,
    file_name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending',
    description TEXT,
    keywords TEXT NOT NULL DEFAULT '[]',
    search_text TEXT NOT NULL DEFAULT '',
    model TEXT,
    generated_at_ms INTEGER,
    error TEXT
);
CREATE INDEX IF NOT EXISTS images_in_order ON images (pack_id, created_at_ms, seq);
CREATE INDEX IF NOT EXISTS images_to_enrich ON images (created_at_ms, seq) WHERE status = 'pending';

CREATE VIEW IF NOT EXISTS pack_rows AS
SELECT id, scope, name, is_public, created_at_ms, (SELECT count(*) FROM images WHERE pack_id = packs.id) AS image_count
FROM packs;

CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL,
    object_key TEXT NOT NULL UNIQUE,
    url TEXT NOT NULL UNIQUE,
    content_type TEXT NOT NULL,
    filename TEXT,
    declared_size INTEGER,
    created_at_ms INTEGER NOT NULL,
    sha256 TEXT,
    stored_size INTEGER,
    puts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS files_in_order ON files (scope, seq);
"""


@contextmanager
def open_database(data: Path | None) -> Iterator[sqlite3.Connection]:
    """The connection, in autocommit mode; all of its use is on one thread. OSError when the folder can't be used."""
    path = ":memory:" if data is None else str(data / "sandbox.db")
    try:
        connection = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error
    with closing(connection):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise OSError(f"{path}: {error}") from error
        yield connection


def storage_secret(connection: sqlite3.Connection) -> bytes:
    """What upload URLs are signed with; kept, so that they outlive a restart."""
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('storage_secret', ?)", (secrets.token_hex(32),))
    (value,) = connection.execute("SELECT value FROM meta WHERE name = 'storage_secret'").fetchone()
    return bytes.fromhex(value)


def now_ms() -> int:
    """The wall clock, as it is stored."""
    return time.time_ns() // 1_000_000


def iso(at_ms: int) -> str:
    """ISO 8601, UTC, with milliseconds and `Z`."""
    text = datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{at_ms % 1000:03d}Z"


def fold(text: str) -> str:
    """The text without its case, for partial matches: SQLite's own know ASCII only."""
    return text.casefold()
