"""The files below a directory, depth first, each directory sorted by name.

Finds files and says what it could not look into; which of them are images is not decided here. Everything blocks and
is meant for a thread.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from ingest.observe.text import printable
from ingest.sources.base import MAX_UNREADABLE, SourceReport
from ingest.sources.listing import NAMES_IN_MEMORY, EntryKind, sorted_entries
from ingest.sources.selection import is_entered

if TYPE_CHECKING:
    from collections.abc import Generator

    from ingest.sources.selection import Selection

__all__ = ["LONGEST", "Found", "is_link_to_file", "note_ignored", "note_unreadable", "walk"]

LONGEST: Final = 2048
# Names in one `Found`: what is told of them is kept in memory together.

_MAX_IGNORED_KINDS: Final = 100
# A report must not grow with the tree, and in some trees every file has an ending of its own (`app.log.20240131`).


class Found(NamedTuple):
    """Files that follow each other in one directory.

    `directory` and a name make the path of a file, `below` and the name the same path relative to the root. Both end
    with a slash, but `below` is empty in the root itself.
    """

    directory: str
    below: str
    names: list[str]


def note_ignored(report: SourceReport, kind: str) -> None:
    """Count one ignored file under its ending or another short word."""
    if kind not in report.ignored and len(report.ignored) >= _MAX_IGNORED_KINDS:
        kind = "(other)"
    report.ignored[kind] = report.ignored.get(kind, 0) + 1


def note_unreadable(report: SourceReport, path: str, error: OSError) -> None:
    """Count one place that could not be looked into, and tell of it while there is room."""
    report.unreadable_count += 1
    if len(report.unreadable) < MAX_UNREADABLE:
        report.unreadable.append(f"{printable(path)}: {error.strerror or error}")


def walk(
    root: str,
    selection: Selection,
    report: SourceReport,
    *,
    stop: threading.Event,
    below: str = "",
    names_in_memory: int = NAMES_IN_MEMORY,
    longest: int = LONGEST,
) -> Generator[Found, None, None]:
    """Every file below `root`, an absolute path, that is not hidden and not in a directory that is left out.

    With `below`, a directory relative to the root and with a slash at its end, only what lies in there.

    A link to a file counts as a file of that name when its target lies inside the root. A link to a directory inside
    is entered only where the walk can't reach that directory by its own name (it is hidden, say), and once: so no file
    is found twice by way of linked directories, and no loop is possible. Links that lead outside, or nowhere, are
    ignored. A `Found` ends where a directory is entered, and after `longest` names. Memory grows with the depth of the
    tree, not with its size. Ends early once `stop` is set.
    """
    return _Walk(root, selection, report, stop, names_in_memory).files(os.fsencode(below), longest)


def is_link_to_file(root: str, path: str, selection: Selection) -> bool:
    """Whether a walk of `root` would take `path`, a link, for a file."""
    walk = _Walk(root, selection, SourceReport(), threading.Event(), NAMES_IN_MEMORY)
    return walk.follow(os.fsencode(path)) is EntryKind.FILE


class _Walk:
    def __init__(
        self, root: str, selection: Selection, report: SourceReport, stop: threading.Event, names_in_memory: int
    ) -> None:
        self._root = os.fsencode(root)
        self._real_root = os.path.realpath(self._root)
        self._selection = selection
        self._report = report
        self._stop = stop
        self._names_in_memory = names_in_memory
        self._linked: set[tuple[int, int]] = set()  # hidden directories that a link has led into

    def files(self, below: bytes, longest: int) -> Generator[Found, None, None]:
        # A stack and no recursion: a tree may be deeper than the interpreter's.
        levels = [(below, self._entries(self._path(below)))]
        try:
            while levels and not self._stop.is_set():
                above, entries = levels[-1]
                names: list[bytes] = []
                entered: bytes | None = None
                for name, kind in entries:
                    followed = self.follow(self._path(above + name)) if kind is EntryKind.LINK else kind
                    if followed is EntryKind.FILE:
                        names.append(name)
                        if len(names) >= longest:
                            break
                    elif followed is EntryKind.DIRECTORY and self._enters(os.fsdecode(above + name)):
                        entered = above + name
                        break
                    elif followed is EntryKind.OTHER:
                        note_ignored(self._report, "(special file)")
                else:
                    levels.pop()
                if names:
                    yield self._found(above, names)
                if entered is not None:
                    levels.append((entered + b"/", self._entries(self._path(entered))))
        finally:
            for _, entries in levels:
                entries.close()

    def _path(self, relative: bytes) -> bytes:
        return os.path.join(self._root, relative)  # noqa: PTH118 - bytes

    def _found(self, below: bytes, names: list[bytes]) -> Found:
        # Decoded at once, which no name can spoil for the next one: none has a slash.
        return Found(os.fsdecode(self._path(below)), os.fsdecode(below), os.fsdecode(b"/".join(names)).split("/"))

    def _entries(self, directory: bytes) -> Generator[tuple[bytes, EntryKind], None, None]:
        return sorted_entries(
            directory, failed=self._note_unreadable, stop=self._stop, names_in_memory=self._names_in_memory
        )

    def _enters(self, relative: str) -> bool:
        if not is_entered(relative.rpartition("/")[2]):
            return False
        if self._selection.excludes_directory(relative):
            note_ignored(self._report, "(excluded)")
            return False
        return True

    def follow(self, link: bytes) -> EntryKind | None:
        """What the link stands for; None where it is not followed."""
        target = os.path.realpath(link)
        inside = self._path_inside(target)
        if inside is None:
            note_ignored(self._report, "(link outside)")
            return None
        try:
            seen = os.stat(link)  # noqa: PTH116 - bytes
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP}:
                note_ignored(self._report, "(broken link)")  # it stands for nothing, so nothing is missing
                return None
            self._note_unreadable(link, error)
            return None
        if stat.S_ISREG(seen.st_mode):
            return EntryKind.FILE
        if not stat.S_ISDIR(seen.st_mode):
            return EntryKind.OTHER
        identity = (seen.st_dev, seen.st_ino)
        if identity in self._linked or all(is_entered(os.fsdecode(part)) for part in inside.split(b"/") if part):
            return None
        self._linked.add(identity)
        return EntryKind.DIRECTORY

    def _path_inside(self, target: bytes) -> bytes | None:
        """`target` relative to the root, empty for the root itself; None outside."""
        if target == self._real_root:
            return b""
        above = self._real_root.rstrip(b"/") + b"/"
        return target.removeprefix(above) if target.startswith(above) else None

    def _note_unreadable(self, path: bytes, error: OSError) -> None:
        note_unreadable(self._report, os.fsdecode(path), error)
