"""A lane's gate: no request starts but when concurrency, pace and the breaker allow it.

Carries out what `policy` decides; retries nothing. Whoever waits here holds no place in any lane.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ingest.api.answers import is_foreign, retry_after_s
from ingest.api.quota import quota_of
from ingest.api.transport import NoAnswer
from ingest.model import Lane
from ingest.observe.logging import get_logger
from ingest.policy.breaker import Breaker
from ingest.policy.budget import RetryBudget
from ingest.policy.concurrency import Concurrency
from ingest.policy.pacing import Pacer, is_refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.api.transport import Answer, Call, Transport
    from ingest.errors import Fatal
    from ingest.observe.recorders import LaneRecorder, RequestRecorder
    from ingest.pipeline.stop import Stopped
    from ingest.policy.quota import Quota
    from ingest.settings import FlowSettings

__all__ = ["Gate", "GatedTransport", "Traffic", "TurnedAway"]

log = get_logger("pipeline")

NAMES: Final = {Lane.API: "API", Lane.STORAGE: "storage"}

REFUSED_KEY: Final = frozenset({401, 402, 403})


class TurnedAway(Exception):
    """Raised in whoever waits with a request that is out of date: make it anew and ask again. Nothing was sent."""


@dataclass(slots=True)
class Traffic:
    """What passed the gates, for the summary."""

    requests: int = 0
    throttled: int = 0
    bytes_uploaded: int = 0


class Gate:
    """One lane's limits, and the queue before them; first come, first served.

    `enter` and `leave` come in pairs. `hold` lets nothing start until `release` or `shut`; `shut` is for good, with the
    `Fatal` that no key heals, or `Stopped` at the end of a run.
    `refusal` is what a person must put right before a held gate is released; None where nobody has to. `backing_off`
    is how many requests will come back to it after a pause of their own.
    """

    def __init__(self, lane: Lane, settings: FlowSettings, *, rate: float | None, recorder: LaneRecorder) -> None:
        self.lane = lane
        self.in_flight = 0
        self.backing_off = 0
        self.last_failure: str | None = None
        self.refusal: Fatal | None = None
        self.places = Concurrency(bound=settings.concurrency)
        self.pacer = Pacer(bound=rate)
        # Above what one job alone can fail: it must not stop a lane.
        self.breaker = Breaker(threshold=2 * settings.max_attempts)
        self.budget = RetryBudget()
        self._max_retry_after_s = settings.max_retry_after_s
        self._recorder = recorder
        self._waiting: deque[asyncio.Future[float]] = deque()
        self._is_held = False
        self._verdict: Fatal | Stopped | None = None
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether any request is under way, waits here, or will come back."""
        return self.in_flight > 0 or self.backing_off > 0 or any(not place.done() for place in self._waiting)

    @property
    def concurrency(self) -> int:
        """How many requests may be under way at once."""
        return self.places.limit

    @property
    def wait_s(self) -> float:
        """Seconds until a request may start as far as pace and breaker go; infinite while a probe is out."""
        now = time.monotonic()
        return max(self.pacer.wait_s(now), self.breaker.wait_s(now))

    async def enter(self) -> float:
        """Wait for a place, and take it; when it was taken. Raises what shut the gate, and `TurnedAway`."""
        if self._verdict is not None:
            raise self._verdict
        if not self._waiting and self._may_start():
            return self._start()
        asked = time.monotonic()
        place: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._pump()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.breaker.abandoned()  # the place was given as the wait was cancelled
                self._leave()
            raise
        finally:
            self._recorder.lane_wait(self.lane, time.monotonic() - asked)

    def leave(
        self,
        end: Answer | NoAnswer | None,
        *,
        started_at: float | None = None,
        retry_after_s: float | None = None,
        quota: Quota | None = None,
        is_foreign: bool = False,
    ) -> None:
        """Give the place back with what came of it; None for a request that was cancelled.

        `started_at` is what `enter` returned, None for a moment ago. `is_foreign`: somebody else answered in the
        server's place, which says as little of it as silence.
        """
        now = time.monotonic()
        if started_at is None:
            started_at = now
        if quota is not None and not is_foreign:
            if quota.reset_s > self._max_retry_after_s:  # as with a Retry-After: then ask whether it still holds
                quota = replace(quota, reset_s=self._max_retry_after_s)
            self.pacer.told(now, quota, in_flight=self.in_flight - 1)
        match end:
            case None:
                self.breaker.abandoned()
            case NoAnswer():
                self.last_failure = str(end)
                self.breaker.failed(now, jitter=random.random())  # noqa: S311 - jitter, not a secret
            case _ if is_refusal(end.status, retry_after_s):
                kept_s = self._bounded(retry_after_s, now)
                pause_s = self.pacer.refused(
                    now,
                    started_at=started_at,
                    retry_after_s=kept_s,
                    jitter=random.random(),  # noqa: S311
                )
                self._recorder.lane_paused(self.lane, "throttled" if retry_after_s is None else "retry_after", pause_s)
                if is_foreign:
                    self._failed(end.status, now, is_foreign=True)
                else:
                    self.breaker.answered()
            case _ if end.status >= 500 or is_foreign:
                if end.status == 503 and not is_foreign:
                    self.places.overloaded(now, started_at=started_at, in_flight=self.in_flight)
                self._failed(end.status, now, is_foreign=is_foreign)
            case _:
                self.pacer.accepted(now, started_at=started_at)
                self.places.answered(now, started_at=started_at, in_flight=self.in_flight)
                self.breaker.answered()
        self._leave()

    def hold(self, refusal: Fatal | None = None) -> None:
        """Start nothing more until told; with a `refusal`, until a person has acted on it."""
        self._is_held = True
        if refusal is not None:
            self.refusal = refusal

    def release(self) -> None:
        """Start again after a `hold`."""
        self._is_held = False
        self.refusal = None
        self._pump()

    def shut(self, reason: Fatal | Stopped) -> None:
        """Start nothing any more: whoever waits, or comes later, is told why."""
        self._verdict = reason
        self.refusal = None
        self._send_off(reason)

    def turn_away(self) -> None:
        """Have whoever waits make the request anew, if it is still to be made, and with the key that is in use."""
        self._send_off(TurnedAway())

    def _send_off(self, reason: Exception) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(reason)

    def _bounded(self, retry_after_s: float | None, now: float) -> float | None:
        if retry_after_s is None or retry_after_s <= self._max_retry_after_s:
            return retry_after_s
        if now >= self.pacer.paused_until:  # once a pause: its echoes ask for the same
            log.warning(
                "pause.shortened", lane=self.lane.value, asked_s=round(retry_after_s), kept_s=self._max_retry_after_s
            )
        return self._max_retry_after_s

    def _failed(self, status: int, now: float, *, is_foreign: bool) -> None:
        self.last_failure = f"HTTP {status}, and not from the {NAMES[self.lane]}" if is_foreign else f"HTTP {status}"
        self.breaker.failed(now, jitter=random.random())  # noqa: S311

    def _may_start(self) -> bool:
        return not self._is_held and self.in_flight < self.concurrency and self.wait_s <= 0.0

    def _start(self) -> float:
        now = time.monotonic()
        self.in_flight += 1
        self.pacer.started(now)
        self.breaker.started()
        self.budget.started()
        return now

    def _leave(self) -> None:
        self.in_flight -= 1
        self._pump()

    def _pump(self) -> None:
        """Give places while there are any; where only time is missing, come back then."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._waiting and not self._is_held:
            if self._waiting[0].done():
                self._waiting.popleft()
            elif self.in_flight >= self.concurrency:
                break
            elif (wait_s := self.wait_s) > 0.0:
                # The same reading decides and sets the alarm: a second one could find nothing left to wait for.
                if wait_s < math.inf:
                    self._alarm = asyncio.get_running_loop().call_later(wait_s, self._pump)
                break
            else:
                self._waiting.popleft().set_result(self._start())


class GatedTransport:
    """A `Transport` that passes every call through the gate of its lane, and tells what came of it."""

    def __init__(self, inner: Transport, gates: Mapping[Lane, Gate], *, recorder: RequestRecorder) -> None:
        self._inner = inner
        self._gates = gates
        self._recorder = recorder
        self.traffic = Traffic()

    async def exchange(self, call: Call) -> Answer:
        """See `Transport.exchange`; also what `Gate.enter` raises."""
        gate = self._gates[call.operation.lane]
        started_at = await gate.enter()
        self.traffic.requests += 1
        sent_at = time.monotonic()
        end: Answer | NoAnswer | None = None
        try:
            end = await self._inner.exchange(call)
        except NoAnswer as error:
            end = error
            raise
        else:
            return end
        finally:
            self._told(call, gate, end, started_at, time.monotonic() - sent_at)

    def _told(
        self, call: Call, gate: Gate, end: Answer | NoAnswer | None, started_at: float, duration_s: float
    ) -> None:
        retry_after, left, foreign = None, None, False
        match end:
            case None:
                pass
            case NoAnswer():
                self._recorder.request(call.operation, end.failure.value, duration_s)
            case _:
                self._recorder.request(call.operation, str(end.status), duration_s)
                wall = time.time()
                retry_after = retry_after_s(end.headers, wall)
                left = quota_of(end.headers, wall)
                foreign = is_foreign(call, end)
                if end.status == 429:
                    self.traffic.throttled += 1
                elif end.status in REFUSED_KEY and gate.lane is Lane.API:
                    gate.hold()  # before the place is given to another: it would be refused as well
        gate.leave(end, started_at=started_at, retry_after_s=retry_after, quota=left, is_foreign=foreign)
