"""The journal's files while this process writes them: locked, opened, marked and watched.

Knows nothing of jobs: who writes what is `sqlite`'s and `tending`'s.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from ingest.errors import UsageError
from ingest.journal.database import connect, has_log, transaction, translating, untouched
from ingest.journal.lock import lock_path, writer_lock
from ingest.journal.mark import Mark, is_behind
from ingest.journal.presence import Presence

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.journal.lock import WriterLock

__all__ = ["OpenFiles", "opened"]


MARKED_SINCE: Final = 2
# The version of the schema from which on a journal has a mark.


class OpenFiles:
    """See `commit.Store`. Made by `opened`."""

    def __init__(self, connection: sqlite3.Connection, lock: WriterLock, presence: Presence, mark: Mark) -> None:
        self.connection = connection
        self._lock = lock
        self._presence = presence
        self._mark = mark
        self._raised: Mark | None = None

    def before(self) -> None:
        """See `Store.before`. Raises `FileGone`."""
        self._presence.before()

    def within(self) -> None:
        """See `Store.within`: so each commit that changes something has an epoch of its own."""
        self._raised = self._mark.raised()
        _write(self.connection, self._raised)

    def after(self) -> None:
        """See `Store.after`. Raises `FileGone`; the mark is told all the same, so that the next opening knows too."""
        if self._raised is not None:
            self._mark, self._raised = self._raised, None
            # Not before the commit has returned: no unclean end leaves the lock ahead of the database.
            self._lock.tell(self._mark)
        self._presence.after()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[OpenFiles]:
    """Lock, open and migrate the journal at `path`, made where there is none.

    Raises what `writer_lock` and `connect` raise, and `UsageError` for a journal that is older than when it was last
    written; that one is left as it was. What SQLite raises inside is translated.
    """
    with writer_lock(path) as lock:
        if lock.last is not None and path.is_file():
            _refuse_older(path, lock.last)
        if not path.exists() and has_log(path):
            raise _older(path)  # SQLite would begin a new one, and delete the log that holds what was added
        with contextlib.closing(connect(path)) as connection, translating(path):
            mark = _raise(connection)
            lock.tell(mark)
            with Presence.watching(path) as presence:
                yield OpenFiles(connection, lock, presence, mark)


def _refuse_older(path: Path, last: Mark) -> None:
    if is_behind(_mark_at(path), last):
        raise _older(path)


def _older(path: Path) -> UsageError:
    return UsageError(
        f"The journal {path} is older than when it was last used: it or its -wal file was removed, one of the two was "
        "cut short, or an older copy was put in its place. What was added since then is not in it.",
        code="journal_older",
        hint="Put the newer one back, together with its -wal file. To go on all the same, though images may then be "
        f"added again, delete {lock_path(path)}, and a -wal file that is alone, and run again.",
    )


def _mark_at(path: Path) -> Mark | None:
    if path.stat().st_size == 0:
        return None  # and not opened, for the sake of its log: see `connect_readonly`
    with untouched(path) as (connection, version):
        return _read(connection) if version >= MARKED_SINCE else None


def _raise(connection: sqlite3.Connection) -> Mark:
    """Raise the mark in a commit of its own: this opening is told from whatever was copied before it."""
    with transaction(connection):
        mark = _read(connection).raised()
        _write(connection, mark)
    return mark


def _read(connection: sqlite3.Connection) -> Mark:
    journal_id, epoch = connection.execute("SELECT journal_id, epoch FROM identity").fetchone()
    return Mark(journal_id=journal_id, epoch=epoch)


def _write(connection: sqlite3.Connection, mark: Mark) -> None:
    connection.execute("UPDATE identity SET epoch = ?", (mark.epoch,))
