"""Whether the journal's files still are what they were when they were last written.

Never opens the journal's file: to open and close it would drop the locks that SQLite holds on it. On the log it holds
none.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FileGone", "Presence"]

HEADER_BYTES: Final = 32
MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
# How a log begins (https://www.sqlite.org/fileformat2.html#the_write_ahead_log). Its salts tell one from the next that
# is begun in the same file.


class FileGone(Exception):
    """What lies at the journal's path is not what was written there."""


class _Seen(NamedTuple):
    """Both files as they were: which ones, how long, and how the log began."""

    file: tuple[int, int]
    file_bytes: int
    log: tuple[int, int]
    log_bytes: int
    header: bytes


class Presence:
    """The journal's file and its log, as they were after the last commit. Made by `watching`.

    What is written into a file that was deleted is durable for nobody, and SQLite does not notice
    (https://www.sqlite.org/howtocorrupt.html, "Unlinking or renaming a database file while in use"); nor that its log
    was cut short, and it leaves a hole there. SQLite itself replaces neither file while a connection is open.
    """

    def __init__(self, file: Path, log: Path, descriptor: int) -> None:
        self._file, self._log = file, log
        self._descriptor = descriptor
        self._seen = self._look()

    @classmethod
    @contextlib.contextmanager
    def watching(cls, path: Path) -> Iterator[Presence]:
        """Watch the journal at `path`, which is open and has a log. Raises `FileGone` where either is not there."""
        name = os.path.realpath(path)
        log = Path(f"{name}-wal")
        try:
            descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise FileGone from None
        try:
            yield cls(Path(name), log, descriptor)
        finally:
            os.close(descriptor)

    def before(self) -> None:
        """Before a commit: raise `FileGone` where a file has become shorter, but for a log that was begun anew.

        Another program that brings the whole log into the file may empty it. Two `stat`: microseconds, beside a commit.
        """
        if _status(self._file).st_size < self._seen.file_bytes:  # SQLite shortens none without a `VACUUM`
            raise FileGone
        log_bytes = _status(self._log).st_size
        if 0 < log_bytes < self._seen.log_bytes and self._header() == self._seen.header[:log_bytes]:
            raise FileGone

    def after(self) -> None:
        """After a commit: raise `FileGone` where a file is another, or none, or the log begins as no log does."""
        seen = self._look()
        if (seen.file, seen.log) != (self._seen.file, self._seen.log):
            raise FileGone
        self._seen = seen

    def _look(self) -> _Seen:
        file, log, header = _status(self._file), _status(self._log), self._header()
        # Emptied by somebody and then written to, it begins with a hole.
        if header and not header.startswith(MAGIC):
            raise FileGone
        return _Seen((file.st_dev, file.st_ino), file.st_size, (log.st_dev, log.st_ino), log.st_size, header)

    def _header(self) -> bytes:
        return os.pread(self._descriptor, HEADER_BYTES, 0)


def _status(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileGone from None
