"""What a server says in rate-limit headers about what is left, and how fast it may be used.

Values and arithmetic: headers are read in `api.quota`. They say how many requests remain until a reset. Two kinds of
server send them, and can't be told apart: with a window the quota comes back at the reset; a token bucket refills all
the time, and its reset is the moment at which it is full. One rule fits both:

    at most `remaining` requests until the reset, spread evenly once less than `TAIL` of the quota remains

In a window it uses the quota up just at the reset; a bucket it keeps between empty and `TAIL`, and never waits for
longer than until it is full, so nothing is lost. Resets are whole seconds, rounded by nobody says which way: one second
and less tells nothing, and is left to the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["ROUNDING_S", "Quota", "Reserve"]

TAIL: Final = 0.5
# Before, a short job may have its requests at once; from there on, nobody who shares the quota finds it suddenly empty.

ROUNDING_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one answer told: requests `remaining` of `limit` (None: not told) until `reset_s` from now on."""

    remaining: int
    reset_s: float
    limit: int | None = None


class Reserve:
    """What is left by the last word of the server. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._remaining = 0
        self._tail = math.inf
        self._until = -math.inf

    def told(self, now: float, quota: Quota, *, in_flight: int) -> None:
        """An answer told of its quota; `in_flight` requests more may not be counted in it yet."""
        if quota.reset_s > ROUNDING_S:
            self._until = now + quota.reset_s
        elif not now <= self._until <= now + quota.reset_s + ROUNDING_S:  # not the last second of what was told before
            self._until = -math.inf
        self._remaining = quota.remaining - in_flight
        self._tail = math.inf if quota.limit is None else TAIL * quota.limit

    def started(self) -> None:
        """A request starts."""
        self._remaining -= 1

    def next_at(self, now: float, last_at: float) -> float:
        """When the next request may start, the last one having started at `last_at`."""
        if now >= self._until or self._remaining > self._tail:
            return -math.inf
        if self._remaining <= 0:
            return self._until
        return last_at + max(0.0, self._until - ROUNDING_S - last_at) / self._remaining
