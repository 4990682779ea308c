"""The hosts of URLs: how many requests at once each is asked, and which of them take no connection.

Knows no URLs and sends nothing. A manifest may name a million hosts, and a hundred thousand images on one that is dead:
what is remembered is bounded, and a dead host is not waited for again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Hosts"]

DOWN_AFTER: Final = 8
# Connections in a row that failed: as often as one image is tried by itself (`FlowSettings.max_attempts`).

DOWN_S: Final = 60.0
# For so long nobody waits for it, then one request tries it again.

MAX_REMEMBERED: Final = 10_000


@dataclass(slots=True)
class _Failing:
    """A host that failed the last time."""

    failures: int = 0
    ask_again_at: float = 0.0  # by the clock, once it is down


class Hosts:
    """Every host that is asked at this moment, and those that failed lately."""

    def __init__(self, max_requests: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_requests = max_requests
        self._clock = clock
        self._asked: dict[str, tuple[asyncio.Semaphore, list[None]]] = {}
        self._failing: dict[str, _Failing] = {}

    @property
    def asked_count(self) -> int:
        """Hosts that are asked, or about to be."""
        return len(self._asked)

    @contextlib.asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Be one of the few that ask this host, first come, first served."""
        slots, users = self._asked.setdefault(host, (asyncio.Semaphore(self._max_requests), []))
        users.append(None)
        try:
            async with slots:
                yield
        finally:
            users.pop()
            if not users:
                del self._asked[host]

    def is_down(self, host: str) -> bool:
        """Whether it would be in vain to ask. Now and then it says no, to let whoever asks find out."""
        failing = self._failing.get(host)
        if failing is None or failing.failures < DOWN_AFTER:
            return False
        now = self._clock()
        if now < failing.ask_again_at:
            return True
        failing.ask_again_at = now + DOWN_S
        return False

    def failed(self, host: str) -> None:
        """It took no connection."""
        failing = self._failing.setdefault(host, _Failing())
        failing.failures += 1
        failing.ask_again_at = self._clock() + DOWN_S
        if len(self._failing) > MAX_REMEMBERED:
            del self._failing[next(iter(self._failing))]  # the one that began to fail first

    def answered(self, host: str) -> None:
        """It is there."""
        self._failing.pop(host, None)
