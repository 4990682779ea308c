"""How fast a lane may start requests: the user's bound, and what refusals teach.

Knows neither the concurrency nor who waits. The algorithm, with `r` in requests a second:

- Spacing: request n may start at `max(t(n-1) + 1/r, now - slack)`, the leaky bucket as GCRA (ITU-T I.371). The slack
  of 50 ms lets a late wake-up catch up; over a second the bound holds to within 5 %.
- A refusal pauses the lane: for `Retry-After` where it came, else for 1 s doubled by each refusal in a row, at most
  60 s, with the upper half jittered so that many workers don't return together.
- Refusals within a pause are the echo of one overload and teach nothing more.
- A refusal with `Retry-After` says all there is to know: after the pause the lane goes on as before. One without it
  sets the pace to 0.7 of what was accepted since the last one (β of CUBIC, RFC 9438 §4.6); from there it rises by 10 %
  a second of acceptance up to the user's bound: cautious, and it forgets an old limit within half a minute.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Pacer", "is_refusal"]

SLACK_S: Final = 0.05
BETA: Final = 0.7
GROWTH_PER_S: Final = 1.1
MIN_RATE: Final = 0.1
# One request in ten seconds: slower than any limit worth naming, and still a probe.

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0

MIN_EPOCH_S: Final = 0.5
# A shorter time between two refusals measures a burst, not a rate.


def is_refusal(status: int | None, retry_after_s: float | None) -> bool:
    """Whether an answer of that status refuses the whole lane, and not the one request."""
    return status == 429 or (status == 503 and retry_after_s is not None)


class Pacer:
    """The pace of one lane. Times are monotonic seconds; `bound` is requests a second, None for none."""

    def __init__(self, *, bound: float | None) -> None:
        self._bound = math.inf if bound is None else bound
        self.rate = self._bound
        self.paused_until = -math.inf
        self._next_at = -math.inf
        self._epoch_at: float | None = None
        self._accepted = 0
        self._refusals = 0
        self._grown_at = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next request may start; 0 when it may."""
        return max(0.0, self.paused_until - now, self._next_at - now)

    def started(self, now: float) -> None:
        """A request starts."""
        if self._epoch_at is None:
            self._epoch_at = now
        if math.isfinite(self.rate):
            self._next_at = max(self._next_at, now - SLACK_S) + 1.0 / self.rate

    def accepted(self, now: float) -> None:
        """An answer came that was no refusal."""
        self._accepted += 1
        self._refusals = 0
        if self.rate < self._bound and now - self._grown_at >= 1.0:
            # After an idle spell growth counts one second: what nobody asked for was not accepted either.
            self.rate = min(self._bound, self.rate * GROWTH_PER_S)
            self._grown_at = now

    def refused(self, now: float, *, retry_after_s: float | None, jitter: float) -> float:
        """A 429, or a 503 with `Retry-After`. Returns the seconds of pause that this adds; `jitter` is in [0, 1)."""
        before = max(now, self.paused_until)
        is_echo = now < self.paused_until
        if retry_after_s is not None:
            self.paused_until = max(self.paused_until, now + retry_after_s)
        elif not is_echo:
            self._learn(now)
            self._refusals += 1
            pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._refusals - 1, 32))
            self.paused_until = now + pause_s * (0.5 + 0.5 * jitter)
        return max(0.0, self.paused_until - before)

    def _learn(self, now: float) -> None:
        if self._epoch_at is not None and now - self._epoch_at >= MIN_EPOCH_S:
            measured = self._accepted / (now - self._epoch_at)
            self.rate = min(self._bound, max(MIN_RATE, BETA * min(measured, self.rate)))
        self._epoch_at = None
        self._accepted = 0
        self._grown_at = now
