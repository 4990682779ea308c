"""Inspection: one pass over a file that tells its type, its fingerprint and its stamp, and hands over its bytes.

Decodes no pixels, and sends nothing; a `StreamedFile` is what a sender reads a large file through.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from anyio.lowlevel import RunVar
from blake3 import blake3

from ingest.errors import ImageRejected
from ingest.images.files import CHUNK_BYTES, Identity, StreamedFile, changed, open_regular, translated
from ingest.images.formats import Detector, Unusable
from ingest.images.readers import Readers
from ingest.model import ContentType, FileStamp, Fingerprint, Locator
from ingest.observe.text import printable

if TYPE_CHECKING:
    from ingest.images.memory import MemoryBudget
    from ingest.settings import ImageSettings

__all__ = ["Inspected", "inspect"]

_STREAMED_BYTES: Final = 2 * CHUNK_BYTES
# What a pass over a `StreamedFile` keeps in memory.

_readers: RunVar[Readers] = RunVar("ingest.images.inspect")


@dataclass(slots=True, kw_only=True, eq=False)
class Inspected:
    """One image, as it was when it was inspected; a context manager that frees its memory.

    `body` is the bytes themselves, or for a large file a `StreamedFile`; either way it has `size_bytes` bytes. `stamp`
    is None where the bytes are no file of the user's.
    """

    fingerprint: Fingerprint
    content_type: ContentType
    stamp: FileStamp | None
    body: bytes | StreamedFile = field(repr=False)
    memory: MemoryBudget
    reserved_bytes: int

    @property
    def size_bytes(self) -> int:
        """How many bytes there are to send."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.size_bytes

    def release(self) -> None:
        """Give the memory back; the second time does nothing. The body must not be used after it."""
        reserved, self.reserved_bytes = self.reserved_bytes, 0
        self.memory.release(reserved)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


async def inspect(path: Locator, settings: ImageSettings, memory: MemoryBudget) -> Inspected:
    """Read the file at `path` once, in a thread: `with await inspect(...) as image: ...`.

    Waits until `memory` has room for the largest file that is kept whole, then gives back what the file doesn't need;
    a streamed one keeps the reservation of two chunks. Links are followed.

    Raises `ImageRejected` (`not_a_file`, `too_large`, and the reasons of `formats`), `ImageUnreadable` (`missing`,
    `permission_denied`, `io_error`) and `ImageChanged` where the file was written to while it was read. After an error
    or a cancellation nothing is reserved; a cancelled reader stops at the next chunk.
    """
    reserved = max(min(settings.stream_over_bytes, settings.max_bytes), _STREAMED_BYTES)
    await memory.acquire(reserved)
    reading = _Reading(path, settings)
    try:
        image = await _threads().read(reading.run)
    except BaseException:
        reading.is_wanted = False
        memory.release(reserved)
        raise
    needed = len(image.body) if isinstance(image.body, bytes) else _STREAMED_BYTES
    memory.release(reserved - needed)
    return Inspected(
        fingerprint=image.fingerprint,
        content_type=image.content_type,
        stamp=image.stamp,
        body=image.body,
        memory=memory,
        reserved_bytes=needed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What one reading found out."""

    fingerprint: Fingerprint
    content_type: ContentType
    stamp: FileStamp
    body: bytes | StreamedFile = field(repr=False)


class _Reading:
    """One pass over one file, in a thread; given up at the next chunk once `is_wanted` is false."""

    def __init__(self, path: Locator, settings: ImageSettings) -> None:
        self._path = path
        self._settings = settings
        self.is_wanted = True

    def run(self) -> _Seen:
        """Open, stat, read, hash, detect, stat again and close."""
        with translated(self._path):
            descriptor = open_regular(self._path)
            try:
                return self._read(descriptor)
            finally:
                os.close(descriptor)

    def _read(self, descriptor: int) -> _Seen:
        identity = Identity.of(descriptor)
        size_bytes = identity.stamp.size_bytes
        if size_bytes > self._settings.max_bytes:
            raise _too_large(self._path, size_bytes, self._settings.max_bytes)
        is_kept = size_bytes <= self._settings.stream_over_bytes
        chunk_bytes = size_bytes + 1 if is_kept else CHUNK_BYTES  # one more, to see it grow
        digest = blake3()
        detector = Detector()
        kept = b""
        read_bytes = 0
        while chunk := os.read(descriptor, chunk_bytes):
            read_bytes += len(chunk)
            if read_bytes > size_bytes or not self.is_wanted:
                raise changed(self._path)
            digest.update(chunk)
            detector.feed(chunk)
            if is_kept:
                kept += chunk
                if read_bytes == size_bytes:  # one more was asked for, and did not come
                    break
        if read_bytes < size_bytes or Identity.of(descriptor) != identity:
            raise changed(self._path)
        verdict = detector.finish()
        if isinstance(verdict, Unusable):
            raise ImageRejected(f"{printable(self._path)} {verdict.detail}", reason=verdict.reason)
        fingerprint = Fingerprint(digest.digest())
        body = kept if is_kept else StreamedFile(path=self._path, identity=identity, fingerprint=fingerprint)
        return _Seen(fingerprint=fingerprint, content_type=verdict, stamp=identity.stamp, body=body)


def _too_large(path: str, size_bytes: int, max_bytes: int) -> ImageRejected:
    return ImageRejected(
        f"{printable(path)} has {size_bytes:,} bytes, and --max-bytes allows {max_bytes:,}", reason="too_large"
    )


def _threads() -> Readers:
    """The reading threads of this event loop."""
    try:
        return _readers.get()
    except LookupError:
        readers = Readers()
        _readers.set(readers)
        return readers
