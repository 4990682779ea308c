"""What others do, from their published descriptions; for comparison only.

Each is a `Lane`. None of them knows a limit beforehand; `BOUND` requests at once is what all may have at most.
"""

from __future__ import annotations

import heapq
import math
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.benchmarks.flow.servers import Verdict

BOUND = 64
FIXED = 20
# No power of two: who sets a number does not know the limit, and must not hit the model with 16 places by luck.


def is_throttle(status: int) -> bool:
    return status in {429, 503}


class Sleeping:
    """Each place retries its own request: it sleeps `Retry-After`, or a random part of `base * 2^n`, at most `cap`."""

    def __init__(self, seed: int, *, base_s: float, cap_s: float) -> None:
        self.random = random.Random(seed).random
        self._base_s, self._cap_s = base_s, cap_s
        self._due: list[tuple[float, int]] = []
        self._attempts: dict[float, list[int]] = {}

    def started(self, now: float) -> None:
        attempt = heapq.heappop(self._due)[1] if self._due and self._due[0][0] <= now + 1e-9 else 0
        self._attempts.setdefault(now, []).append(attempt)

    def asleep_s(self, now: float, started_at: float, verdict: Verdict) -> float:
        attempts = self._attempts[started_at]
        attempt = attempts.pop()
        if not attempts:
            del self._attempts[started_at]
        if not is_throttle(verdict.status):
            return 0.0
        span_s = self.random() * min(self._cap_s, self._base_s * 2.0 ** min(attempt, 30))
        span_s = max(verdict.retry_after_s or 0.0, span_s)
        heapq.heappush(self._due, (now + span_s, attempt + 1))
        return span_s


class FixedConcurrency(Sleeping):
    """So many places, full-jitter exponential back-off (Brooker, AWS Architecture Blog, 2015), base 0.5 s, cap 30 s."""

    def __init__(self, seed: int = 0, *, limit: int = FIXED) -> None:
        super().__init__(seed, base_s=0.5, cap_s=30.0)
        self.limit = limit

    def wait_s(self, now: float) -> float:
        return 0.0

    def ended(self, now: float, verdict: Verdict, *, started_at: float, in_flight: int) -> float:
        return self.asleep_s(now, started_at, verdict)


