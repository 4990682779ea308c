"""How many requests a lane may send again: a budget of retries, so that an outage is not met with a storm.

An empty budget delays a retry and never fails it; in which order they wait, and for what else, is the caller's.

Each first try deposits `RATIO`, each retry withdraws 1, and `MIN_RETRIES_PER_S` come in by themselves; what is saved
is bounded. So over any time the

    retries <= RATIO * first tries + MIN_RETRIES_PER_S * seconds + RESERVE
"""

from __future__ import annotations

from typing import Final

__all__ = ["RetryBudget"]

RATIO: Final = 0.2
MIN_RETRIES_PER_S: Final = 10.0
RESERVE: Final = 100.0
# The defaults of Finagle's RetryBudget: 20 % of the requests, 10 a second for small runs, and ten seconds of those
# saved up (https://twitter.github.io/finagle/guide/Clients.html#retry-budget).

ROUNDING: Final = 1e-9
# Who has waited as long as told must not be told to wait again for what rounding took.


class RetryBudget:
    """One lane's budget; full at first. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._balance = RESERVE
        self._at: float | None = None
        self._granted = 0  # retries that have not started yet

    def balance(self, now: float) -> float:
        """How many retries may be sent at once; never negative."""
        if self._at is not None:
            self._balance = min(RESERVE, self._balance + MIN_RETRIES_PER_S * max(0.0, now - self._at))
        self._at = now
        return self._balance

    def wait_s(self, now: float) -> float:
        """Seconds until one retry may be sent; 0 when it may. At most `1 / MIN_RETRIES_PER_S`."""
        missing = 1.0 - self.balance(now)
        return missing / MIN_RETRIES_PER_S if missing > ROUNDING else 0.0

    def retried(self, now: float) -> None:
        """A retry is sent; only when none has to wait."""
        self._balance = max(0.0, self.balance(now) - 1.0)
        self._granted += 1

    def started(self) -> None:
        """A request starts, a first try or a retry that was granted before: which one it is does not matter."""
        if self._granted:
            self._granted -= 1
        else:
            self._balance = min(RESERVE, self._balance + RATIO)
