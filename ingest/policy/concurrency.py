"""How many requests a lane may have under way at once: as many as bring throughput, and none that only wait.

Knows no pace and no queue. Only requests that were started while all places were taken count: where the pace or a lack
of work binds, nothing is learned and nothing changes. A latency is that of one request, from its start to its answer;
what a retry waited before is no part of it.

- **Ramp**: from `INITIAL`, one place more for each answer, which doubles the places each round trip, as TCP's slow
  start; until the first sign: a refusal, an overload, or two rounds that brought less than a quarter of what their
  places promised (the full-pipe test of BBR's startup, Cardwell et al., ACM Queue 14(5), 2016).
- **Trials** from then on. By Little's law throughput = places / latency, so two levels are compared by the mean
  latencies of `ROUND` answers each. A quarter more places is kept if it brings at least half of a quarter more
  throughput; else the level goes back, and rests twice as long as after the last trial in vain. Where the latency is
  well above the lowest level's, a fifth fewer are tried in turn, and kept if they cost next to nothing.
- **Overload**: a 503 without `Retry-After`. More than `FEW` of a round's answers: the level is reduced by an eighth,
  what had been started before is its echo, and the level that hurt is remembered: it is tried again one place at a
  time, each after `ANSWERS_PER_OVERLOAD` answers for each refusal that the last try cost. Fewer are chance.

Vegas (Brakmo and Peterson, 1995) and Netflix's gradient2 (https://github.com/Netflix/concurrency-limits) compare the
latency with the lowest or a long average. A lane mixes requests that take 5 ms with others that take 500, and both
references then move with the mix; a comparison of neighbouring rounds does not. gradient2 also follows a queue that it
made itself, once its average has. Vector's ARC measures round trips across retries, so that a pause reads as latency.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Concurrency"]

INITIAL: Final = 4
# Enough to see answers side by side; the ramp is at 64 four round trips later.

ROUND: Final = 64
# Answers of one comparison, and at least twice the places: a latency that varies by half its mean is then known to 6 %.

BINDING: Final = 0.7
# Of a round's answers must have found every place taken, or something else binds.

UP: Final = 1.25
DOWN: Final = 0.8
WORTH: Final = 0.5
# Of the throughput that the added places would bring if nothing waited.

WORTH_ON_RAMP: Final = 0.25
VAIN_ROUNDS: Final = 2

FREE: Final = 0.97
# A level with fewer places must bring so much of the throughput.

QUEUEING: Final = 1.3
# Times the lowest mean latency: something waits.

LONGEST_REST: Final = 32
# Rounds between two trials.

FEW: Final = 0.015
FEWEST: Final = 2
# Overloads that are chance: so many, and this share of a round's answers. Random failures are rarer, a limit that is
# passed refuses more within a few answers.

ANSWERS_PER_OVERLOAD: Final = 200
SHRINK: Final = 0.125


class Concurrency:
    """The places of one lane; `bound` is the most that there may be. Times are monotonic seconds."""

    def __init__(self, *, bound: int) -> None:
        self._bound = bound
        self.limit = min(bound, INITIAL)
        self._is_ramping = self.limit < bound
        self._vain_rounds = 0
        self._hurt = math.inf  # a level that the server refused
        self._calm = 0  # answers until it is tried again
        self._cost = 0  # refusals of the last try
        self._base = 0  # the level that the round's is compared with; 0 for none
        self._base_latency_s = 0.0
        self._lowest_s = math.inf
        self._rest = 0  # rounds until the next trial
        self._last_rest = 1
        self._changed_at = -math.inf
        self._begin_round()

    def answered(self, now: float, *, started_at: float, in_flight: int) -> None:
        """A request was answered and not refused; `in_flight` counts it."""
        is_binding = in_flight >= self.limit
        if is_binding and self._is_ramping and self.limit < self._bound:
            self.limit += 1
        if started_at < self._changed_at:
            return
        self._answers += 1
        self._binding += is_binding
        self._latency_s += now - started_at
        if self._answers >= self._round:
            self._end_round(now)

    def overloaded(self, now: float, *, started_at: float, in_flight: int) -> None:
        """The server is too busy for this one request; `in_flight` counts it."""
        self._cost += 1
        if started_at < self._changed_at:
            return  # the echo of what the last change was for
        self._overloads += 1
        if self._overloads < FEWEST + FEW * self._answers:
            return
        self._is_ramping = False
        self._hurt = min(self.limit, in_flight)
        level = self._base if 0 < self._base < self._hurt else self._hurt - max(1, int(SHRINK * self._hurt))
        self._calm = ANSWERS_PER_OVERLOAD * self._cost
        self._base = self._cost = 0
        self._change(now, max(1, int(level)))

    def _end_round(self, now: float) -> None:
        latency_s = self._latency_s / self._answers
        is_binding = self._binding >= BINDING * self._answers
        self._calm -= self._answers
        base, self._base = self._base, 0
        if self._is_ramping:
            self._judge_ramp(now, base, latency_s)
        elif not is_binding:
            self._change(now, base or self.limit)
        elif base:
            self._judge(now, base, latency_s)
        elif self._rest > 0:
            self._rest -= 1
            self._begin_round()
        else:
            self._try(now, latency_s)
        if is_binding:
            self._lowest_s = min(self._lowest_s, latency_s)

    def _judge_ramp(self, now: float, base: int, latency_s: float) -> None:
        """Compare a round of the ramp with the one before it: twice the places should bring twice the answers."""
        if self.limit > base > 0:
            brought = (self.limit / latency_s) / (base / self._base_latency_s) - 1.0
            is_vain = brought < WORTH_ON_RAMP * (self.limit / base - 1.0)
            self._vain_rounds = self._vain_rounds + 1 if is_vain else 0
        self._is_ramping = self.limit < self._bound and self._vain_rounds < VAIN_ROUNDS
        if self._is_ramping:
            self._base, self._base_latency_s = self.limit, latency_s
            self._begin_round()
        else:
            self._change(now, base if self._vain_rounds and base else self.limit)

    def _try(self, now: float, latency_s: float) -> None:
        """Begin a trial: fewer places where requests wait, else more."""
        if latency_s > QUEUEING * self._lowest_s and self.limit > 1:
            level = min(self.limit - 1, int(DOWN * self.limit))
        else:
            level = min(self._bound, max(self.limit + 1, int(UP * self.limit)))
            if level >= self._hurt:
                level = min(self._bound, self.limit + 1) if self._calm <= 0 else min(level, int(self._hurt) - 1)
            level = max(level, self.limit)
        if level != self.limit:
            self._base, self._base_latency_s = self.limit, latency_s
        self._change(now, max(1, level))

    def _judge(self, now: float, base: int, latency_s: float) -> None:
        """Keep a trial's level, or go back to `base`."""
        brought = (self.limit / latency_s) / (base / self._base_latency_s)
        if self.limit >= self._hurt:
            self._hurt = math.inf  # it hurts no more
            self._cost = 0
        elif brought < (1.0 + WORTH * (self.limit / base - 1.0) if self.limit > base else FREE):
            self._last_rest = self._rest = min(LONGEST_REST, 2 * self._last_rest)
            self._change(now, base)
            return
        self._last_rest = 1
        self._begin_round()

    def _change(self, now: float, level: int) -> None:
        if level != self.limit:
            self.limit = level
            self._changed_at = now
        self._begin_round()

    def _begin_round(self) -> None:
        self._round = self.limit if self._is_ramping else max(ROUND, 2 * self.limit)
        self._answers = 0
        self._binding = 0
        self._overloads = 0
        self._latency_s = 0.0
