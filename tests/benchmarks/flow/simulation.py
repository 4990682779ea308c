"""The simulation: workers with endless demand, a line between, one server; on a virtual clock.

A worker starts requests exactly as the gate does: while places are free and nothing has to wait. What decides is asked
through `Lane`, the questions that the gate asks.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.flow.servers import Server, Verdict

WAKE, ARRIVE, DEPART, ANSWER, FREE = range(5)

JITTER = 0.2
# A way takes up to a fifth longer than the shortest; requests overtake each other.

RESOLUTION_S = 1e-9


class Lane(Protocol):
    """What decides about one worker's requests."""

    @property
    def limit(self) -> int:
        """Requests at once."""
        ...

    def wait_s(self, now: float) -> float:
        """Seconds until a request may start; infinite for when an answer has come."""
        ...

    def started(self, now: float) -> None:
        """A request starts."""
        ...

    def ended(self, now: float, verdict: Verdict, *, started_at: float, in_flight: int) -> float:
        """An answer came; `in_flight` counts its request. How long its place stays taken, asleep."""
        ...


@dataclass(slots=True)
class Worker:
    """One program: its lane, and what came of its requests, by the time at which they reached the server."""

    lane: Lane
    in_flight: int = 0
    wake_at: float = math.inf
    taken: list[float] = field(default_factory=list)
    told_off: list[tuple[float, float]] = field(default_factory=list)
    # Spans in which the whole lane did what a Retry-After said.


@dataclass(slots=True)
class Run:
    """What a simulation leaves: times at the server, in order."""

    server: Server
    workers: list[Worker]
    duration_s: float
    round_trip_s: float
    taken: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    latency_s: float = 0.0


def simulate(server: Server, lanes: Sequence[Lane], *, round_trip_s: float, duration_s: float, seed: int = 0) -> Run:
    """Let the workers work for so long."""
    uniform = random.Random(seed).random
    way_s, spread_s = round_trip_s / 2, JITTER * round_trip_s / 2
    workers = [Worker(lane) for lane in lanes]
    run = Run(server, workers, duration_s, round_trip_s)
    push, pop = heapq.heappush, heapq.heappop
    events: list[tuple] = [
        (0.05 * number * uniform(), number, WAKE, number, 0.0, None) for number in range(len(workers))
    ]
    heapq.heapify(events)
    for at, number, *_ in events:
        workers[number].wake_at = at
    count = len(events)
    while events:
        now, _, kind, number, started_at, verdict = pop(events)
        if now > duration_s:
            break
        worker = workers[number]
        lane = worker.lane
        match kind:
            case 1:  # ARRIVE
                verdict = server.arrive(now)
                count += 1
                if verdict.status in {429, 503}:
                    run.refused.append(now)
                else:
                    run.taken.append(now)
                    worker.taken.append(now)
                    if verdict.busy_s:
                        push(events, (now + verdict.busy_s, count, DEPART, number, 0.0, None))
                        count += 1
                push(
                    events,
                    (now + verdict.busy_s + way_s + spread_s * uniform(), count, ANSWER, number, started_at, verdict),
                )
                continue
            case 2:  # DEPART
                server.depart()
                continue
            case 3:  # ANSWER
                run.latency_s += now - started_at
                asleep_s = lane.ended(now, verdict, started_at=started_at, in_flight=worker.in_flight)
                if verdict.retry_after_s is not None and lane.wait_s(now) >= verdict.retry_after_s - RESOLUTION_S:
                    worker.told_off.append((now, now + verdict.retry_after_s))
                if asleep_s > 0.0:
                    count += 1
                    push(events, (now + asleep_s, count, FREE, number, 0.0, None))
                else:
                    worker.in_flight -= 1
            case 4:  # FREE
                worker.in_flight -= 1
            case 0:  # WAKE
                if now < worker.wake_at:
                    continue  # an earlier plan
                worker.wake_at = math.inf
        while worker.in_flight < lane.limit:
            wait_s = lane.wait_s(now)
            if wait_s <= RESOLUTION_S:
                lane.started(now)
                worker.in_flight += 1
                count += 1
                push(events, (now + way_s + spread_s * uniform(), count, ARRIVE, number, now, None))
            else:
                if now + wait_s < worker.wake_at:
                    worker.wake_at = now + wait_s
                    if wait_s < math.inf:
                        count += 1
                        push(events, (worker.wake_at, count, WAKE, number, 0.0, None))
                break
    return run
