"""Local files as the bytes they were: opened without ever waiting, known again, and streamed only unchanged.

Knows no image types and no limits; `inspect` decides what a file is.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import aiofiles
import anyio
from blake3 import blake3

from ingest.errors import MACHINE_ERRNOS, ImageChanged, ImageRejected, ImageUnreadable, MachineError
from ingest.model import FileStamp
from ingest.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ingest.model import Fingerprint, Locator

__all__ = ["CHUNK_BYTES", "Identity", "StreamedFile", "changed", "open_regular", "translated"]

CHUNK_BYTES: Final = 256 * 1024
# Long enough that a thread hop (130 µs) costs little beside reading it, short enough to hash in the event loop.

_CLOSE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which file it is, and what `fstat` says of its content; equal ones are taken for an unchanged file."""

    device: int
    inode: int
    stamp: FileStamp

    @classmethod
    def of(cls, descriptor: int) -> Self:
        """The identity of an open file."""
        seen = os.fstat(descriptor)
        stamp = FileStamp(size_bytes=seen.st_size, mtime_ns=seen.st_mtime_ns)
        return cls(device=seen.st_dev, inode=seen.st_ino, stamp=stamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedFile:
    """The bytes of one large file, read anew for each pass: `async for chunk in body`.

    A pass yields chunks of at most `CHUNK_BYTES` and keeps two in memory. It holds each chunk back until the next one
    is read, and the last until the file's identity, size and fingerprint are confirmed, so that an upload with a
    declared length can't be completed with other bytes than those inspected: `ImageChanged` is raised instead.
    `ImageUnreadable` where the file can't be read any more. A pass may be left at any point.
    """

    path: Locator
    identity: Identity
    fingerprint: Fingerprint

    @property
    def size_bytes(self) -> int:
        """The length of a whole pass: what to declare as `Content-Length`."""
        return self.identity.stamp.size_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with translated(self.path):
            # Buffered, although the chunks are longer than the buffer: its lock lets a cancelled read end before the
            # descriptor is closed.
            # Shielded, for a file that is opened as the wait for it is cancelled would belong to nobody.
            with anyio.CancelScope(shield=True):
                file = await aiofiles.open(self.path, "rb", opener=open_regular)
            try:
                self._confirm(file.fileno())
                digest = blake3()
                size = 0
                held = b""
                while chunk := await file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    if size > self.size_bytes:
                        raise changed(self.path)
                    if held:
                        yield held
                    held = chunk
                self._confirm(file.fileno())
                if digest.digest() != self.fingerprint:
                    raise changed(self.path)
                yield held
            finally:
                with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
                    await file.close()

    def _confirm(self, descriptor: int) -> None:
        if Identity.of(descriptor) != self.identity:
            raise changed(self.path)


def open_regular(path: str, flags: int = os.O_RDONLY | os.O_CLOEXEC) -> int:
    """A descriptor of the regular file at `path`; a pipe or device is refused and never waited for."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # a NUL, or a surrogate that stands for no byte: from a manifest or a message
        raise ImageRejected(f"{printable(path)} can't be the name of a file", reason="not_a_file") from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _not_a_file(path)


@contextmanager
def translated(path: str) -> Iterator[None]:
    """The errors of the file system about the file at `path`, in the words of `errors`."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageUnreadable(f"{printable(path)} is not there (any more)", reason="missing") from error
    except PermissionError as error:
        raise ImageUnreadable(f"{printable(path)} may not be read by this user", reason="permission_denied") from error
    except OSError as error:
        if error.errno in MACHINE_ERRNOS - {errno.EIO}:  # a bad spot of the disk is this file's own
            raise MachineError(
                f"{printable(path)} could not be read: {error.strerror}.",
                code="machine",
                hint="Raise the limit (`ulimit -n` for open files) and run the same command again; nothing is lost.",
            ) from error
        if error.errno == errno.ENXIO:  # what opening a socket answers
            raise _not_a_file(path) from error
        raise ImageUnreadable(f"{printable(path)} could not be read: {error.strerror}", reason="io_error") from error


def _not_a_file(path: str) -> ImageRejected:
    return ImageRejected(f"{printable(path)} is not a regular file", reason="not_a_file")


def changed(path: str) -> ImageChanged:
    """The error for a file that is not what it was when it was looked at before."""
    return ImageChanged(f"{printable(path)} changed while it was read", reason="changed")
