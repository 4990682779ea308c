"""The uploaded bytes, by the SHA-256 of their content: in a folder, or in memory.

Knows no names, URLs or types: `files` does. Bytes are there as a whole or not at all.

Chunks are written on the event loop: into the page cache a chunk of 64 KiB takes some 10 µs, a hop to a thread 130.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Blobs", "FolderBlobs", "Incoming", "MemoryBlobs"]


class Incoming(Protocol):
    """Bytes on their way in: any number of `write`, then one `keep` or one `drop`, on one thread."""

    size: int

    def write(self, chunk: bytes) -> None:
        """Append one chunk."""

    def keep(self) -> str:
        """Make the bytes readable under the SHA-256 that this returns, in hexadecimal."""

    def drop(self) -> None:
        """Forget them."""


class Blobs(Protocol):
    """Where bytes live. What was kept is never changed and never removed."""

    def receive(self) -> Incoming:
        """A place for new bytes; the caller keeps or drops them."""

    def read(self, sha256: str) -> bytes:
        """All bytes of one blob; safe to call from any thread."""


class MemoryBlobs:
    """Blobs that end with the process."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def receive(self) -> Incoming:
        return _MemoryIncoming(self._blobs)

    def read(self, sha256: str) -> bytes:
        return self._blobs[sha256]


class _MemoryIncoming:
    def __init__(self, blobs: dict[str, bytes]) -> None:
        self._blobs = blobs
        self._bytes = bytearray()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        self._bytes += chunk
        self.size += len(chunk)

    def keep(self) -> str:
        sha256 = hashlib.sha256(self._bytes).hexdigest()
        self._blobs[sha256] = bytes(self._bytes)
        return sha256

    def drop(self) -> None:
        self._bytes.clear()


class FolderBlobs:
    """Blobs that survive the process, each one a file that was written elsewhere and renamed into its place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "blobs"
        self._incoming = folder / "incoming"
        # What a killed sandbox left half-written belongs to nobody.
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir()
        self._folder.mkdir(exist_ok=True)

    def receive(self) -> Incoming:
        return _FolderIncoming(self._incoming / secrets.token_hex(8), self._folder)

    def read(self, sha256: str) -> bytes:
        return (self._folder / sha256).read_bytes()


class _FolderIncoming:
    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._file = path.open("xb", buffering=0)
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.size += len(chunk)
        rest = memoryview(chunk)
        while rest:  # an unbuffered write may take less than it was given
            rest = rest[self._file.write(rest) :]

    def keep(self) -> str:
        self._file.close()
        sha256 = self._digest.hexdigest()
        self._path.replace(self._folder / sha256)
        return sha256

    def drop(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
