"""Whether all of an image's bytes are there, told from its structure while the bytes stream by.

Pure and incremental: keeps a few bytes, decodes no pixels, and forgives what viewers forgive: whatever follows a whole
image (padding, motion photo video, further pictures) is nobody's business.

A walk is a generator. It runs until it needs bytes that have not come yet, then yields whether the image would be
whole if none came any more; it returns the same once that can't change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from ingest.model import ContentType

__all__ = ["Structure"]

_Walk: TypeAlias = Generator[bool, None, bool]


class Structure:
    """Follows one image of a known type; feed it every byte from the first."""

    def __init__(self, content_type: ContentType) -> None:
        self._window = _Window()
        self._walk = _WALKS[content_type](self._window)
        self._is_over = False
        self._is_whole = False

    @property
    def is_whole(self) -> bool:
        """Whether the bytes fed so far hold the whole image."""
        return self._is_whole

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; where they are divided makes no difference."""
        if self._is_over:
            return
        self._window.feed(chunk)
        try:
            self._is_whole = next(self._walk)
        except StopIteration as end:
            self._is_over = True
            self._is_whole = end.value


class _Window:
    """The bytes that a walk has not passed yet, of those fed so far."""

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0  # beyond the end while bytes are skipped that have not come yet

    def feed(self, chunk: bytes) -> None:
        if self._at >= len(self._data):
            self._at -= len(self._data)
            self._data = chunk
        else:
            self._data = self._data[self._at :] + chunk
            self._at = 0

    def take(self, count: int, *, whole: bool = False) -> Generator[bool, None, bytes]:
        """Pass the next `count` bytes, a few, and return them; `whole` is what to answer if they don't come."""
        while len(self._data) - self._at < count:
            yield whole
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def skip(self, count: int, *, whole: bool = False) -> Generator[bool, None, None]:
        """Pass the next `count` bytes unseen."""
        self._at += count
        while self._at > len(self._data):
            yield whole

    def ends_with(self, mark: bytes) -> bool:
        """Whether `mark` is the last of what has come so far, and not passed yet."""
        return self._data.endswith(mark, self._at)

    def search(self, pattern: re.Pattern[bytes]) -> Generator[bool, None, bytes]:
        """Pass everything up to the end of the next match of `pattern`, two bytes at most, and return the match."""
        while (match := pattern.search(self._data, self._at)) is None:
            self._at = max(self._at, len(self._data) - 1)
            yield False
        self._at = match.end()
        return match.group()


_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")
_JPEG_END: Final = re.compile(rb"\xff\xd9")  # over 4 MB of pixels 2 ms; `bytes.find` takes 4
_JPEG_START_OF_SCAN: Final = 0xDA
_JPEG_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xDA)})


def _jpeg(window: _Window) -> _Walk:
    """Segments up to the first scan, then an end marker (ITU-T T.81, annex B).

    Segments are passed by their length: the thumbnail in an EXIF segment has an end marker of its own. In a scan an
    end marker can't occur by chance, since every 0xFF of the data is followed by a zero.
    """
    yield from window.skip(2)
    while True:
        marker = (yield from window.search(_JPEG_MARKER))[1]
        if marker == _JPEG_START_OF_SCAN:
            break
        if marker not in _JPEG_WITHOUT_LENGTH:
            length = int.from_bytes((yield from window.take(2)), "big")
            yield from window.skip(max(length - 2, 0))
    if not window.ends_with(b"\xff\xd9"):  # a whole small picture, told without a search through all of it
        yield from window.search(_JPEG_END)
    return True


def _png(window: _Window) -> _Walk:
    """Chunks up to the end of IEND (PNG, third edition, section 5)."""
    yield from window.skip(8)
    while True:
        head = yield from window.take(8)
        kind = head[4:]
        if not kind.isalpha():
            return False
        yield from window.skip(int.from_bytes(head[:4], "big") + 4)  # the data and its CRC
        if kind == b"IEND":
            return True


_GIF_BLOCK: Final = re.compile(rb"[\x21\x2c\x3b]")  # extension, image, trailer; readers skip what lies between blocks


def _gif(window: _Window) -> _Walk:
    """Blocks up to the trailer (GIF89a, appendix A)."""
    screen = yield from window.take(13)
    yield from window.skip(_gif_table_bytes(screen[10]))
    has_image = False
    while True:
        block = yield from window.search(_GIF_BLOCK)
        if block == b"\x3b":
            return has_image
        if block == b"\x2c":
            image = yield from window.take(9)
            yield from window.skip(_gif_table_bytes(image[8]))
            has_image = True
        yield from window.skip(1)  # an extension's label, an image's code size
        while (size := (yield from window.take(1))[0]) > 0:
            yield from window.skip(size)


def _gif_table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 0x07) + 1) if flags & 0x80 else 0


def _webp(window: _Window) -> _Walk:
    """As many bytes as the RIFF header says (RFC 9649, section 2.4)."""
    head = yield from window.take(12)
    size = int.from_bytes(head[4:8], "little")
    if size < 12:  # the form and one chunk header: less is the header of a writer that never came to its end
        return False
    yield from window.skip(size - 4)
    return True


_HEIF_PICTURES: Final = frozenset({b"mdat", b"imda"})
_HEIF_ESSENTIAL: Final = _HEIF_PICTURES | {b"ftyp", b"meta", b"moov"}
_HEIF_LAYOUT_BYTES: Final = 64
# Cameras keep the layout of a tiled picture (8 or 12 bytes) in an `idat`; only a larger one can hold the picture.


def _heif(window: _Window) -> _Walk:
    """Top-level boxes, among them an index and pictures (ISO 14496-12, section 4.2; ISO 23008-12).

    Behind a whole image only a box that pictures may lie in is waited for: anything else may be a trailer that merely
    looks like a box.
    """
    has_index = has_pictures = False
    while True:
        whole = has_index and has_pictures
        head = yield from window.take(8, whole=whole)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        passed = 8
        if size == 1:
            size = int.from_bytes((yield from window.take(8, whole=whole)), "big")
            passed = 16
        has_index = has_index or kind in {b"meta", b"moov"}
        if size == 0:  # to the end of the file
            return has_index and (has_pictures or kind in _HEIF_PICTURES)
        if size < passed:
            return whole
        if kind == b"meta":
            has_pictures = (yield from _heif_index(window, size - passed)) or has_pictures
        else:
            yield from window.skip(size - passed, whole=whole and kind not in _HEIF_ESSENTIAL)
            has_pictures = has_pictures or kind in _HEIF_PICTURES


def _heif_index(window: _Window, size: int) -> Generator[bool, None, bool]:
    """Pass the `size` bytes of a `meta` box; whether the pictures lie in it."""
    has_pictures = False
    left = size - 4  # version and flags
    yield from window.skip(min(size, 4))
    while left >= 8:
        head = yield from window.take(8)
        left -= 8
        inner = int.from_bytes(head[:4], "big") - 8
        if not 0 <= inner <= left:
            break
        has_pictures = has_pictures or (head[4:] == b"idat" and inner > _HEIF_LAYOUT_BYTES)
        yield from window.skip(inner)
        left -= inner
    yield from window.skip(max(left, 0))
    return has_pictures


_WALKS: Final[dict[ContentType, Callable[[_Window], _Walk]]] = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/gif": _gif,
    "image/webp": _webp,
    "image/heic": _heif,
    "image/heif": _heif,
}
