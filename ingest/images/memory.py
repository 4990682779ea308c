"""The byte budget: how many bytes of images are in memory at once, over all jobs.

Counts and waits; allocates nothing and knows no files.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import anyio

__all__ = ["MemoryBudget"]


@dataclass(slots=True, eq=False)
class _Waiter:
    size_bytes: int
    granted: anyio.Event = field(default_factory=anyio.Event)


class MemoryBudget:
    """A number of bytes that jobs share, handed out strictly in the order they asked.

    A job holds at most one reservation and never waits while it holds one, so the budget can't deadlock. For one
    event loop.
    """

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 1:
            raise ValueError(f"a budget of {limit_bytes} bytes could never be used")
        self.limit_bytes = limit_bytes
        self._held_bytes = 0
        self._waiters: deque[_Waiter] = deque()

    @property
    def held_bytes(self) -> int:
        """What is reserved at this moment; above `limit_bytes` only while one larger item is alone."""
        return self._held_bytes

    async def acquire(self, size_bytes: int) -> None:
        """Reserve `size_bytes`, after everyone who asked before; pair it with `release`.

        More than the whole budget is granted once nothing else is held. Cancelled while waiting, it holds nothing and
        those behind move up.
        """
        if size_bytes < 0:
            raise ValueError(f"can't reserve {size_bytes} bytes")
        if not self._waiters and self._fits(size_bytes):
            self._held_bytes += size_bytes
            return
        waiter = _Waiter(size_bytes)
        self._waiters.append(waiter)
        try:
            await waiter.granted.wait()
        except BaseException:
            if waiter.granted.is_set():
                self.release(size_bytes)
            else:
                self._waiters.remove(waiter)
                self._grant()
            raise

    def release(self, size_bytes: int) -> None:
        """Give back `size_bytes`, all or a part of what was reserved; never waits."""
        if not 0 <= size_bytes <= self._held_bytes:
            raise ValueError(f"can't give back {size_bytes} bytes of {self._held_bytes} reserved")
        self._held_bytes -= size_bytes
        self._grant()

    def _fits(self, size_bytes: int) -> bool:
        return self._held_bytes == 0 or self._held_bytes + size_bytes <= self.limit_bytes

    def _grant(self) -> None:
        while self._waiters and self._fits(self._waiters[0].size_bytes):
            waiter = self._waiters.popleft()
            self._held_bytes += waiter.size_bytes
            waiter.granted.set()
