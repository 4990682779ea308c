"""Whether a lane is in an outage, and what goes out while it is."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ingest.policy.breaker import PROBE_BASE_S, PROBE_CAP_S, Breaker

THRESHOLD = 4


def opened(now: float = 0.0, *, jitter: float = 0.0) -> Breaker:
    breaker = Breaker(threshold=THRESHOLD)
    for _ in range(THRESHOLD):
        breaker.started()
    for _ in range(THRESHOLD):
        breaker.failed(now, jitter=jitter)
    assert breaker.is_open
    return breaker


def test_it_opens_at_the_threshold_and_not_before() -> None:
    breaker = Breaker(threshold=THRESHOLD)
    for _ in range(THRESHOLD - 1):
        breaker.failed(0.0, jitter=0.5)
        assert not breaker.is_open
        assert breaker.wait_s(0.0) == 0.0
    breaker.failed(0.0, jitter=0.5)
    assert breaker.is_open
    assert breaker.wait_s(0.0) > 0.0


def test_an_answer_in_between_begins_the_count_anew() -> None:
    breaker = Breaker(threshold=THRESHOLD)
    for _ in range(100):
        for _ in range(THRESHOLD - 1):
            breaker.failed(0.0, jitter=0.5)
        breaker.answered()
    assert not breaker.is_open


@pytest.mark.parametrize("max_attempts", [1, 2, 8])
def test_one_job_alone_cannot_open_it(max_attempts: int) -> None:
    breaker = Breaker(threshold=2 * max_attempts)  # as the gate makes it
    for _ in range(max_attempts):
        breaker.started()
        breaker.failed(0.0, jitter=0.0)
    assert not breaker.is_open


def test_a_probe_goes_alone_and_its_answer_closes() -> None:
    breaker = opened()
    at = breaker.wait_s(0.0)
    assert 0.5 <= at <= 1.0
    assert breaker.wait_s(at) == 0.0
    breaker.started()
    assert breaker.wait_s(at) == math.inf
    assert breaker.wait_s(at + 1e6) == math.inf
    breaker.answered()
    assert not breaker.is_open
    assert breaker.wait_s(at) == 0.0


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_probes_that_fail_come_at_longer_intervals_up_to_the_cap(jitter: float) -> None:
    breaker, now, waits = opened(jitter=jitter), 0.0, []
    for _ in range(8):
        wait_s = breaker.wait_s(now)
        waits.append(wait_s)
        now += wait_s
        breaker.started()
        breaker.failed(now, jitter=jitter)
    assert all(then >= before - 1e-9 for before, then in itertools.pairwise(waits))
    assert waits[0] >= 0.5
    assert 0.5 * PROBE_CAP_S <= waits[-1] <= PROBE_CAP_S


def test_echoes_of_what_was_under_way_move_no_probe() -> None:
    breaker = opened()
    wait_s = breaker.wait_s(0.0)
    for _ in range(64):
        breaker.failed(0.1, jitter=0.9)
    assert breaker.wait_s(0.0) == wait_s


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_an_echo_lets_no_second_probe_go(is_cancelled: bool) -> None:
    breaker = Breaker(threshold=THRESHOLD)
    for _ in range(THRESHOLD + 1):
        breaker.started()
    for _ in range(THRESHOLD):
        breaker.failed(0.0, jitter=0.0)  # and one is under way still
    now = breaker.wait_s(0.0)
    breaker.started()
    if is_cancelled:
        breaker.abandoned()
    else:
        breaker.failed(now, jitter=0.0)
    assert breaker.wait_s(now + 1e6) == math.inf  # it may have been either that ended
    breaker.failed(now, jitter=0.0)
    assert 0.0 < breaker.wait_s(now) <= PROBE_CAP_S


def test_a_probe_that_was_cancelled_lets_the_next_one_go() -> None:
    breaker = opened()
    at = breaker.wait_s(0.0)
    breaker.started()
    breaker.abandoned()
    assert breaker.is_open
    assert breaker.wait_s(at) == 0.0


def test_silence_is_counted_from_the_first_failure_to_the_first_answer() -> None:
    breaker = Breaker(threshold=THRESHOLD)
    assert breaker.silent_since is None
    breaker.failed(10.0, jitter=0.0)
    breaker.failed(20.0, jitter=0.0)
    assert breaker.silent_since == 10.0
    breaker.answered()
    assert breaker.silent_since is None


@given(
    echoes=st.integers(0, 64),
    jitters=st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=10, max_size=30),
    silence_s=st.floats(0.0, 5.0),
)
def test_in_a_full_outage_there_is_one_probe_at_a_time_and_the_spans_grow_to_the_cap(
    echoes: int, jitters: list[float], silence_s: float
) -> None:
    breaker, now = opened(jitter=jitters[0]), 0.0
    for _ in range(echoes):
        breaker.failed(now, jitter=0.5)
    spans = []
    for jitter in jitters:
        wait_s = breaker.wait_s(now)
        assert 0.0 < wait_s <= PROBE_CAP_S + 1e-9
        assert breaker.wait_s(now + 0.99 * wait_s) > 0.0  # nothing earlier
        spans.append(wait_s)
        now += wait_s
        breaker.started()
        assert breaker.wait_s(now + 1e9) == math.inf  # nothing beside it
        now += silence_s
        breaker.failed(now, jitter=jitter)
    for number, span_s in enumerate(spans):
        longest_s = min(PROBE_CAP_S, PROBE_BASE_S * 2.0**number)
        assert longest_s / 2.0 - 1e-9 <= span_s <= longest_s + 1e-9
    breaker.started()
    breaker.answered()
    assert breaker.wait_s(now) == 0.0


class Outage(RuleBasedStateMachine):
    """A lane that starts whenever it may, and whose requests end in any order."""

    @initialize()
    def begin(self) -> None:
        self.breaker = Breaker(threshold=THRESHOLD)
        self.now = 0.0
        self.under_way: list[bool] = []  # whether each is a probe of this outage
        self.failures = 0

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.wait_s(self.now) == 0.0)
    @rule()
    def start(self) -> None:
        assert not any(self.under_way)
        self.under_way.append(self.breaker.is_open)
        self.breaker.started()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), jitter=st.floats(0.0, 1.0, exclude_max=True))
    def fail(self, data: st.DataObject, jitter: float) -> None:
        self.end_one(data)
        self.breaker.failed(self.now, jitter=jitter)
        self.failures += 1

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.end_one(data)
        self.breaker.answered()
        self.under_way = [False] * len(self.under_way)
        self.failures = 0

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.end_one(data)
        self.breaker.abandoned()

    def end_one(self, data: st.DataObject) -> None:
        del self.under_way[data.draw(st.integers(0, len(self.under_way) - 1))]

    @invariant()
    def it_is_open_exactly_after_so_many_failures(self) -> None:
        assert self.breaker.is_open == (self.failures >= THRESHOLD)
        assert (self.breaker.silent_since is None) == (self.failures == 0)

    @invariant()
    def it_never_gets_stuck(self) -> None:
        """Where nothing is under way, a request may start before long."""
        if not self.under_way:
            assert self.breaker.wait_s(self.now) <= PROBE_CAP_S


Outage.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestOutage = Outage.TestCase
