"""What one path below a watched directory is: a file that may be taken, a directory to be looked over, or neither.

Judges a path as a walk of the whole directory would (`walk`, `selection`). Everything blocks, for a thread.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from ingest.model import FileStamp
from ingest.sources.selection import Verdict, is_entered
from ingest.sources.walk import is_link_to_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.sources.selection import Selection

__all__ = ["Directory", "Glance"]

_SNIFF_BYTES: Final = 4096


class Directory(NamedTuple):
    """A directory, relative to the root and with a slash at its end."""

    below: str


class Glance:
    """Looks at paths below `root`, an absolute path."""

    def __init__(self, root: str, selection: Selection, *, sniff: Callable[[bytes], bool]) -> None:
        self._root = root
        self._selection = selection
        self._sniff = sniff

    def first(self, path: str) -> FileStamp | Directory | None:
        """What there is; None for what is not taken, and for what is gone."""
        relative = self._relative(path)
        above, _, name = relative.rpartition("/")
        if not name or not self._enters(above) or name.startswith(".") or not self._is_direct(above):
            return None
        try:
            seen = os.lstat(path)
            if stat.S_ISDIR(seen.st_mode):
                return Directory(relative + "/") if self._enters(relative) else None
            if stat.S_ISLNK(seen.st_mode) and is_link_to_file(self._root, path, self._selection):
                seen = os.stat(path)  # noqa: PTH116 - as all its neighbours
        except OSError:
            return None  # gone, or a later look over everything tells of it
        if not stat.S_ISREG(seen.st_mode) or self._verdict(path) not in {Verdict.DISCOVERED, Verdict.LOOK_INSIDE}:
            return None
        return _stamp(seen)

    def again(self, path: str, *, is_opened: bool) -> FileStamp | None:
        """A file that was seen before; None where it is gone, or is no image after all.

        `is_opened` opens it to ask: what a network's server said of a file a while ago may be told from memory
        otherwise, but never at an opening (nfs(5), "Close-to-open cache consistency").
        """
        is_doubtful = self._verdict(path) is Verdict.LOOK_INSIDE
        try:
            if not (is_opened or is_doubtful):
                return _stamp(os.stat(path))  # noqa: PTH116
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                if is_doubtful and not self._sniff(os.read(descriptor, _SNIFF_BYTES)):
                    return None
                return _stamp(os.fstat(descriptor))
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError:
            # It may not be read: whoever takes it says so.
            return None if is_doubtful else self._unread(path)

    @staticmethod
    def _unread(path: str) -> FileStamp | None:
        try:
            return _stamp(os.stat(path))  # noqa: PTH116
        except OSError:
            return None

    def _relative(self, path: str) -> str:
        above = self._root.rstrip("/") + "/"
        return path.removeprefix(above) if path.startswith(above) else ""

    def _verdict(self, path: str) -> Verdict:
        above, slash, name = self._relative(path).rpartition("/")
        return self._selection.of_file(name, above + slash)

    def _is_direct(self, relative: str) -> bool:
        """Whether no link leads there: events come from behind links as well, but a walk enters few of them."""
        real = os.path.join(os.path.realpath(self._root), relative)  # noqa: PTH118
        return os.path.realpath(os.path.join(self._root, relative)) == os.path.normpath(real)  # noqa: PTH118

    def _enters(self, relative: str) -> bool:
        """Whether a walk gets as far as this directory; empty is the root."""
        parts = relative.split("/") if relative else []
        return all(is_entered(part) for part in parts) and not any(
            self._selection.excludes_directory("/".join(parts[: depth + 1])) for depth in range(len(parts))
        )


def _stamp(seen: os.stat_result) -> FileStamp:
    return FileStamp(size_bytes=seen.st_size, mtime_ns=seen.st_mtime_ns)
