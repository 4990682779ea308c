"""How many retries a lane has, over any sequence; and what an outage costs a server, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.policy.breaker import PROBE_CAP_S, Breaker
from ingest.policy.budget import MIN_RETRIES_PER_S, RATIO, RESERVE, RetryBudget
from ingest.policy.retry import backoff_s


def emptied(now: float = 0.0) -> RetryBudget:
    budget = RetryBudget()
    while budget.wait_s(now) == 0.0:
        budget.retried(now)
    return budget


def test_it_begins_with_its_reserve() -> None:
    budget, count = RetryBudget(), 0
    while budget.wait_s(0.0) == 0.0:
        budget.retried(0.0)
        count += 1
    assert count == RESERVE


def test_an_empty_one_delays_a_retry_by_what_comes_in() -> None:
    budget = emptied()
    wait_s = budget.wait_s(0.0)
    assert wait_s == pytest.approx(1.0 / MIN_RETRIES_PER_S)
    assert budget.wait_s(wait_s) == 0.0


def test_first_tries_earn_retries_and_retries_do_not() -> None:
    budget = emptied()
    for _ in range(int(RESERVE)):
        budget.started()  # what was granted above
    assert budget.wait_s(0.0) > 0.0
    for _ in range(round(1 / RATIO)):
        assert budget.wait_s(0.0) > 0.0
        budget.started()
    assert budget.wait_s(0.0) == 0.0


def test_what_is_saved_is_bounded() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.started()
    assert budget.balance(1e9) == RESERVE


@settings(max_examples=300)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("wait"), st.floats(0.0, 30.0)),
            st.tuples(st.just("first"), st.integers(1, 300)),
            st.tuples(st.just("retry"), st.integers(1, 300)),
            st.tuples(st.just("patient"), st.integers(1, 20)),
        ),
        max_size=40,
    )
)
def test_over_any_sequence_retries_are_bounded_and_every_one_is_let_through_soon(
    steps: list[tuple[str, float]],
) -> None:
    """`retry`: as many as there are at once; `patient`: so many one after another, each as long as it is told to."""
    budget, now, firsts, retries = RetryBudget(), 0.0, 0, 0

    def retried() -> None:
        nonlocal retries
        budget.retried(now)
        budget.started()
        retries += 1

    for kind, amount in steps:
        match kind:
            case "wait":
                now += amount
            case "first":
                for _ in range(int(amount)):
                    budget.started()
                firsts += int(amount)
            case "retry":
                for _ in range(int(amount)):
                    if budget.wait_s(now) == 0.0:
                        retried()
            case _:
                for _ in range(int(amount)):
                    wait_s = budget.wait_s(now)
                    assert wait_s <= 1.0 / MIN_RETRIES_PER_S
                    now += wait_s
                    assert budget.wait_s(now) == 0.0
                    retried()
        assert budget.balance(now) >= 0.0
        assert retries <= RATIO * firsts + MIN_RETRIES_PER_S * now + RESERVE + 1e-6


# An outage, with all that the lane's policies decide: workers, budget, breaker and places; only the clock is not real.

WORKERS, PLACES, THRESHOLD = 192, 64, 16
LATENCY_S = 0.05
BASE_S, CAP_S = 0.5, 30.0


@dataclass
class Lane:
    """So many workers that never run out of jobs of one request each, against a server that is away for a while."""

    down_from: float
    down_to: float
    seed: int
    silence_s: float = LATENCY_S
    breaker: Breaker = field(default_factory=lambda: Breaker(threshold=THRESHOLD))
    budget: RetryBudget = field(default_factory=RetryBudget)
    started: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    retries: int = 0

    def run(self, until: float) -> None:
        dice = random.Random(self.seed)
        events: list[tuple[float, int, str, int]] = []  # when, the nth event, what, failures of that worker's job
        queue: list[int] = [0] * WORKERS  # who waits at the gate, by failures
        affording: list[int] = []
        in_flight = nth = 0
        now = 0.0

        def later(at: float, what: str, failures: int) -> None:
            nonlocal nth
            nth += 1
            heapq.heappush(events, (at, nth, what, failures))

        while now < until:
            while affording and self.budget.wait_s(now) == 0.0:
                self.budget.retried(now)
                self.retries += 1
                queue.append(affording.pop(0))
            while queue and in_flight < PLACES and self.breaker.wait_s(now) <= 0.0:
                failures = queue.pop(0)
                in_flight += 1
                self.breaker.started()
                self.budget.started()
                self.started.append(now)
                is_down = self.down_from <= now < self.down_to
                after_s = self.silence_s if is_down else LATENCY_S
                later(now + after_s * dice.uniform(0.5, 1.5), "failed" if is_down else "answered", failures)
            if affording:
                later(now + self.budget.wait_s(now), "wake", 0)
            if queue and in_flight < PLACES and 0.0 < (wait_s := self.breaker.wait_s(now)) < float("inf"):
                later(now + wait_s, "wake", 0)
            now, _, what, failures = heapq.heappop(events)
            match what:
                case "answered":
                    in_flight -= 1
                    self.breaker.answered()
                    self.done.append(now)
                    queue.append(0)
                case "failed":
                    in_flight -= 1
                    self.breaker.failed(now, jitter=dice.random())
                    delay_s = backoff_s(failures + 1, base_s=BASE_S, cap_s=CAP_S, jitter=dice.random())
                    later(now + delay_s, "retry", failures + 1)
                case "retry":
                    affording.append(failures)
                case _:
                    pass

    def count(self, begin: float, end: float) -> int:
        return sum(begin <= at < end for at in self.started)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("silence_s", [LATENCY_S, 5.0])
def test_an_outage_is_met_with_single_probes_and_its_end_without_a_storm(seed: int, silence_s: float) -> None:
    lane = Lane(down_from=10.0, down_to=610.0, seed=seed, silence_s=silence_s)
    lane.run(until=680.0)
    before_per_s = lane.count(5.0, 10.0) / 5.0
    assert before_per_s > 0.5 * PLACES / LATENCY_S  # it was busy

    # In it: what was under way and opened the breaker, and then a probe a span. The first ones double, from half a
    # second at least, so the cap is reached within six; from there on one comes in at least half of the cap.
    opening = lane.count(10.0, 10.0 + 2.0 * silence_s)
    assert opening <= 2 * PLACES
    assert lane.count(10.0 + 2.0 * silence_s, 610.0) <= 6 + 600.0 / (PROBE_CAP_S / 2.0)
    probes = [at for at in lane.started if 100.0 <= at < 610.0]
    assert all(later - sooner >= PROBE_CAP_S / 2.0 for sooner, later in itertools.pairwise(probes))

    # After it: the next probe is answered, and no second sees more than the places give, nor more than before.
    back = next(at for at in lane.done if at >= 610.0)
    assert back <= 610.0 + PROBE_CAP_S + 2.0 * LATENCY_S
    assert lane.count(610.0, back) == 1
    for second in range(10):
        assert lane.count(back + second, back + second + 1.0) <= 1.2 * before_per_s
    assert lane.count(back, back + LATENCY_S / 2.0) <= PLACES
    assert lane.count(back + 1.0, back + 2.0) > 0.5 * before_per_s  # and it goes on
    assert lane.retries <= RATIO * len(lane.started) + MIN_RETRIES_PER_S * 680.0 + RESERVE


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_where_most_fails_and_some_does_not_the_budget_holds_the_retries_down(share: float) -> None:
    """No outage for the breaker: it is the budget that keeps the server from being asked again and again."""
    dice, budget, now, first, again = random.Random(1), RetryBudget(), 0.0, 0, 0
    waiting = 0
    while now < 60.0:
        now += 0.001
        if waiting and budget.wait_s(now) == 0.0:
            budget.retried(now)
            waiting -= 1
            again += 1
        elif waiting < WORKERS:
            first += 1
        else:
            continue  # all workers wait for the budget
        budget.started()
        waiting += dice.random() < share
    assert again <= RATIO * first + MIN_RETRIES_PER_S * 60.0 + RESERVE
    assert first + again < 5_000  # of the 60 000 that there was time for
    assert again > 0.9 * MIN_RETRIES_PER_S * 60.0  # and it never stands still
