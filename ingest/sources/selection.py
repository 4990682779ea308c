"""Which names in a directory are taken for images, and what an image is called in its pack.

Pure: decides by names alone and opens nothing; where a name can't tell, it says so.
"""

from __future__ import annotations

import enum
import fnmatch
import os
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["IMAGE_ENDINGS", "Selection", "Verdict", "ending", "file_name", "is_entered", "sendable"]

IMAGE_ENDINGS: Final = frozenset(
    # What packs take.
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".heic", ".heics", ".heif", ".heifs", ".hif"}
    # What is called an image too.
    | {".avif", ".avifs", ".bmp", ".dib", ".ico", ".j2k", ".jp2", ".jpf", ".jpx", ".jxl", ".svg", ".svgz"}
    | {".tif", ".tiff"}
)
# A name with one of the latter is discovered as well, and rejected by its content: a picture that nobody hears of
# again is worse than a rejected one. Camera raws and layered documents are no pictures yet, and are ignored.

_TEMPORARY: Final = ("~", ".tmp", ".part")

_NEVER_ENTERED: Final = frozenset({"@eadir", "@__thumb", ".thumbnails", "__macosx"})
_NEVER_ENTERED_ENDINGS: Final = (".photoslibrary", ".lrdata")
# Thumbnails and libraries of other programs: Synology, QNAP, GNOME, macOS archives, Apple Photos, Lightroom.

MAX_FILE_NAME_CHARACTERS: Final = 255
# API.md: `file_name` of Add image.


class Verdict(enum.Enum):
    """What a name says about its file."""

    DISCOVERED = enum.auto()
    LOOK_INSIDE = enum.auto()
    IGNORED = enum.auto()
    EXCLUDED = enum.auto()


class Selection:
    """What to discover below a directory, by `include` and `exclude` globs and by endings.

    A glob is matched against the path relative to the directory (with `/`) and against the last part of it, without
    regard to case; `*` matches any characters, `/` too, and `**/` also matches nothing. `exclude` wins, and leaves out
    whole directories. With `include`, a file is discovered if and only if one of the globs matches, whatever its
    ending. Without: by its ending, and one that has none by its content.
    """

    def __init__(self, *, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = _compiled(include)
        self._exclude = _compiled(exclude)

    def of_file(self, name: str, below: str = "") -> Verdict:
        """What the name of a file that is not hidden says; `below` is its directory with a slash, empty at the root."""
        if self._exclude is not None and _matches(self._exclude, below + name, name):
            return Verdict.EXCLUDED
        if self._include is not None:
            return Verdict.DISCOVERED if _matches(self._include, below + name, name) else Verdict.EXCLUDED
        # As `ending` has it, in a third of the time; no temporary name ends so.
        if name[name.rfind(".") :].lower() in IMAGE_ENDINGS:
            return Verdict.DISCOVERED
        return Verdict.IGNORED if ending(name) or name.lower().endswith(_TEMPORARY) else Verdict.LOOK_INSIDE

    def excludes_directory(self, relative: str) -> bool:
        """Whether nothing below the directory is wanted."""
        return self._exclude is not None and _matches(self._exclude, relative, relative.rpartition("/")[2])


def is_entered(name: str) -> bool:
    """Whether a directory of that name is looked into at all: not the hidden ones, nor other programs' libraries."""
    lowered = name.lower()
    return not (name.startswith(".") or lowered in _NEVER_ENTERED or lowered.endswith(_NEVER_ENTERED_ENDINGS))


def ending(name: str) -> str:
    """The lower-case ending of a name with its dot; empty without one."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path a name costs ten times as much


def file_name(path: str) -> str:
    """The last part of `path`, as `sendable`."""
    return sendable(path.rstrip("/").rpartition("/")[2])


def sendable(name: str) -> str:
    """`name` as the API takes it: 1-255 characters of valid Unicode, its ending kept.

    Bytes that are not UTF-8 become U+FFFD; so does a name of which nothing is left.
    """
    valid = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip() or "\ufffd"
    if len(valid) <= MAX_FILE_NAME_CHARACTERS:
        return valid
    stem, last = os.path.splitext(valid)  # noqa: PTH122
    last = last[: MAX_FILE_NAME_CHARACTERS // 2]
    return stem[: MAX_FILE_NAME_CHARACTERS - len(last)] + last


def _compiled(globs: Iterable[str]) -> re.Pattern[str] | None:
    patterns = [variant for glob in globs for variant in {glob, glob.replace("**/", "")}]
    if not patterns:
        return None
    return re.compile("|".join(fnmatch.translate(pattern.rstrip("/")) for pattern in patterns), re.IGNORECASE)


def _matches(pattern: re.Pattern[str], relative: str, name: str) -> bool:
    return pattern.match(relative) is not None or pattern.match(name) is not None
