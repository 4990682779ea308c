"""The rate limits of the plan: token bucket, fixed window, requests at once.

Pure: time is an argument, in seconds on any clock that only goes forward. Knows nothing of HTTP but a delay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ingest.sandbox.faults import Concurrency, FixedWindow, TokenBucket

if TYPE_CHECKING:
    from ingest.sandbox.faults import FaultPlan, Lane, Limit

__all__ = ["Limits", "Verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one limit says to one request."""

    is_allowed: bool
    limit: int
    remaining: int
    reset_s: float
    # Until a request may come again (when refused), or until the limit is whole again.


class _Meter(Protocol):
    def take(self, now_s: float) -> Verdict:
        """Count one request in, or refuse it, in which case it counts for nothing."""

    def give_back(self) -> None:
        """One request that was counted in has ended."""


class _TokenBucketMeter:
    def __init__(self, limit: TokenBucket) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._at_s: float | None = None

    def take(self, now_s: float) -> Verdict:
        limit = self._limit
        if self._at_s is not None:
            self._tokens = min(float(limit.burst), self._tokens + (now_s - self._at_s) * limit.rate)
        self._at_s = now_s
        is_allowed = self._tokens >= 1
        if is_allowed:
            self._tokens -= 1
            reset_s = (limit.burst - self._tokens) / limit.rate
        else:
            reset_s = (1 - self._tokens) / limit.rate
        return Verdict(is_allowed=is_allowed, limit=limit.burst, remaining=int(self._tokens), reset_s=reset_s)

    def give_back(self) -> None:
        """Time alone fills a bucket."""


class _FixedWindowMeter:
    def __init__(self, limit: FixedWindow) -> None:
        self._limit = limit
        self._count = 0
        self._end_s: float | None = None

    def take(self, now_s: float) -> Verdict:
        limit = self._limit
        if self._end_s is None or now_s >= self._end_s:
            self._end_s = now_s + limit.window_s
            self._count = 0
        is_allowed = self._count < limit.requests
        self._count += is_allowed
        return Verdict(
            is_allowed=is_allowed,
            limit=limit.requests,
            remaining=limit.requests - self._count,
            reset_s=self._end_s - now_s,
        )

    def give_back(self) -> None:
        """Only the next window forgets."""


class _ConcurrencyMeter:
    def __init__(self, limit: Concurrency) -> None:
        self._limit = limit
        self._in_flight = 0

    def take(self, now_s: float) -> Verdict:
        n = self._limit.n
        is_allowed = self._in_flight < n
        self._in_flight += is_allowed
        # Nobody knows when a request ends: one second is the shortest that `Retry-After` can say.
        return Verdict(is_allowed=is_allowed, limit=n, remaining=n - self._in_flight, reset_s=1.0)

    def give_back(self) -> None:
        self._in_flight -= 1


def _meter(limit: Limit) -> _Meter:
    match limit:
        case TokenBucket():
            return _TokenBucketMeter(limit)
        case FixedWindow():
            return _FixedWindowMeter(limit)
        case Concurrency():
            return _ConcurrencyMeter(limit)


class Limits:
    """Every limit of one plan, metered for each holder apart; a replaced plan begins anew."""

    def __init__(self, plan: FaultPlan) -> None:
        self._limits: dict[Lane, tuple[Limit, ...]] = {
            "api": tuple(limit for limit in plan.limits if limit.lane == "api"),
            "storage": tuple(limit for limit in plan.limits if limit.lane == "storage"),
        }
        self._meters: dict[tuple[Lane, str], list[_Meter]] = {}

    def enter(self, lane: Lane, holder: str, now_s: float) -> list[tuple[Limit, Verdict]]:
        """Ask the limits of the lane in order, up to and with the first refusal. Each allowed entry needs a `leave`.

        A refused request has left already: it holds nothing.
        """
        limits = self._limits[lane]
        if not limits:
            return []
        meters = self._meters.setdefault((lane, holder), [_meter(limit) for limit in limits])
        verdicts: list[tuple[Limit, Verdict]] = []
        for number, (limit, meter) in enumerate(zip(limits, meters, strict=True)):
            verdict = meter.take(now_s)
            verdicts.append((limit, verdict))
            if not verdict.is_allowed:
                for entered in meters[:number]:
                    entered.give_back()
                break
        return verdicts

    def leave(self, lane: Lane, holder: str) -> None:
        """The request that was allowed in has ended."""
        for meter in self._meters.get((lane, holder), ()):
            meter.give_back()
