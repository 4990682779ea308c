"""Something that happens again and again, and those who wait for its next time."""

from __future__ import annotations

import anyio

__all__ = ["Pulse"]


class Pulse:
    """Wakes all who wait, each time it beats; whoever comes after a beat waits for the next one.

    It says that something may have changed, and not what: look, wait, and look again.
    """

    def __init__(self) -> None:
        self._next: anyio.Event | None = None  # made by whoever waits first: most beats wake nobody

    def beat(self) -> None:
        """Wake all who wait."""
        if self._next is not None:
            self._next.set()
            self._next = None

    async def wait(self) -> None:
        """Wait for the next beat."""
        if self._next is None:
            self._next = anyio.Event()
        await self._next.wait()
