"""The thread that renders and writes log lines, so that whoever logs never waits.

Nothing here knows what a line looks like or who logs: it moves records to a stream, and counts what it could not move.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["QUEUE_LINES", "Stream", "Writer"]

QUEUE_LINES: Final = 10_000
# Lines that wait for the stream. At 300 jobs a second with debug on: half a minute of a terminal that is held still.


class Stream(Protocol):
    """Where lines go: one `write` a line, its end included, from the writer's own thread.

    `isatty` and `flush` are used where there are any. A stream that blocks holds up its writer, and nothing else.
    """

    def write(self, text: str, /) -> object:
        """Take one line; an exception means that it is lost."""
        ...


class Writer(logging.Handler):
    """Takes records at once and hands them to its thread; what finds no room is dropped.

    Not the standard library's QueueHandler and QueueListener: those render in the caller's thread, and stopping them
    waits for ever on a stream that takes nothing.
    """

    def __init__(self, stream: Stream, render: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._stream = stream
        self._render = render
        # Reentrant, unlike `Queue`: a finalizer may log in the middle of a `put`.
        self._queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._overflowed = 0
        self._unwritten = 0
        self._thread = threading.Thread(target=self._write_all, name="ingest-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost because the stream took them too slowly or not at all."""
        return self._overflowed + self._unwritten

    def emit(self, record: logging.LogRecord) -> None:
        """Queue `record`, or drop it; the handler's lock is held, so that the bound is exact."""
        if self._queue.qsize() < QUEUE_LINES:
            self._queue.put(record)
        else:
            self._overflowed += 1

    def drain(self, timeout_s: float) -> bool:
        """Write what is waiting and end the thread; False when the stream did not take it all in time."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def write(self, record: logging.LogRecord) -> None:
        """Write `record` from the caller's thread: after `drain`, for a last line."""
        try:
            self._stream.write(self._render(record) + "\n")
            flush = getattr(self._stream, "flush", None)
            if flush is not None:
                flush()
        except Exception:
            # A line that can't be written is no reason to stop, and there is nobody to tell.
            self._unwritten += 1

    def _write_all(self) -> None:
        while (record := self._queue.get()) is not None:
            self.write(record)
