"""The search for a server's rate limit, from nothing but which requests it took and which it refused.

Knows no pauses and spaces nothing: it is told what came, and says the pace. Nothing is known, and the pace is
unbounded, until the first refusal. From there on, in requests a second, with `onset` for the first refusal of a burst:

- **lo**: what was accepted from one reopening to the next, over the time between. A server that takes requests again
  is in the same state each time (a bucket with one token, a window's beginning), so between two such moments it has
  given what it gives: exact for token buckets and windows alike, and never too high. What was asked for before an
  onset may have been less than the server gives, so the latest stretch counts as well, and the larger of both
  (as BBR takes the maximum of its delivery rates: Cardwell et al., "BBR", ACM Queue 14(5), 2016).
- **hi**: the pace at which it hurt. After a window that stayed shut: what was accepted until it was last seen shut.
- **the curve** between, CUBIC's (RFC 9438, §4.2) with `x` the share of the climb that is done and K its length:

      pace = hi - (hi - start) * (1 - x)^3            for x <= 1, from start = min(lo, BETA * hi)
      pace = hi * (1 + RISE * (x - 1)^3)              for x > 1

  It is back near `hi` soon, lingers where it hurt, and only then looks beyond, first with care and then boldly: a limit
  that has doubled is found in 3.2 K. A climb advances with the requests that the pace let start, not with the clock: an
  idle hour, or a lane that something else slows down, proves nothing about the limit.
- **K** makes up for what the last onset cost: `REQUESTS_PER_REFUSAL` for each request that was refused, so that
  refusals stay under one in as many whatever the rate, the distance and the kind of limit; `CALM_PER_PAUSE` times the
  pause that the server asked for; most of the time for which it was seen shut; and `SHORTEST_CLIMB_S`. It is shorter
  while little is known: where lo and hi lie far apart, and after few requests at all.
- An onset after fewer than `SAMPLE` accepted requests measures nothing: the pace falls by 3 %, by 6, 12 and 15 % at
  those that follow, and all of it is measured together. A limit that has halved is found after a few.

A server that also refuses at random, at any pace, would be taken for one with a lower and lower limit: what comes by
chance is kept from the search, and a pace that was lowered in vain is given back (`chance`).

AWS's adaptive mode and CUBIC itself fall to 0.7 of the pace at each refusal, because a queue has to drain; a rate limit
has no queue, and 0.97 is as good. Vector's ARC moves a concurrency instead of a pace, which can't rest just under a
rate: one request more at once is too many, one fewer too few.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Search"]

BETA: Final = 0.97
# Far enough below the last hurt to rest, near enough to lose under 1 % on average over a climb ((1 - BETA) / 4).

RISE: Final = 0.1
# A tenth above `hi` at x = 2. A third of that finds a raised limit too late, twice that passes a steady one too far:
# 1 % of refusals instead of 0.6 where a window is shut for the rest of its minute.

REQUESTS_PER_REFUSAL: Final = 230.0
# About one refusal in 200 requests in the end, half of what is tolerable: an onset's echoes count as well.

CALM_PER_PAUSE: Final = 20.0
# Pauses that were asked for take at most a twentieth of the time.

CALM_PER_SHUT: Final = 0.8
FADING: Final = 0.985
# Of the longest time that the limit was seen shut, which fades a little with each onset: a limit that counts a whole
# minute must be met with a pace that is steady over a good part of it. A sliding window repeats what it was given.

ROUNDING_S: Final = 1.0
# Of a Retry-After, which is told in whole seconds.

SHORTEST_CLIMB_S: Final = 4.0
# Faster ups and downs than this tell of noise.

FAITH: Final = 2.0
TOLD_FAITH: Final = 1.0
# A climb is at most so many times the requests that the limit has been known for: first guesses are tested soon.
# After a pause that was told, sooner: a guess that was too low costs more than another pause.

NARROW: Final = 0.1
HASTE: Final = 0.2
# Where `lo` and `hi` lie further apart than a tenth, the limit is not known yet: the climb is shorter, down to a fifth.

SAMPLE: Final = 64
# Accepted requests that make a measurement: one more or less is then 1.6 %, half of what BETA steps back by.

COSTLY_SAMPLE: Final = 4
# Where each onset costs a pause that is worth more than a sample, a rough measurement is better than another onset.

BACK_OFF: Final = 0.85
# After an onset that is too early to measure: from twice the limit to the limit in five.

MIN_RATE: Final = 0.01
# Slower than any limit worth naming: a request in 100 s.

STRETCH: Final = 16
STRETCH_S: Final = 0.5
# The latest stretch holds so many requests and is at least so long (as what the AWS SDKs measure a rate by).

DOUBT: Final = 1.1
# A pace that the requests never reached, by more than what counting them can be off, can't have hurt.


class Search:
    """What is known of one limit. Times are monotonic seconds; `rate` is requests a second, `math.inf` at first."""

    def __init__(self) -> None:
        self.rate = math.inf
        self._known = 0  # requests accepted ever
        self._trusted = 0  # those before the climb
        self._accepted = 0
        self._since: float | None = None  # the reopening from which is counted
        self._stretches = [(0.0, 0), (0.0, 0)]  # beginnings of the last stretch and the one before: when, at how many
        self._low = math.inf
        self._high = math.inf
        self._cost = 0
        self._pause_s = 0.0
        self._shut_s = 0.0
        self._early = 0  # onsets in a row that were too early to measure
        self._idle_s = 0.0  # of this measurement, in pauses that were told in whole seconds
        self._is_onset = False
        self._climbed_s = 0.0
        self._redraw_at = 0.0

    def started(self, now: float) -> None:
        """A request starts, as soon as the pace allowed."""
        if self._since is None:
            self._begin(now)
        if self._high < math.inf:
            self._climbed_s += 1.0 / self.rate
            if self._climbed_s >= self._redraw_at:
                self._draw()

    def accepted(self, now: float) -> None:
        """A request was not refused."""
        self._accepted += 1
        self._known += 1
        at, count = self._stretches[1]
        if self._is_onset:
            return
        if now - at >= STRETCH_S and self._accepted - count >= STRETCH:
            self._stretches = [(at, count), (now, self._accepted)]

    def refused(self, *, is_onset: bool) -> None:
        """A request was refused; with others of its burst, or as the first one."""
        if is_onset:
            self._is_onset = True
            self._cost = 0
            self._pause_s = 0.0
        self._cost += 1

    def reopened(self, now: float, *, onset_at: float, shut_at: float | None, pause_s: float) -> None:
        """The lane goes on after an onset, or begins to try: learn from what was accepted since the last time.

        `shut_at`: when a request was last seen refused that had been started after the onset; None for never.
        `pause_s`: how long the server asked to be left alone, 0 where it did not.
        """
        is_first = math.isinf(self.rate)
        self._is_onset = False
        self._pause_s = pause_s
        self._shut_s = max(now - onset_at, FADING * self._shut_s)
        self._trusted = self._known
        self._idle_s += pause_s if pause_s <= ROUNDING_S else 0.0
        if is_first and not self._accepted:
            return
        is_costly = self._idle_s > 0.0 and self.rate * ROUNDING_S > SAMPLE
        if is_first or self._accepted >= (COSTLY_SAMPLE if is_costly else SAMPLE):
            low, high = self._measured(now, onset_at, shut_at)
            self._high = max(2.0 * MIN_RATE, min(self.rate, DOUBT * high))
            if not is_first and not self._idle_s:
                low = max(low, BACK_OFF * self._high)
            self._low = max(MIN_RATE, min(low, BETA * self._high))
            self._early = 0
            self._begin(now)
        else:
            step = min(1.0 - BACK_OFF, (1.0 - BETA) * 2.0**self._early)
            self._early = min(self._early + 1, 8)
            self._high = max(2.0 * MIN_RATE, self.rate)
            self._low = max(MIN_RATE, (1.0 - step) * self._high)
        self._climbed_s = 0.0
        self._draw()

    def paused(self, pause_s: float) -> None:
        """The lane pauses for a refusal that came by chance: that time tells nothing of the limit."""
        if self._since is not None:
            self._since += pause_s
            self._stretches = [(at + pause_s, count) for at, count in self._stretches]

    def restored(self, pace: float) -> None:
        """The pace was lowered in vain: go back to that one, and look beyond."""
        self._high = pace
        self._low = BETA * pace
        self._cost = 1
        self._pause_s = self._shut_s = 0.0
        self._early = 0
        self._climbed_s = max(SHORTEST_CLIMB_S, REQUESTS_PER_REFUSAL / pace)
        self._draw()

    def _measured(self, now: float, onset_at: float, shut_at: float | None) -> tuple[float, float]:
        """What the limit is at least and at most, from what was accepted since the last measurement."""
        since = now - 1e-3 if self._since is None else min(self._since, now - 1e-3)
        low = self._accepted / (now - since)
        at, count = self._stretches[0]
        latest = self._accepted - count
        latest_high = latest / max(onset_at - at, STRETCH_S)
        if self._idle_s > 0.0:
            # A pause of a second is told where a hundredth would do, and lets a bucket overflow: the truth lies between
            # counting it and not.
            mean = self._accepted / max(now - since - self._idle_s, 1e-3)
            return math.sqrt(low * mean), math.sqrt(min(self.rate, max(mean, latest_high)) * mean)
        if shut_at is not None:
            return low, self._accepted / max(shut_at - since, 1e-3)
        if self._pause_s > 0.0:
            return low, 2.0 * low
        low = max(low, latest / max(now - at, 1e-3))
        return low, max(self._accepted / max(onset_at - since, 1e-3), latest_high)

    def _begin(self, now: float) -> None:
        self._since = now
        self._accepted = 0
        self._idle_s = 0.0
        self._stretches = [(now, 0), (now, 0)]

    def _draw(self) -> None:
        """The curve at the point to which the climb has come."""
        climb_s = max(
            SHORTEST_CLIMB_S,
            REQUESTS_PER_REFUSAL * self._cost / self._high,
            CALM_PER_PAUSE * self._pause_s,
            CALM_PER_SHUT * self._shut_s,
        )
        climb_s *= max(HASTE, min(1.0, NARROW * self._high / (self._high - self._low)))
        faith = TOLD_FAITH if self._pause_s > 0.0 else FAITH
        climb_s = min(climb_s, max(faith * self._trusted / self._high, FAITH * min(self._pause_s, ROUNDING_S)))
        x = self._climbed_s / climb_s
        if x <= 1.0:
            self.rate = self._high - (self._high - self._low) * (1.0 - x) ** 3
        else:
            self.rate = self._high * (1.0 + RISE * (x - 1.0) ** 3)
        # A hundredth of the climb changes the pace by less than it can be told from: no need to do this each time.
        self._redraw_at = self._climbed_s + climb_s / 100.0
