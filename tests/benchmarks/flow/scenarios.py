"""The rows of the table: which server, which headers, how far away, how many workers, and what is asked of a row."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.flow.servers import AtOnce, FixedWindow, Headers, Knee, SlidingWindow, TokenBucket, Unlimited
from tests.benchmarks.flow.simulation import JITTER, simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.flow.servers import Server
    from tests.benchmarks.flow.simulation import Lane, Run

RATE = 50.0
# Requests a second of the buckets. Of the busy servers: PLACES / BUSY_S.
PLACES = 16
BUSY_S = 1.0
MOVES = ((300.0, RATE / 2), (600.0, RATE))

NEAR_S, FAR_S = 0.02, 0.3
QUICK_S = 0.01
CALLER_PLACES = 64
# Of one worker, as many as `lanes` gives it: all that an unlimited server is bounded by.

NONE = Headers()
ALL = Headers(retry_after=True, quota=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A kind of server."""

    name: str
    make: Callable[[Headers, random.Random], Server]
    duration_s: float
    has_headers: bool = True
    goodput: float | None = 0.97
    # What is asked of one worker; None: as near as an oracle comes that knows the limit and never learns.
    refused: float = 0.01
    # The most that is tolerated of one worker. Eight that start cold have had 20 onsets between them within seconds.


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row."""

    model: Model
    headers: Headers
    round_trip_s: float
    workers: int

    @property
    def name(self) -> str:
        said = "headers" if self.headers.quota else "-"
        return f"{self.model.name:16} {said:8} {1000 * self.round_trip_s:4.0f} ms {self.workers}"

    @property
    def goodput(self) -> float | None:
        """The goodput that is asked for."""
        asked = self.model.goodput
        return None if asked is None else min(asked, 0.95) if self.workers > 1 else asked

    def run(self, lane: Callable[[int], Lane], *, duration_s: float | None = None) -> Run:
        """Simulate it; `lane` makes one for each worker from a seed."""
        server = self.model.make(self.headers, random.Random(1))
        return simulate(
            server,
            [lane(seed) for seed in range(self.workers)],
            round_trip_s=self.round_trip_s,
            duration_s=self.model.duration_s if duration_s is None else duration_s,
            seed=7,
        )


def _bucket(burst: int) -> Model:
    return Model(
        name=f"bucket {burst}",
        make=lambda headers, dice: TokenBucket(headers, dice, rate=RATE, burst=burst),
        duration_s=140.0,
        goodput=None if burst == 1 else 0.97,
    )


def _fixed(requests: int, minutes: int) -> Model:
    return Model(
        name=f"fixed {requests}/min",
        make=lambda headers, dice: FixedWindow(headers, dice, requests=requests),
        duration_s=60.0 * minutes - 23.0,
    )


def _sliding(requests: int, minutes: int) -> Model:
    return Model(
        name=f"sliding {requests}/min",
        make=lambda headers, dice: SlidingWindow(headers, dice, requests=requests),
        duration_s=60.0 * minutes,
    )


MODELS = (
    _bucket(1),
    _bucket(10),
    _bucket(100),
    _fixed(60, 40),
    _fixed(600, 30),
    _fixed(6000, 25),
    _sliding(60, 40),
    _sliding(600, 30),
    _sliding(6000, 25),
    Model(
        name="16 at once",
        make=lambda headers, dice: AtOnce(headers, dice, places=PLACES, busy_s=BUSY_S),
        duration_s=300.0,
        has_headers=False,
        goodput=None,
    ),
    Model(
        name="latency knee",
        make=lambda headers, dice: Knee(headers, dice, places=PLACES, busy_s=BUSY_S / 5),
        duration_s=140.0,
        has_headers=False,
    ),
    Model(
        name="moving bucket",
        make=lambda headers, dice: TokenBucket(headers, dice, rate=RATE, burst=10, moves=MOVES),
        duration_s=900.0,
        goodput=0.90,
    ),
    Model(
        name="1 % of 5xx",
        make=lambda headers, dice: TokenBucket(headers, dice, rate=RATE, burst=10, failing=0.01),
        duration_s=140.0,
    ),
)


def _chance(share: float, retry_after_s: float | None) -> Model:
    said = "" if retry_after_s is None else f" {retry_after_s:g} s"
    rate = CALLER_PLACES / (NEAR_S * (1.0 + JITTER / 2) + QUICK_S)
    return Model(
        name=f"{100 * share:.0f} % of 429{said}",
        make=lambda headers, dice: Unlimited(
            headers, dice, busy_s=QUICK_S, rate=rate, refusing=share, retry_after_s=retry_after_s
        ),
        duration_s=100.0,
        has_headers=False,
        goodput=0.9 if share <= 0.01 else 0.5,
        refused=2 * share,
    )


BY_CHANCE = tuple(_chance(share, retry_after_s) for share in (0.01, 0.05) for retry_after_s in (None, 0.1, 1.0))

SCENARIOS = (
    *(
        Scenario(model=model, headers=headers, round_trip_s=round_trip_s, workers=workers)
        for model in MODELS
        for headers in ((NONE, ALL) if model.has_headers else (NONE,))
        for round_trip_s in (NEAR_S, FAR_S)
        for workers in (1, 8)
    ),
    *(Scenario(model=model, headers=NONE, round_trip_s=NEAR_S, workers=1) for model in BY_CHANCE),
)
