"""Which ids the rows of one manifest have used so far, in flat memory: what is too much goes to a temporary file.

Compares and remembers; what becomes of a row whose id is taken is not decided here.
"""

from __future__ import annotations

import sqlite3
import tempfile
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from ingest.errors import MachineError

if TYPE_CHECKING:
    from ingest.model import Job

__all__ = ["Ids"]

_DIGEST_BYTES: Final = 16
# So that two of a billion ids are taken for one another with a chance of 10^-21.

_CACHE_KIB: Final = 8192

_SCHEMA: Final = f"""
PRAGMA cache_size = -{_CACHE_KIB};
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE ids (id BLOB PRIMARY KEY, image BLOB NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID;
BEGIN;
"""
# It ends with the process, and nobody reads it after a crash.


class Ids:
    """The ids of one pass. Blocks: for a thread, and for one at a time. Nothing is made before the first id comes."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None

    def first_with(self, job: Job, number: int) -> int | None:
        """The line that has the job's id, in its pack, for *another* image; None where there is none.

        The first line with an id keeps it. `MachineError` where the temporary file can't be written.
        """
        if job.id is None:
            return None
        image = _digest(job.image)
        try:
            connection = self._connected()
            made = connection.execute(
                "INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", (_digest(f"{job.pack or ''}\0{job.id}"), image, number)
            )
            if made.rowcount:
                return None
            first: tuple[bytes, int] = connection.execute(
                "SELECT image, number FROM ids WHERE id = ?", (_digest(f"{job.pack or ''}\0{job.id}"),)
            ).fetchone()
        except sqlite3.Error as error:
            raise MachineError(
                f"The ids of a manifest could not be kept in {tempfile.gettempdir()}: {error}.",
                code="temporary_file",
                hint="Free some space there, or set TMPDIR to a directory that has it.",
            ) from error
        return None if first[0] == image else first[1]

    def close(self) -> None:
        """Forget them, and free the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            # An empty name is a private database that goes to a file only where memory does not hold it
            # (https://www.sqlite.org/inmemorydb.html#temp_db).
            self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._connection.executescript(_SCHEMA)
        return self._connection


def _digest(text: str) -> bytes:
    return blake3(text.encode("utf-8", "surrogatepass")).digest(length=_DIGEST_BYTES)
