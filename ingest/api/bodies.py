"""Request bodies on their way out: in pieces, counted, and with their own errors kept.

Opens and closes nothing: whoever made the iterable closes it, and may do so once the exchange has returned.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import anyio

from ingest.errors import ImageChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

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
    """An iterable of exactly `size_bytes` bytes, handed to the HTTP library in place of the caller's own.

    It reads one piece ahead: the last one goes out only when the caller's iterable has ended well, so that no image
    that changed while it was read is ever whole at the other end. What the iterable raises is kept in `error`, since
    the library buries it in one of its own; a body of another length is `ImageChanged`. `is_whole` once the last piece
    is out.
    """

    def __init__(self, body: AsyncIterable[bytes | memoryview], size_bytes: int, deadline: Deadline) -> None:
        self._pieces = aiter(body)
        self._size_bytes = size_bytes
        self._deadline = deadline
        self._writer: asyncio.Task[object] | None = None
        self._read_bytes = 0
        self._handed_bytes = 0
        self._ahead: bytes | memoryview | None = None
        self.is_whole = False
        self.error: Exception | None = None

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes | memoryview:
        try:
            if self._writer is None:
                self._writer = asyncio.current_task()
                self._ahead = await self._read()
            piece = self._ahead
            # The library asks for a piece when the socket has taken the one before.
            self._deadline.progress(self._handed_bytes)
            if piece is not None:
                self._ahead = await self._read()
        except Exception as error:
            self.error = error
            raise
        self.is_whole = self._ahead is None
        if piece is None:
            raise StopAsyncIteration
        self._handed_bytes = len(piece)
        return piece

    async def _read(self) -> bytes | memoryview | None:
        piece = await anext(self._pieces, None)
        self._read_bytes += len(piece or b"")
        if self._read_bytes > self._size_bytes or (piece is None and self._read_bytes < self._size_bytes):
            raise ImageChanged(
                f"The image changed while it was sent: {self._read_bytes} bytes came where {self._size_bytes} were"
                " announced. Inspect it again.",
                reason="changed",
            )
        return piece

    async def stop(self) -> None:
        """Return when nothing reads from the caller's iterable any more, whichever way the exchange ended."""
        if self._writer is None or self._writer.done() or self._writer is asyncio.current_task():
            return
        self._writer.cancel()
        with anyio.move_on_after(STOP_DEADLINE_S, shield=True):
            await asyncio.wait({self._writer})
