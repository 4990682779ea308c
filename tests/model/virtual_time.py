"""An event loop that never waits: it runs what is ready, and says for how long it would sleep.

Time stands still while it runs; whoever owns the clock moves it between two turns. No threads, no sockets.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

__all__ = ["VirtualLoop"]


class _Selector(selectors.DefaultSelector):
    """Tells the loop to stop where it would begin to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.would_sleep_s = math.inf
        self.stop: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self.would_sleep_s = math.inf if timeout is None else timeout
            self.stop()
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`clock` is its time, and `time.monotonic` while it runs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        selector = _Selector()
        super().__init__(selector)
        selector.stop = self.stop
        self._waits = selector

    def time(self) -> float:
        return self._clock()

    def turn(self) -> float:
        """Run everything that can run at this moment; the seconds to its next timer, infinite without one."""
        real, time.monotonic = time.monotonic, self._clock
        try:
            self.run_forever()
        finally:
            time.monotonic = real
        return self._waits.would_sleep_s

    def spawn(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that runs with the next turn."""
        return self.create_task(main)
