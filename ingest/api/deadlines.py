"""Timeouts for *no progress*: one sweeper looks over all open requests, instead of a timer for each.

Knows tasks, clocks and numbers of bytes; what a request is, and what counts as one of its bytes, it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["PROGRESS_BYTES", "Deadline", "Deadlines", "Expired"]

PROGRESS_BYTES: Final = 16 * 1024
# What must have moved since the last mark to count as progress: a server that drips a byte a second gets nowhere.

TICKS_PER_TIMEOUT: Final = 4
MAX_TICK_S: Final = 1.0
# A request ends at most a quarter of the timeout, and at most a second, after it is due.

SUSPEND_SLACK_S: Final = 5.0
# CLOCK_BOOTTIME runs on in suspend, CLOCK_MONOTONIC does not: they never part for any other reason.

WALL_SLACK_S: Final = 60.0
# Elsewhere the wall clock stands in, and that one is also stepped by NTP and by people.

Clock: TypeAlias = Callable[[], float]


class Expired(Exception):
    """The block under a `Deadline` made no progress in time and was cancelled."""


if sys.platform == "linux":

    def _awake_and_asleep() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    _SLEEP_SLACK_S = SUSPEND_SLACK_S
else:
    _awake_and_asleep = time.time
    _SLEEP_SLACK_S = WALL_SLACK_S


class Deadlines:
    """The deadlines of one lane.

    `timeout_s` is the longest a block may go without progress. `elapsed` is a clock that runs on while the machine
    sleeps and `clock` one that does not; when they part by more than `sleep_slack_s` between two sweeps, the machine
    slept, and every open block expires: its peer has long given up.
    """

    def __init__(
        self,
        timeout_s: float,
        *,
        clock: Clock = time.monotonic,
        elapsed: Clock = _awake_and_asleep,
        sleep_slack_s: float = _SLEEP_SLACK_S,
    ) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._elapsed = elapsed
        self._sleep_slack_s = sleep_slack_s
        self._asleep_s = elapsed() - clock()
        self._open: set[Deadline] = set()

    def guard(self) -> Deadline:
        """A context for one block of the current task; leaving it expired raises `Expired`."""
        return Deadline(self._open, self._clock)

    def sweep(self) -> None:
        """Expire every block that is due, or all of them if the machine has slept."""
        now = self._clock()
        asleep_s = self._elapsed() - now
        has_slept = asleep_s - self._asleep_s > self._sleep_slack_s
        self._asleep_s = asleep_s
        for deadline in [d for d in self._open if has_slept or now - d.marked_at >= self.timeout_s]:
            deadline.expire()

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[None]:
        """Sweep regularly on the running loop until the block is left."""
        loop = asyncio.get_running_loop()
        tick_s = min(self.timeout_s / TICKS_PER_TIMEOUT, MAX_TICK_S)

        handle: asyncio.TimerHandle

        def tick() -> None:
            nonlocal handle
            handle = loop.call_later(tick_s, tick)
            self.sweep()

        handle = loop.call_later(tick_s, tick)
        try:
            yield
        finally:
            handle.cancel()


class Deadline:
    """One block that has to make progress. Entered once, in the task that is cancelled when it does not.

    Expiry and a cancellation from outside are told apart by counting, as `asyncio.timeout` does: `Expired` is raised
    only where nobody else asked this task to stop; else the cancellation goes on untouched.
    """

    __slots__ = ("_cancelling", "_clock", "_is_expired", "_moved_bytes", "_open", "_task", "marked_at")

    def __init__(self, open_deadlines: set[Deadline], clock: Clock) -> None:
        self._open = open_deadlines
        self._clock = clock
        self._moved_bytes = 0
        self._is_expired = False

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        if task is None:
            msg = "a deadline guards a task, and there is none"
            raise RuntimeError(msg)
        self._task = task
        self._cancelling = task.cancelling()
        self.marked_at = self._clock()
        self._open.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.discard(self)
        if self._is_expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise Expired from None

    def progress(self, size_bytes: int) -> None:
        """So many bytes have moved."""
        self._moved_bytes += size_bytes
        if self._moved_bytes >= PROGRESS_BYTES:
            self._moved_bytes = 0
            self.marked_at = self._clock()

    def expire(self) -> None:
        """Cancel the block, once."""
        self._open.discard(self)
        self._is_expired = True
        self._task.cancel()
