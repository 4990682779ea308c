"""From a run to its figures: the issue's words, as arithmetic.

- *Allowed*: what the model would accept under endless demand in whole windows, less the time inside an obeyed
  `Retry-After`. It can be exceeded by whoever is told to wait for longer than the limit takes to come back.
- *Goodput*: the share of what was allowed that was accepted. *Refused*: the 429s (503s where that is how the model
  refuses) over all requests.
- *Steady*: from the sooner of 20 onsets or 20 windows, in whole windows. An onset is the first refusal after an
  acceptance, a round trip or more after the last one; a bucket's window is a second.
- *Time to 90 %*: until one window, or a second, has brought 0.9 of what it allows.
- *Fairness*: Jain's index of what the workers were given, 1 for equal shares.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.benchmarks.flow.simulation import Run

ONSETS = 20
WINDOWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run's figures; `cold_...` from the first request on, the others in the steady state."""

    goodput: float
    refused: float
    cold_goodput: float
    cold_refused: float
    to_90_s: float | None
    fairness: float
    latency_s: float
    steady_from_s: float
    requests: int


def figures(run: Run) -> Figures:
    """What came of it."""
    server, end = run.server, run.duration_s
    steady = min(_onset(run, ONSETS), WINDOWS * server.window_s)
    steady = server.window_s * math.ceil((steady + server.offset_s) / server.window_s) - server.offset_s
    shares = [_between(worker.taken, steady, end) for worker in run.workers]
    squares = sum(share * share for share in shares)
    requests = len(run.taken) + len(run.refused)
    return Figures(
        goodput=_goodput(run, steady, end),
        refused=_refused(run, steady, end),
        cold_goodput=_goodput(run, 0.0, end),
        cold_refused=_refused(run, 0.0, end),
        to_90_s=_to_90_s(run),
        fairness=sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0,
        latency_s=run.latency_s / max(1, requests),
        steady_from_s=steady,
        requests=requests,
    )


def _between(times: list[float], since: float, until: float) -> int:
    return bisect_left(times, until) - bisect_left(times, since)


def _goodput(run: Run, since: float, until: float) -> float:
    told_s = sum(_within(worker.told_off, since, until) for worker in run.workers) / len(run.workers)
    allowed = run.server.allowed(since, until) * (1.0 - told_s / (until - since))
    return _between(run.taken, since, until) / max(allowed, 1.0)


def _refused(run: Run, since: float, until: float) -> float:
    refused = _between(run.refused, since, until)
    return refused / max(1, refused + _between(run.taken, since, until))


def _within(spans: list[tuple[float, float]], since: float, until: float) -> float:
    total, covered = 0.0, since
    for begin, end in sorted(spans):
        uncovered_s = min(end, until) - max(begin, covered)
        if uncovered_s > 0.0:
            total += uncovered_s
            covered = end
    return total


def _onset(run: Run, nth: int) -> float:
    last, onsets = -math.inf, 0
    for at in run.refused:
        has_taken = bisect_right(run.taken, at) > bisect_right(run.taken, last)
        if at - last > run.round_trip_s and has_taken:
            onsets += 1
            if onsets == nth:
                return at
        last = at
    return math.inf


def _to_90_s(run: Run) -> float | None:
    span_s = max(1.0, run.server.window_s)
    at = span_s
    while at <= run.duration_s:
        if _between(run.taken, at - span_s, at) >= 0.9 * run.server.allowed(at - span_s, at):
            return at
        at += span_s / 20.0
    return None