class Aimd(Sleeping):
    """Places by additive increase, multiplicative decrease (Chiu and Jain, 1989; TCP Reno): one more a round trip, and
    half as many at a refusal, once a round trip. What was refused sleeps as above."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, base_s=0.5, cap_s=30.0)
        self._places = 1.0
        self._cut_at = -math.inf

    @property
    def limit(self) -> int:
        return int(self._places)

    def wait_s(self, now: float) -> float:
        return 0.0

    def ended(self, now: float, verdict: Verdict, *, started_at: float, in_flight: int) -> float:
        if not is_throttle(verdict.status):
            if in_flight >= self.limit:
                self._places = min(BOUND, self._places + 1.0 / self._places)
        elif started_at >= self._cut_at:
            self._places = max(1.0, self._places / 2.0)
            self._cut_at = now
        return self.asleep_s(now, started_at, verdict)


class Arc:
    """Vector's Adaptive Request Concurrency (its documentation, and src/sinks/util/adaptive_concurrency/controller.rs).

    Once a round trip: 0.9 of the places after back pressure or a round trip above the mean by 2.5 deviations; one more
    where the limit was reached and the round trip is no longer than the mean. EWMA with alpha 0.4; starts with 1. The
    retry is outside of it: whoever waits to send again holds no place.
    """

    def __init__(self, seed: int = 0) -> None:
        self.limit = 1
        self._mean_s = 0.0
        self._variance = 0.0
        self._current_s = 0.0
        self._count = 0
        self._reached = False
        self._had_pressure = False
        self._update_at = 0.0

    def wait_s(self, now: float) -> float:
        return 0.0

    def started(self, now: float) -> None:
        pass

    def ended(self, now: float, verdict: Verdict, *, started_at: float, in_flight: int) -> float:
        rtt_s = now - started_at
        self._reached |= in_flight >= self.limit
        if is_throttle(verdict.status):
            self._had_pressure = True
        else:
            self._current_s = rtt_s if not self._count else 0.4 * rtt_s + 0.6 * self._current_s
            self._count += 1
        if now >= self._update_at:
            self._update(now)
        return 0.0

    def _update(self, now: float) -> None:
        current_s = self._current_s
        if self._mean_s:
            above_s = max(2.5 * math.sqrt(self._variance), 0.0)
            if self._reached and not self._had_pressure and self._count and current_s <= self._mean_s:
                self.limit = min(BOUND, self.limit + 1)
            elif self._had_pressure or (self._count and current_s >= self._mean_s + above_s):
                self.limit = max(1, int(self.limit * 0.9))
        if self._count:
            off_s = current_s - self._mean_s if self._mean_s else 0.0
            self._mean_s = self._mean_s + 0.4 * off_s if self._mean_s else current_s
            self._variance = 0.6 * (self._variance + 0.4 * off_s * off_s)
        self._update_at = now + (self._mean_s or 0.05)
        self._count = 0
        self._reached = self._had_pressure = False


class AwsAdaptive(Sleeping):
    """The AWS SDKs' adaptive retry mode (SDK reference guide, "Retry behavior"; botocore/retries/throttling.py).

    A token bucket in the client whose rate follows CUBIC: 0.7 of the measured rate after a throttle, then
    `0.4 (t - K)^3 + last maximum`, at most twice what was measured; besides, each request backs off up to 20 s.
    """

    BETA, SCALE, SMOOTH, MIN_RATE = 0.7, 0.4, 0.8, 0.5

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, base_s=1.0, cap_s=20.0)
        self.limit = BOUND
        self._is_enabled = False
        self._rate = self._capacity = self._tokens = 0.0
        self._at = 0.0
        self._measured = 0.0
        self._slot = 0.0
        self._count = 0
        self._last_max = 0.0
        self._throttled_at = 0.0
        self._window_s = 0.0

    def _refill(self, now: float) -> None:
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def wait_s(self, now: float) -> float:
        if not self._is_enabled:
            return 0.0
        self._refill(now)
        return max(0.0, (1.0 - self._tokens) / self._rate)

    def started(self, now: float) -> None:
        super().started(now)
        if self._is_enabled:
            self._refill(now)
            self._tokens -= 1.0

    def ended(self, now: float, verdict: Verdict, *, started_at: float, in_flight: int) -> float:
        self._count += 1
        slot = math.floor(now * 2.0) / 2.0
        if slot > self._slot:
            self._measured = self.SMOOTH * self._count / (slot - self._slot) + (1.0 - self.SMOOTH) * self._measured
            self._slot, self._count = slot, 0
        if is_throttle(verdict.status):
            rate = min(self._measured, self._rate) if self._is_enabled else self._measured
            self._last_max = rate
            self._window_s = (rate * (1.0 - self.BETA) / self.SCALE) ** (1.0 / 3.0)
            self._throttled_at = now
            wanted = self.BETA * rate
            self._is_enabled = True
        else:
            self._window_s = (self._last_max * (1.0 - self.BETA) / self.SCALE) ** (1.0 / 3.0)
            wanted = self.SCALE * (now - self._throttled_at - self._window_s) ** 3 + self._last_max
        if self._is_enabled:
            self._refill(now)
            self._rate = max(min(wanted, 2.0 * self._measured), self.MIN_RATE)
            self._capacity = max(self._rate, 1.0)
            self._tokens = min(self._tokens, self._capacity)
        return self.asleep_s(now, started_at, verdict)


class Constant:
    """An oracle's choice: so many requests a second, so many at once, whatever comes."""

    def __init__(self, *, limit: int = 10_000, rate: float = math.inf) -> None:
        self.limit = limit
        self._rate = rate
        self._next_at = 0.0

    def wait_s(self, now: float) -> float:
        return max(0.0, self._next_at - now)

    def started(self, now: float) -> None:
        self._next_at = max(self._next_at, now) + 1.0 / self._rate

    def ended(self, now: float, verdict: Verdict, *, started_at: float, in_flight: int) -> float:
        return 0.0
