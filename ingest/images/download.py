"""An image out of bytes that come by and by: kept in memory while it is small, in a temporary file from there on.

One pass tells its type and fingerprint, as `inspect` does for a file. Knows no network: `fetch` hands over the pieces.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from anyio import to_thread
from blake3 import blake3

from ingest.errors import MACHINE_HINT, ImageRejected, MachineError
from ingest.images.files import CHUNK_BYTES, Identity, StreamedFile
from ingest.images.formats import Detector, Unusable
from ingest.images.inspect import Inspected
from ingest.model import Fingerprint, Locator
from ingest.observe.text import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

    from ingest.images.memory import MemoryBudget
    from ingest.settings import ImageSettings

__all__ = ["Downloaded", "downloaded"]

_STREAMED_BYTES: Final = 2 * CHUNK_BYTES
# What a pass over a `StreamedFile` keeps in memory, and what is kept of one that is being written.


@dataclass(slots=True, kw_only=True, eq=False)
class Downloaded(Inspected):
    """An image whose bytes are nobody's file; freeing its memory removes the temporary file as well."""

    temporary: str | None = None

    def release(self) -> None:
        """See `Inspected.release`."""
        super(Downloaded, self).release()
        temporary, self.temporary = self.temporary, None
        if temporary is not None:
            _remove(temporary)


async def downloaded(
    url: Locator,
    pieces: AbstractAsyncContextManager[AsyncIterator[bytes]],
    settings: ImageSettings,
    memory: MemoryBudget,
) -> Downloaded:
    """Take all `pieces`, which are not begun before `memory` has room: `with await downloaded(...) as image: ...`.

    Raises what the pieces do, `ImageRejected` with the reasons of `formats`, and `MachineError` where the temporary
    file can't be written. After an error or a cancellation nothing is reserved and no file is left.
    """
    reserved = max(min(settings.stream_over_bytes, settings.max_bytes), _STREAMED_BYTES)
    await memory.acquire(reserved)
    spool = _Spool(settings.stream_over_bytes)
    try:
        async with pieces as coming:
            async for piece in coming:
                await spool.take(piece)
            verdict = spool.detector.finish()
            if isinstance(verdict, Unusable):
                raise ImageRejected(f"{shown(url)} {verdict.detail}", reason=verdict.reason)  # noqa: TRY301 - freed below
        body = await spool.close()
    except BaseException:
        spool.drop()
        memory.release(reserved)
        raise
    needed = len(body) if isinstance(body, bytes) else _STREAMED_BYTES
    memory.release(reserved - needed)
    return Downloaded(
        fingerprint=spool.fingerprint,
        content_type=verdict,
        stamp=None,
        body=body,
        memory=memory,
        reserved_bytes=needed,
        temporary=spool.path,
    )


class _Spool:
    """The bytes so far. `close` or `drop` it."""

    def __init__(self, most_in_memory: int) -> None:
        self.detector = Detector()
        self.path: str | None = None
        self._most_in_memory = most_in_memory
        self._digest = blake3()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._file: IO[bytes] | None = None

    @property
    def fingerprint(self) -> Fingerprint:
        """Of all bytes taken."""
        return Fingerprint(self._digest.digest())

    async def take(self, piece: bytes) -> None:
        """The next bytes."""
        self._digest.update(piece)
        self.detector.feed(piece)
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > (self._most_in_memory if self._file is None else CHUNK_BYTES):
            with _writing():
                await to_thread.run_sync(self._write, self._taken())  # waited for, even where it is cancelled

    async def close(self) -> bytes | StreamedFile:
        """Every byte taken, to be sent."""
        rest = self._taken()
        if self._file is None:
            return rest
        with _writing():
            identity = await to_thread.run_sync(self._finish, rest)
        return StreamedFile(path=Locator(self.path or ""), identity=identity, fingerprint=self.fingerprint)

    def drop(self) -> None:
        """Nobody wants it. No thread is at it: a write is always waited for."""
        self._held.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        if self.path is not None:
            _remove(self.path)

    def _taken(self) -> bytes:
        taken = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        return taken

    # What follows runs in a thread.

    def _write(self, chunk: bytes) -> None:
        if self._file is None:
            self._file = tempfile.NamedTemporaryFile(prefix="ingest-", delete=False)  # noqa: SIM115 - closed by whoever ends it
            self.path = self._file.name
        self._file.write(chunk)

    def _finish(self, rest: bytes) -> Identity:
        assert self._file is not None  # noqa: S101 - `close` looked
        self._file.write(rest)
        self._file.flush()
        identity = Identity.of(self._file.fileno())
        self._file.close()
        return identity


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"A downloaded image can't be written to {tempfile.gettempdir()}: {error.strerror}.",
            code="machine",
            hint=MACHINE_HINT,
        ) from error


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - a name, and no path to reason about
