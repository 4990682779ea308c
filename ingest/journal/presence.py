"""Whether the journal's file still lies where it was opened.

Opens nothing: to open the file and close it again would drop the locks that SQLite holds on it.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["FileGone", "Presence"]


class FileGone(Exception):
    """What lies at the journal's path is not the file that was opened."""


class Presence:
    """The journal's file and its log, as they were when it was first asked.

    What is written into a file that was deleted is durable for nobody, and SQLite does not notice
    (https://www.sqlite.org/howtocorrupt.html, "Unlinking or renaming a database file while in use"). SQLite itself
    replaces neither while a connection is open.
    """

    def __init__(self, path: Path) -> None:
        name = os.path.realpath(path)
        self._files = (Path(name), Path(f"{name}-wal"))
        self._seen: list[tuple[int, int] | None] | None = None

    def check(self) -> None:
        """Raise `FileGone` where they are others, or none. Two calls of `stat`: microseconds, beside a commit."""
        found = [_identity(file) for file in self._files]
        if self._seen is None:
            self._seen = found
        if found != self._seen or found[0] is None:
            raise FileGone


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
