"""The servers of the simulation: how each decides about one request, and how much it would take under endless demand.

No network, no clock: times are arguments, in seconds. A refusal costs the server nothing.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ingest.policy.quota import Quota

if TYPE_CHECKING:
    import random


class Verdict(NamedTuple):
    """What becomes of one request: its status, how long the server is busy with it, and what the headers say."""

    status: int
    busy_s: float = 0.0
    retry_after_s: float | None = None
    quota: Quota | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """Which headers the server sends."""

    retry_after: bool = False
    quota: bool = False


class Server:
    """One limit. `arrive` decides about a request, `depart` ends one that was taken."""

    window_s = 1.0
    offset_s = 0.0
    busy_s = 0.003

    def __init__(self, headers: Headers, dice: random.Random) -> None:
        self.headers = headers
        self.dice = dice

    def arrive(self, now: float) -> Verdict:
        raise NotImplementedError

    def depart(self) -> None:
        """Most limits count beginnings only."""

    def allowed(self, since: float, until: float) -> float:
        """Requests that this server would take between two times under endless demand."""
        raise NotImplementedError

    def rate(self, now: float) -> float:
        """The same as a rate, for charts."""
        return self.allowed(now, now + self.window_s) / self.window_s

    def taken(self, limit: int, remaining: int, reset_s: float) -> Verdict:
        return Verdict(200, self.busy_s, None, self._quota(limit, remaining, reset_s))

    def refused(self, limit: int, reset_s: float) -> Verdict:
        told = float(math.ceil(reset_s)) if self.headers.retry_after else None
        return Verdict(429, 0.0, told, self._quota(limit, 0, reset_s))

    def _quota(self, limit: int, remaining: int, reset_s: float) -> Quota | None:
        if not self.headers.quota:
            return None
        return Quota(limit=limit, remaining=remaining, reset_s=float(math.ceil(reset_s)))


class TokenBucket(Server):
    """`rate` requests a second, `burst` at once. `moves` are times from which the rate is another."""

    def __init__(
        self,
        headers: Headers,
        dice: random.Random,
        *,
        rate: float,
        burst: int,
        moves: tuple[tuple[float, float], ...] = (),
        failing: float = 0.0,
    ) -> None:
        super().__init__(headers, dice)
        self._rates = ((0.0, rate), *moves)
        self._burst = burst
        self._failing = failing
        self._tokens = float(burst)
        self._at = 0.0

    def arrive(self, now: float) -> Verdict:
        rate = self.rate(now)
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens < 1.0:
            return self.refused(self._burst, (1.0 - self._tokens) / rate)
        self._tokens -= 1.0
        verdict = self.taken(self._burst, int(self._tokens), (self._burst - self._tokens) / rate)
        if self._failing and self.dice.random() < self._failing:
            return verdict._replace(status=500)
        return verdict

    def rate(self, now: float) -> float:
        return next(rate for since, rate in reversed(self._rates) if now >= since)

    def allowed(self, since: float, until: float) -> float:
        ends = [*(at for at, _ in self._rates[1:]), math.inf]
        return sum(
            rate * max(0.0, min(until, end) - max(since, at)) for (at, rate), end in zip(self._rates, ends, strict=True)
        )


class FixedWindow(Server):
    """`requests` in each minute of the server's clock, which is `offset_s` into one as the simulation begins."""

    window_s = 60.0

    def __init__(self, headers: Headers, dice: random.Random, *, requests: int, offset_s: float = 23.0) -> None:
        super().__init__(headers, dice)
        self._requests = requests
        self.offset_s = offset_s
        self._number = -1
        self._count = 0

    def arrive(self, now: float) -> Verdict:
        number, into_s = divmod(now + self.offset_s, self.window_s)
        if number != self._number:
            self._number, self._count = number, 0
        left_s = self.window_s - into_s
        if self._count >= self._requests:
            return self.refused(self._requests, left_s)
        self._count += 1
        return self.taken(self._requests, self._requests - self._count, left_s)

    def allowed(self, since: float, until: float) -> float:
        return self._requests * (until - since) / self.window_s


class SlidingWindow(Server):
    """`requests` in any minute, whenever it begins."""

    window_s = 60.0

    def __init__(self, headers: Headers, dice: random.Random, *, requests: int) -> None:
        super().__init__(headers, dice)
        self._requests = requests
        self._taken: deque[float] = deque()

    def arrive(self, now: float) -> Verdict:
        taken = self._taken
        while taken and taken[0] <= now - self.window_s:
            taken.popleft()
        if len(taken) >= self._requests:
            return self.refused(self._requests, taken[0] + self.window_s - now)
        taken.append(now)
        return self.taken(self._requests, self._requests - len(taken), taken[0] + self.window_s - now)

    def allowed(self, since: float, until: float) -> float:
        return self._requests * (until - since) / self.window_s


class AtOnce(Server):
    """`places` requests at once, and a 503 without a word for whoever comes when all are taken."""

    def __init__(self, headers: Headers, dice: random.Random, *, places: int, busy_s: float) -> None:
        super().__init__(headers, dice)
        self._places = places
        self._open = 0
        self.busy_s = busy_s

    def arrive(self, now: float) -> Verdict:
        if self._open >= self._places:
            return Verdict(503)
        self._open += 1
        return Verdict(200, self.busy_s * (0.8 + 0.4 * self.dice.random()))

    def depart(self) -> None:
        self._open -= 1

    def allowed(self, since: float, until: float) -> float:
        return (until - since) * self._places / self.busy_s


class Knee(Server):
    """Works on `places` requests at once; more of them wait in a queue, and nobody is refused."""

    def __init__(self, headers: Headers, dice: random.Random, *, places: int, busy_s: float) -> None:
        super().__init__(headers, dice)
        self._free_at = [0.0] * places
        self.busy_s = busy_s

    def arrive(self, now: float) -> Verdict:
        begins = max(now, self._free_at[0])
        ends = begins + self.busy_s * (0.8 + 0.4 * self.dice.random())
        heapq.heapreplace(self._free_at, ends)
        return Verdict(200, ends - now)

    def allowed(self, since: float, until: float) -> float:
        return (until - since) * len(self._free_at) / self.busy_s


class Unlimited(Server):
    """Takes whatever comes, but refuses a share of it by chance; `rate` is what its callers can bring at most."""

    def __init__(
        self,
        headers: Headers,
        dice: random.Random,
        *,
        busy_s: float,
        rate: float,
        refusing: float,
        retry_after_s: float | None,
    ) -> None:
        super().__init__(headers, dice)
        self.busy_s = busy_s
        self._rate = rate
        self._refusing = refusing
        self._retry_after_s = retry_after_s

    def arrive(self, now: float) -> Verdict:
        if self.dice.random() < self._refusing:
            return Verdict(429, 0.0, self._retry_after_s)
        return Verdict(200, self.busy_s)

    def allowed(self, since: float, until: float) -> float:
        return self._rate * (1.0 - self._refusing) * (until - since)
