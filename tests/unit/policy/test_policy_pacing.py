"""The pace of a lane: the user's bound, pauses, and what refusals teach."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.policy.pacing import BETA, LONGEST_PAUSE_S, MIN_RATE, SLACK_S, Pacer

bounds = st.floats(0.05, 500.0)
idles = st.floats(0.0, 5.0) | st.just(0.0)
jitters = st.floats(0.0, 1.0, exclude_max=True)


def started(pacer: Pacer, now: float) -> float:
    """Start one request as early as may be, not before `now`; when that was."""
    at = now + pacer.wait_s(now)
    pacer.started(at)
    return at


def refused_once(*, bound: float | None = None, accepted: int = 50, over_s: float = 5.0) -> tuple[Pacer, float]:
    """A pacer that took so many answers and was then refused without a word of when to come again."""
    pacer = Pacer(bound=bound)
    pacer.started(0.0)
    for nth in range(accepted):
        pacer.accepted(over_s * nth / accepted)
    pacer.refused(over_s, retry_after_s=None, jitter=0.0)
    return pacer, over_s


@settings(max_examples=200)
@given(bound=bounds, gaps=st.lists(idles, min_size=2, max_size=80))
def test_the_bound_holds_over_any_window(bound: float, gaps: list[float]) -> None:
    pacer, now, starts = Pacer(bound=bound), 0.0, []
    for gap in gaps:
        now = started(pacer, now + gap)
        starts.append(now)
    for (i, begin), (j, end) in itertools.combinations(enumerate(starts), 2):
        assert j - i + 1 <= 1 + (end - begin + SLACK_S) * bound + 1e-6


@settings(max_examples=200)
@given(
    bound=bounds | st.none(),
    steps=st.lists(
        st.tuples(st.sampled_from(["start", "accept", "refuse", "retry_after"]), idles, jitters, st.floats(0.0, 100.0)),
        max_size=80,
    ),
)
def test_whatever_comes_the_rate_stays_within_its_bounds_and_pauses_hold(
    bound: float | None, steps: list[tuple[str, float, float, float]]
) -> None:
    pacer, now = Pacer(bound=bound), 0.0
    for kind, gap, jitter, seconds in steps:
        now += gap
        paused_until = pacer.paused_until
        match kind:
            case "start":
                now = started(pacer, now)
                assert now >= paused_until - 1e-9
            case "accept":
                pacer.accepted(now)
            case "refuse":
                added_s = pacer.refused(now, retry_after_s=None, jitter=jitter)
                assert 0.0 <= added_s <= LONGEST_PAUSE_S
            case "retry_after":
                pacer.refused(now, retry_after_s=seconds, jitter=jitter)
                assert pacer.wait_s(now) >= seconds - 1e-9
        assert pacer.paused_until >= paused_until  # a pause is never made shorter
        upper = math.inf if bound is None else bound
        assert min(MIN_RATE, upper) <= pacer.rate <= upper


def test_without_a_bound_nothing_waits() -> None:
    pacer = Pacer(bound=None)
    assert [started(pacer, 1.0) for _ in range(100)] == [1.0] * 100


def test_a_late_wake_up_catches_up_by_the_slack_and_no_more() -> None:
    pacer = Pacer(bound=100.0)
    started(pacer, 0.0)
    starts = [started(pacer, 10.0) for _ in range(20)]
    assert sum(at == 10.0 for at in starts) == 6  # 50 ms of a hundred a second, and the one that is due


@pytest.mark.parametrize(
    ("now", "retry_after_s", "until"), [(10.0, 5.0, 15.0), (10.0, 0.0, 10.0), (0.0, 86400.0, 86400.0)]
)
def test_retry_after_pauses_the_lane_and_leaves_its_pace(now: float, retry_after_s: float, until: float) -> None:
    pacer = Pacer(bound=100.0)
    pacer.started(now - 2.0)
    assert pacer.refused(now, retry_after_s=retry_after_s, jitter=0.5) == until - now
    assert pacer.wait_s(now) == until - now
    assert pacer.wait_s(until) == 0.0
    assert pacer.rate == 100.0


def test_the_longest_of_two_retry_afters_counts() -> None:
    pacer = Pacer(bound=None)
    assert pacer.refused(0.0, retry_after_s=10.0, jitter=0.0) == 10.0
    assert pacer.refused(1.0, retry_after_s=2.0, jitter=0.0) == 0.0
    assert pacer.refused(2.0, retry_after_s=9.0, jitter=0.0) == 1.0
    assert pacer.wait_s(2.0) == 9.0


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.99])
def test_a_refusal_without_a_word_sets_the_pace_under_what_was_accepted(jitter: float) -> None:
    pacer = Pacer(bound=None)
    pacer.started(0.0)
    for _ in range(100):
        pacer.accepted(4.0)
    pause_s = pacer.refused(5.0, retry_after_s=None, jitter=jitter)
    assert pacer.rate == pytest.approx(BETA * 100 / 5)
    assert 0.5 <= pause_s <= 1.0


@given(echoes=st.lists(jitters, max_size=100))
def test_the_echoes_of_one_burst_are_one_signal(echoes: list[float]) -> None:
    pacer, now = refused_once()
    alone, _ = refused_once()
    for jitter in echoes:
        assert pacer.refused(now + 0.49 * jitter, retry_after_s=None, jitter=jitter) == 0.0
    assert (pacer.rate, pacer.paused_until) == (alone.rate, alone.paused_until)


def test_each_refusal_in_a_row_doubles_the_pause_up_to_its_cap() -> None:
    pacer, now, pauses = Pacer(bound=None), 0.0, []
    for _ in range(9):
        pauses.append(pacer.refused(now, retry_after_s=None, jitter=0.0))
        now = pacer.paused_until
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    pacer.accepted(now)
    assert pacer.refused(now, retry_after_s=None, jitter=0.0) == 0.5


def test_a_burst_shorter_than_half_a_second_measures_no_rate() -> None:
    pacer = Pacer(bound=None)
    pacer.started(0.0)
    for _ in range(200):
        pacer.accepted(0.1)
    pacer.refused(0.2, retry_after_s=None, jitter=0.0)
    assert pacer.rate == math.inf


@pytest.mark.parametrize("bound", [10.0, 20.0])
def test_the_pace_rises_to_the_bound_and_stays_there(bound: float) -> None:
    pacer, now = refused_once(bound=bound, accepted=10)
    rates = [pacer.rate]
    for second in range(60):
        pacer.accepted(now + 1 + second)
        rates.append(pacer.rate)
    assert rates == sorted(rates)
    assert rates[0] < bound
    assert rates[-1] == bound
    assert all(then <= before * 1.1 + 1e-9 for before, then in itertools.pairwise(rates))


def test_an_idle_hour_raises_the_pace_no_more_than_a_second_does() -> None:
    pacer, now = refused_once(bound=1000.0)
    rate = pacer.rate
    pacer.accepted(now + 3600.0)
    pacer.accepted(now + 3600.1)
    assert pacer.rate == pytest.approx(rate * 1.1)
