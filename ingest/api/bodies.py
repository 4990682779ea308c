"""Request bodies on their way out: in pieces, counted, and with their own errors kept.

Closes no iterator of the caller's, who may do so once the exchange has returned; one that it made itself, to read an
iterable, it closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

import aiohttp
import anyio
from aiohttp.http import StreamWriter

from ingest.errors import ImageChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from aiohttp.client_proto import ResponseHandler

    from ingest.api.deadlines import Deadline

__all__ = ["PIECE_BYTES", "Upload", "in_pieces"]

PIECE_BYTES: Final = 32 * 1024
# A body larger than two of these is written in pieces, so that its progress can be seen; a smaller one goes out with
# its headers in one segment or two.

STOP_DEADLINE_S: Final = 5.0
# How long the end of an exchange waits for the body to let go: a read from a file ends in milliseconds.


async def in_pieces(body: bytes) -> AsyncIterator[memoryview]:
    """The bytes, without copying them."""
    view = memoryview(body)
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


class Upload:
    """An iterable of exactly `size_bytes` bytes, on its way to a connection while the answer is awaited.

    It reads one piece ahead: the last one goes out only when the caller's iterable has ended well, so that no image
    that changed while it was read is ever whole at the other end. What the iterable raises is kept in `error`; a body
    of another length is `ImageChanged`. `is_whole` once the iterable has ended well.
    """

    def __init__(self, body: AsyncIterable[bytes | memoryview], size_bytes: int, deadline: Deadline) -> None:
        self._pieces = aiter(body)
        self._is_own = self._pieces is not body
        self._size_bytes = size_bytes
        self._deadline = deadline
        self._writer: asyncio.Task[None] | None = None
        self._read_bytes = 0
        self.is_whole = False
        self.error: Exception | None = None

    @property
    def is_out(self) -> bool:
        """Whether all of it was handed to the connection."""
        return self.is_whole and self._writer is not None and self._writer.done()

    def begin(self, head: bytes, connection: ResponseHandler) -> None:
        """Write `head` and the body to its end, or until `stop`; where that fails, whoever awaits the answer is told.

        Nothing goes out before the first piece, and what comes after it, could be read.
        """
        # No task group: it lives as long as the exchange, which ends it by `stop` in any case.
        self._writer = asyncio.create_task(self._write(head, connection))

    async def _write(self, head: bytes, connection: ResponseHandler) -> None:
        writer = StreamWriter(connection, asyncio.get_running_loop())
        try:
            piece, ahead = await self._read(), await self._read()
            self.is_whole = ahead is None
            await writer.write(head)
            while piece is not None:
                await writer.write(piece)  # returns when the connection has room for more
                self._deadline.progress(len(piece))
                piece, ahead = ahead, await self._read()
                self.is_whole = ahead is None
        except Exception:
            # Without its cause: through the traceback it would hold the body, and whatever file that has open.
            connection.set_exception(aiohttp.ClientConnectionError("the body could not be sent"))
        finally:
            if self._is_own and isinstance(self._pieces, AsyncGenerator):
                await self._pieces.aclose()

    async def _read(self) -> bytes | memoryview | None:
        try:
            piece = await anext(self._pieces, None)
        except Exception as error:
            self.error = error
            raise
        self._read_bytes += len(piece or b"")
        if self._read_bytes > self._size_bytes or (piece is None and self._read_bytes < self._size_bytes):
            self.error = ImageChanged(
                f"The image changed while it was sent: {self._read_bytes} bytes came where {self._size_bytes} were"
                " announced. Inspect it again.",
                reason="changed",
            )
            raise self.error
        return piece

    async def stop(self) -> None:
        """Return when nothing reads from the caller's iterable any more, whichever way the exchange ended."""
        if self._writer is None or self._writer.done():
            return
        self._writer.cancel()
        with anyio.move_on_after(STOP_DEADLINE_S, shield=True):
            await asyncio.wait({self._writer})
