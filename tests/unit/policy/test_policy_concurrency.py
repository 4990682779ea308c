"""The places of a lane: the ramp, trials, and a server that refuses more at once."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.policy.concurrency import INITIAL, Concurrency


def work(
    places: Concurrency,
    *,
    until: float,
    at_once: int | None = None,
    capacity: int | None = None,
    latency_s: float = 0.1,
) -> list[tuple[float, int]]:
    """Endless demand against a server that refuses more than `at_once`, or works on `capacity`; limits over time."""
    dice = random.Random(1)
    under_way: list[tuple[float, float, bool]] = []
    free_at = [0.0] * (capacity or 0)
    now, limits, accepted = 0.0, [], 0
    while now < until:
        while len(under_way) < places.limit:
            busy_s = latency_s * dice.uniform(0.7, 1.3)
            if at_once is not None and accepted >= at_once:
                heapq.heappush(under_way, (now + 0.01, now, False))
                continue
            accepted += 1
            ends = now + busy_s
            if capacity:
                ends = max(now, free_at[0]) + busy_s
                heapq.heapreplace(free_at, ends)
            heapq.heappush(under_way, (ends, now, True))
        now, started_at, is_accepted = heapq.heappop(under_way)
        if is_accepted:
            accepted -= 1
            places.answered(now, started_at=started_at, in_flight=len(under_way) + 1)
        else:
            places.overloaded(now, started_at=started_at, in_flight=len(under_way) + 1)
        limits.append((now, places.limit))
    return limits


def test_it_doubles_each_round_trip_until_the_bound() -> None:
    limits = work(Concurrency(bound=64), until=2.0)
    assert limits[0][1] == INITIAL + 1
    assert next(at for at, limit in limits if limit == 64) < 0.8  # log2(64 / 4) round trips, and a little
    assert limits[-1][1] == 64


@pytest.mark.parametrize("bound", [1, 2, 4, 7])
def test_a_small_bound_is_used_at_once_and_never_passed(bound: int) -> None:
    places = Concurrency(bound=bound)
    assert places.limit == min(bound, INITIAL)
    assert {limit for _, limit in work(places, until=30.0)[bound:]} == {bound}


def test_where_something_else_binds_nothing_grows() -> None:
    places = Concurrency(bound=64)
    for nth in range(1000):
        places.answered(nth * 0.01 + 0.1, started_at=nth * 0.01, in_flight=INITIAL - 1)
    assert places.limit == INITIAL


@pytest.mark.parametrize("at_once", [1, 2, 5, 16, 40])
def test_it_finds_how_many_the_server_takes_at_once_and_seldom_asks_for_more(at_once: int) -> None:
    places = Concurrency(bound=64)
    limits = work(places, until=200.0, at_once=at_once)
    late = [limit for at, limit in limits if at > 50.0]
    assert sum(late) / len(late) == pytest.approx(at_once, rel=0.07, abs=0.3)


def test_a_server_that_queues_is_given_little_to_queue() -> None:
    late = [limit for at, limit in work(Concurrency(bound=64), until=200.0, capacity=10) if at > 50.0]
    assert 10 <= sum(late) / len(late) <= 40


@pytest.mark.parametrize("share", [0.005, 0.01])
def test_random_failures_are_no_limit(share: float) -> None:
    places, dice = Concurrency(bound=64), random.Random(3)
    limits = []
    now = 0.0
    for _ in range(20_000):
        now += 0.1 / places.limit
        if dice.random() < share:
            places.overloaded(now, started_at=now - 0.1, in_flight=places.limit)
        else:
            places.answered(now, started_at=now - 0.1, in_flight=places.limit)
        limits.append(places.limit)
    assert sum(limits) / len(limits) > 48


@given(
    bound=st.integers(1, 100),
    steps=st.lists(
        st.tuples(st.booleans(), st.floats(0.0, 5.0), st.floats(0.0, 10.0), st.integers(1, 120)), max_size=300
    ),
)
def test_whatever_comes_there_is_a_place_and_no_more_than_the_bound(
    bound: int, steps: list[tuple[bool, float, float, int]]
) -> None:
    places, now = Concurrency(bound=bound), 0.0
    for is_accepted, gap, latency_s, in_flight in steps:
        now += gap
        told = places.answered if is_accepted else places.overloaded
        told(now, started_at=now - latency_s, in_flight=in_flight)
        assert 1 <= places.limit <= bound
