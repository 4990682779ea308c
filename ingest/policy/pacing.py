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
- A refusal that comes by chance, as far as `chance` can tell, pauses the lane as well, but is no onset of a limit: the
  search hears nothing of it. No refusal is chance where the server tells what is left, or names more than a second.
- Rate-limit headers, where sent, bound the starts as well (`quota`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ingest.policy.chance import Chance
from ingest.policy.quota import ROUNDING_S, Reserve
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
        self._chance = Chance()
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
        self._paused_s = 0.0  # in all
        self._excused_s = 0.0  # since the last onset, if that is excused
        self._is_excused = False  # the last onset came by chance, as far as is known

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
        self._chance.accepted()
        self._round_trip_s += SMOOTHING * (now - started_at - self._round_trip_s)
        self._taken_at = max(self._taken_at, started_at)
        if self._is_shut and started_at > self._onset_at:
            self._is_shut = False
            self._probe_at = -math.inf
            self._shuts_long = self._refused_at > self._onset_at
            self._learn(now, shut_at=self._refused_at if self._shuts_long else None)

    def told(self, now: float, quota: Quota, *, in_flight: int) -> None:
        """An answer said what is left; `in_flight` requests are still unanswered."""
        self._has_quota = True
        self._reserve.told(now, quota, in_flight=in_flight)

    def refused(self, now: float, *, started_at: float, retry_after_s: float | None, jitter: float) -> float:
        """A 429, or a 503 with `Retry-After`. Returns the seconds of pause that this adds; `jitter` is in [0, 1)."""
        before = max(now, self.paused_until)
        is_echo = started_at <= self._onset_at
        is_probe = self._is_shut and not is_echo
        is_onset = not is_echo and not is_probe
        is_serious = self._chance.refused() or self._is_meant(retry_after_s or 0.0)
        if not is_echo:
            self._refused_at = max(self._refused_at, started_at)
        is_late = is_serious and self._is_excused and not is_onset  # an echo gives away that it was no chance
        if is_late or (is_serious and is_onset):
            if is_onset:
                self._search.paused(self._excused_s)
            self._excused_s = 0.0
            self._search.refused(is_onset=True)
            self._begin_onset(now, retry_after_s)
        elif is_onset:
            self._search.paused(self._excused_s)
            self._excused_s = 0.0
            self._is_excused = True
            self._onset_at = now
            self._asked_s = 0.0
        elif not self._is_excused:
            self._search.refused(is_onset=False)
        if retry_after_s is not None:
            self._asked_s = max(self._asked_s, retry_after_s)
            self._pause(now + retry_after_s)
        elif is_probe:
            pause_s = min(LONGEST_PAUSE_S, max(PAUSE_GROWTH * (now - self._onset_at), SHORTEST_PAUSE_S))
            self._pause(now + pause_s * (0.75 + 0.5 * jitter))
        elif not is_echo or is_late:
            shortest_s = 0.0 if self._is_excused else SHORTEST_PAUSE_S
            pause_s = min(1.0, max(shortest_s, PAUSE_REQUESTS / self._search.rate))
            self._pause(now + pause_s * (0.75 + 0.5 * jitter))
        added_s = max(0.0, self.paused_until - before)
        self._paused_s += added_s
        if self._is_excused:
            self._excused_s += added_s
        return added_s

    def _is_meant(self, asked_s: float) -> bool:
        """Whether the server itself tells of a limit: of what is left, or of a time to come."""
        return self._has_quota or asked_s > ROUNDING_S

    def _begin_onset(self, now: float, retry_after_s: float | None) -> None:
        is_first = math.isinf(self._search.rate)
        has_taken = self._taken_at > self._onset_at
        self._is_shut = is_first or not has_taken or (self._shuts_long and retry_after_s is None)
        self._is_excused = False
        self._onset_at = now
        self._asked_s = 0.0
        if not self._is_shut:
            self._asked_s = retry_after_s or 0.0
            self._learn(now + self._asked_s, shut_at=None)

    def _learn(self, now: float, *, shut_at: float | None) -> None:
        pace = self._search.rate
        self._search.reopened(now, onset_at=self._onset_at, shut_at=shut_at, pause_s=self._asked_s)
        if math.isinf(pace):
            pace = self._search.rate
        is_limit = shut_at is not None or self._is_meant(self._asked_s)
        top = self._chance.learned(now - self._paused_s, pace, is_limit=is_limit)
        if top is not None:
            self._search.restored(top)

    def _pause(self, until: float) -> None:
        self.paused_until = max(self.paused_until, until)
        self._probe_at = -math.inf  # the probe that was out has its answer
        self._next_at = max(self._next_at, self.paused_until)  # nothing is caught up on after a pause
