"""How long a refused key is waited out, and when the API is asked about it meanwhile.

Knows neither keys nor files: that another key is there is the caller's word.
"""

from __future__ import annotations

import math
from typing import Final

from ingest.policy.retry import backoff_s

__all__ = ["Vigil"]

ASK_BASE_S: Final = 2.0
ASK_CAP_S: Final = 180.0
# From seconds, as a key that was just made may take some to be known, to three minutes: whoever has put things right
# does not wait for long, and a day of waiting is a few hundred requests.


class Vigil:
    """The wait for a key that the API takes, from `begin` to `end`, as often as it comes to that.

    Another key is asked about at once, and then with full jitter at growing intervals. So is the same key, but only
    where patience has no end: else the wait is for another one, and `is_over` after `patience_s`. Times are monotonic
    seconds, jitters in [0, 1).
    """

    def __init__(self, *, patience_s: float) -> None:
        self.patience_s = patience_s
        self._tries = 0
        self._ask_at = math.inf
        self._over_at = math.inf
        self._ended_at = -math.inf
        self._is_other = False

    def begin(self, now: float, *, jitter: float) -> None:
        """The key is refused. Soon after the last wait the intervals grow on: what ended that one mended nothing."""
        if now - self._ended_at >= ASK_CAP_S:
            self._tries = 0
        self._over_at = now + self.patience_s
        self._is_other = False
        self.asked(now, jitter=jitter)

    def renew(self, now: float) -> None:
        """Another key is there."""
        self._is_other = True
        self._tries = 0
        self._ask_at = now

    def asked(self, now: float, *, jitter: float) -> None:
        """The API was asked, and did not take the key."""
        self._tries += 1
        self._ask_at = now + backoff_s(self._tries, base_s=ASK_BASE_S, cap_s=ASK_CAP_S, jitter=jitter)

    def end(self, now: float) -> None:
        """The API takes the key."""
        self._ended_at = now

    def is_due(self, now: float) -> bool:
        """Whether the API is to be asked."""
        return now >= self._ask_at and (self._is_other or math.isinf(self.patience_s))

    def left_s(self, now: float) -> float:
        """Seconds until patience comes to its end; 0 when it has."""
        return max(0.0, self._over_at - now)

    def is_over(self, now: float) -> bool:
        """Whether patience has come to its end."""
        return now >= self._over_at
