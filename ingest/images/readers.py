"""The reading threads of an event loop: few wake-ups for many files, and no file that waits for another's disk.

Knows nothing of files: a reading is any function that blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Readers"]

T = TypeVar("T")

MAX_THREADS: Final = 16
# Enough to keep a network disk busy, and few enough not to fight over the interpreter lock.

PATIENCE_S: Final = 0.02
# One thread reads some hundred small files in this time. Where one waits longer, the disk is what it waits for, and
# another thread helps. What is read by then is handed over, even if the thread that read it hangs at its next file.

BATCH: Final = 16
# A thread that always finds more hands over after so many.

IDLE_S: Final = 5.0


@dataclass(slots=True, eq=False)
class _Reading:
    work: Callable[[], Any]
    answer: asyncio.Future[Any]
    asked_at: float
    result: Any = None
    error: BaseException | None = None
    is_in_hand: bool = False
    is_given_up: bool = False


class Readers:
    """Runs blocking functions in threads of its own: one while it keeps up, `MAX_THREADS` for a slow disk.

    A thread goes from reading to reading and hands over what it has when nothing is left, so that neither a thread nor
    the event loop is woken for each. The threads end by themselves when they are idle, and hold up no exit.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._waiting: deque[_Reading] = deque()
        self._threads = 0
        self._idle = 0
        self._read: deque[_Reading] = deque()
        self._open = 0
        self._is_looking = False
        self._moved_at = 0.0  # monotonic seconds: when a thread last took a reading

    async def read(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, in a thread. Cancelled, it does not wait for a thread that is at it."""
        reading = _Reading(work, self._loop.create_future(), self._loop.time())
        if not self._waiting:  # else somebody is about to take it
            self._loop.call_soon(self._wake)  # one thread for all that this turn of the loop asks for
        self._waiting.append(reading)
        self._open += 1
        if not self._is_looking:
            self._look()
        try:
            answer: T = await reading.answer
        except asyncio.CancelledError:
            self._give_up(reading)
            raise
        finally:
            self._open -= 1
        return answer

    def _wake(self) -> None:
        with self._changed:
            # A thread that is at work takes what waits as soon as it is through, if it is not held up at what it has.
            is_held_up = time.monotonic() - self._moved_at >= PATIENCE_S
            if self._waiting and (self._idle == self._threads or (self._idle and is_held_up)):
                self._help()

    def _help(self) -> None:
        """One thread more to take what waits. Under the lock."""
        if self._idle:
            self._changed.notify()
        elif self._threads < MAX_THREADS:
            try:
                threading.Thread(target=self._work, name="ingest reader", daemon=True).start()
            except RuntimeError as error:  # the machine's limit
                if not self._threads:
                    self._fail(error)
            else:
                self._threads += 1

    def _fail(self, error: RuntimeError) -> None:
        while self._waiting:
            reading = self._waiting.popleft()
            reading.error = error
            self._read.append(reading)
        self._hand_over()

    def _look(self) -> None:
        """While anything is open: hand over what is held back by a slow disk, and send help for what waits for it."""
        self._is_looking = self._open > 0
        if self._is_looking:
            self._loop.call_later(PATIENCE_S, self._look)
        self._hand_over()
        with self._changed:
            if self._waiting and self._loop.time() - self._waiting[0].asked_at >= PATIENCE_S:
                self._help()

    def _hand_over(self) -> None:
        while self._read:
            reading = self._read.popleft()
            if reading.answer.done():
                continue
            if reading.error is not None:
                reading.answer.set_exception(reading.error)
            else:
                reading.answer.set_result(reading.result)

    def _give_up(self, reading: _Reading) -> None:
        """Take it back; a thread that is at it counts no more, for nobody knows whether it ever ends."""
        with self._changed:
            if reading in self._waiting:
                self._waiting.remove(reading)
            elif reading.is_in_hand:
                reading.is_given_up = True
                self._threads -= 1
        self._wake()

    # What follows runs in the threads.

    def _work(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            while (reading := self._next()) is not None:
                try:
                    reading.result = reading.work()
                except StopIteration as error:
                    reading.error = RuntimeError("a reading raised StopIteration, which no future takes")
                    reading.error.__cause__ = error
                except BaseException as error:
                    reading.error = error
                with self._changed:
                    if reading.is_given_up:
                        return
                    reading.is_in_hand = False
                self._read.append(reading)
                if not self._waiting or len(self._read) >= BATCH:
                    self._loop.call_soon_threadsafe(self._hand_over)

    def _next(self) -> _Reading | None:
        """The next reading, waited for a while; None: the thread is not needed any more."""
        with self._changed:
            self._idle += 1
            is_wanted = self._changed.wait_for(lambda: self._waiting, IDLE_S)
            self._idle -= 1
            if not is_wanted:
                self._threads -= 1
                return None
            reading = self._waiting.popleft()
            reading.is_in_hand = True
            self._moved_at = time.monotonic()
            return reading
