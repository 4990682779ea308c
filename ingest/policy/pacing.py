"""How fast a lane may start requests: the user's bound, what the server says, and what refusals teach.

Knows neither the concurrency nor who waits; the pace itself is searched for in `search`. Here is what carries it out:

- Spacing: request n may start at `max(t(n-1) + 1/r, now - slack)`, the leaky bucket as GCRA (ITU-T I.371). The slack
  of 50 ms lets a late wake-up catch up; over a second the bound holds to within 5 %.
- One signal: what was started before the lane knew of a refusal is the echo of it, whenever its answer comes, and
  teaches nothing more. A refusal of something started later is another onset.
- After an onset the lane pauses: for `Retry-After` where it came, else for about two requests of its pace (a bucket has
  a token again after one). Then it goes on at the new pace, unless there is none yet, or nothing at all was accepted
  since the last onset, or that one has shown that this limit shuts for longer than a pause: then it is *shut*, and
  single probes ask when it opens, each after half as long again as it has been shut. So a window's edge is overslept by
  a third of the time that it was shut; with the pace known, that is the last seconds of a window.
- Rate-limit headers, where sent, bound the starts as well (`quota`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ingest.policy.quota import Reserve
from ingest.policy.search import Search

if TYPE_CHECKING:
    from ingest.policy.quota import Quota

__all__ = ["Pacer", "is_refusal"]

SLACK_S: Final = 0.05

PAUSE_REQUESTS: Final = 2.0
SHORTEST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 60.0
# Of a pause that no server asked for: no window worth waiting for is missed by more.

PAUSE_GROWTH: Final = 0.5
# Of the time that the lane has been shut.

PATIENCE: Final = 3.0
# Round trips until a probe that is not answered is followed by another.

SMOOTHING: Final = 0.125
# Of the round trip (RFC 6298, §2).


def is_refusal(status: int | None, retry_after_s: float | None) -> bool:
    """Whether an answer of that status refuses the whole lane, and not the one request."""
    return status == 429 or (status == 503 and retry_after_s is not None)


class Pacer:
    """The pace of one lane. Times are monotonic seconds; `bound` is requests a second, None for none.

    `started_at` is when the request that was answered had started.
    """

    def __init__(self, *, bound: float | None) -> None:
        self._bound = math.inf if bound is None else bound
        self._search = Search()
        self._reserve = Reserve()
        self._has_quota = False
        self.paused_until = -math.inf
        self._next_at = -math.inf
        self._probe_at = -math.inf
        self._last_at = -math.inf
        self._round_trip_s = 0.0
        self._is_shut = False
        self._shuts_long = False  # the last onset found the lane shut for longer than its first pause
        self._onset_at = -math.inf  # when the lane knew of it
        self._refused_at = -math.inf  # the latest start that was refused and no echo
        self._taken_at = -math.inf  # the latest start that was accepted
        self._asked_s = 0.0

    @property
    def rate(self) -> float:
        """The pace in requests a second; infinite where there is none."""
        return min(self._bound, self._search.rate)

    def wait_s(self, now: float) -> float:
        """Seconds until the next request may start; 0 when it may."""
        at = max(self._next_at, self._probe_at, self.paused_until)
        if self._has_quota:
            at = max(at, self._reserve.next_at(now, self._last_at))
        return at - now if at > now else 0.0

    def started(self, now: float) -> None:
        """A request starts."""
        self._search.started(now)
        rate = min(self._bound, self._search.rate)
        if rate < math.inf:
            self._next_at = max(self._next_at, now - SLACK_S) + 1.0 / rate
        if self._is_shut:
            # The probe: what comes next waits for its answer, and if there is none, no longer than that takes.
            shut_s = now - self._onset_at
            self._probe_at = now + max(PATIENCE * self._round_trip_s, PAUSE_GROWTH * shut_s, SHORTEST_PAUSE_S)
        if self._has_quota:
            self._reserve.started()
            self._last_at = now

    def accepted(self, now: float, *, started_at: float) -> None:
        """An answer came that was no refusal."""
        self._search.accepted(now)
        self._round_trip_s += SMOOTHING * (now - started_at - self._round_trip_s)
        self._taken_at = max(self._taken_at, started_at)
        if self._is_shut and started_at > self._onset_at:
            self._is_shut = False
            self._probe_at = -math.inf
            self._shuts_long = self._refused_at > self._onset_at
            self._search.reopened(
                now,
                onset_at=self._onset_at,
                shut_at=self._refused_at if self._shuts_long else None,
                pause_s=self._asked_s,
            )

    def told(self, now: float, quota: Quota, *, in_flight: int) -> None:
        """An answer said what is left; `in_flight` requests are still unanswered."""
        self._has_quota = True
        self._reserve.told(now, quota, in_flight=in_flight)

    def refused(self, now: float, *, started_at: float, retry_after_s: float | None, jitter: float) -> float:
        """A 429, or a 503 with `Retry-After`. Returns the seconds of pause that this adds; `jitter` is in [0, 1)."""
        before = max(now, self.paused_until)
        is_echo = started_at <= self._onset_at
        is_probe = self._is_shut and not is_echo
        self._search.refused(is_onset=not is_echo and not is_probe)
        if not is_echo:
            self._refused_at = max(self._refused_at, started_at)
            if not is_probe:
                self._begin_onset(now, retry_after_s)
        if retry_after_s is not None:
            self._asked_s = max(self._asked_s, retry_after_s)
            self._pause(now + retry_after_s)
        elif is_probe:
            pause_s = min(LONGEST_PAUSE_S, max(PAUSE_GROWTH * (now - self._onset_at), SHORTEST_PAUSE_S))
            self._pause(now + pause_s * (0.75 + 0.5 * jitter))
        elif not is_echo:
            pause_s = min(1.0, max(SHORTEST_PAUSE_S, PAUSE_REQUESTS / self._search.rate))
            self._pause(now + pause_s * (0.75 + 0.5 * jitter))
        return max(0.0, self.paused_until - before)

    def _begin_onset(self, now: float, retry_after_s: float | None) -> None:
        is_first = math.isinf(self._search.rate)
        has_taken = self._taken_at > self._onset_at
        self._is_shut = is_first or not has_taken or (self._shuts_long and retry_after_s is None)
        self._onset_at = now
        self._asked_s = 0.0
        if not self._is_shut:
            pause_s = retry_after_s or 0.0
            self._search.reopened(now + pause_s, onset_at=now, shut_at=None, pause_s=pause_s)

    def _pause(self, until: float) -> None:
        self.paused_until = max(self.paused_until, until)
        self._probe_at = -math.inf  # the probe that was out has its answer
        self._next_at = max(self._next_at, self.paused_until)  # nothing is caught up on after a pause
