"""The rows of the table: which server, which headers, how far away, how many workers, and what is asked of a row."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.flow.servers import AtOnce, FixedWindow, Headers, Knee, SlidingWindow, TokenBucket
from tests.benchmarks.flow.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.flow.servers import Server
    from tests.benchmarks.flow.simulation import Lane, Run

RATE = 50.0
# Requests a second of the buckets. Of the busy servers: PLACES / BUSY_S.
PLACES = 16
BUSY_S = 1.0
MOVES = ((300.0, RATE / 2), (600.0, RATE))

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

SCENARIOS = tuple(
    Scenario(model=model, headers=headers, round_trip_s=round_trip_s, workers=workers)
    for model in MODELS
    for headers in ((NONE, ALL) if model.has_headers else (NONE,))
    for round_trip_s in (0.02, 0.3)
    for workers in (1, 8)
)
