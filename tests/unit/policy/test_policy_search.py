"""The search for a limit: what each kind of server teaches it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.policy.search import BACK_OFF, BETA, MIN_RATE, SAMPLE, Search


def accept(search: Search, count: int, since: float, until: float) -> None:
    for nth in range(count):
        at = since + (until - since) * (nth + 1) / count
        search.started(at)
        search.accepted(at)


def learn(search: Search, now: float, *, onset_at: float, shut_at: float | None = None, pause_s: float = 0.0) -> None:
    search.refused(is_onset=True)
    search.reopened(now, onset_at=onset_at, shut_at=shut_at, pause_s=pause_s)


def cold(*, accepted: int = 200, over_s: float = 10.0) -> Search:
    search = Search()
    accept(search, accepted, 0.0, over_s)
    learn(search, over_s, onset_at=over_s)
    return search


def test_nothing_is_known_until_the_first_refusal() -> None:
    search = Search()
    accept(search, 1000, 0.0, 1.0)
    assert search.rate == math.inf


def test_the_first_pace_is_what_was_accepted() -> None:
    assert cold().rate == pytest.approx(20.0, rel=0.05)


def test_a_window_is_measured_from_opening_to_opening_with_the_time_that_it_was_shut() -> None:
    search = Search()
    accept(search, 600, 0.0, 2.0)
    learn(search, 60.0, onset_at=2.0, shut_at=58.0)
    assert search.rate == pytest.approx(10.0, rel=0.05)


def drive(search: Search, count: int, now: float) -> tuple[float, list[float]]:
    """So many accepted requests, at the pace; when the last one was, and the paces."""
    rates = []
    for _ in range(count):
        now += 1.0 / search.rate
        search.started(now)
        search.accepted(now)
        rates.append(search.rate)
    return now, rates


def test_an_onset_lowers_the_pace_to_just_under_where_it_hurt() -> None:
    search = cold()
    now, rates = drive(search, 400, 10.0)
    learn(search, now, onset_at=now)
    assert BACK_OFF * rates[-1] <= search.rate <= BETA * rates[-1]


def test_onsets_too_early_to_measure_lower_it_more_and_more() -> None:
    search, now, rates = cold(), 10.0, []
    for _ in range(6):
        accept(search, 3, now, now + 0.1)
        now += 0.1
        before = search.rate
        learn(search, now, onset_at=now)
        rates.append(search.rate / before)
    assert rates[0] == pytest.approx(BETA, abs=0.01)
    assert rates[-1] == pytest.approx(BACK_OFF, abs=0.01)
    assert rates == sorted(rates, reverse=True)


def test_it_climbs_back_lingers_and_then_looks_beyond() -> None:
    search = cold()
    now, rates = drive(search, 400, 10.0)
    hurt = rates[-1]
    learn(search, now, onset_at=now)
    _, rates = drive(search, 3000, now)
    assert rates == sorted(rates)
    assert sum(0.99 * hurt < rate < 1.01 * hurt for rate in rates) > 150  # near where it hurt, before it looks further
    assert rates[-1] > 2.0 * hurt


def test_an_idle_hour_is_no_climb() -> None:
    search = cold()
    accept(search, 400, 10.0, 30.0)
    learn(search, 30.0, onset_at=30.0)
    before = search.rate
    search.started(3630.0)
    assert search.rate == pytest.approx(before, rel=0.001)


def test_more_refusals_make_a_longer_climb() -> None:
    lengths = []
    for burst in (1, 5, 20):
        search = cold(accepted=20_000, over_s=1000.0)
        accept(search, 20_000, 1000.0, 2000.0)
        hurt = search.rate
        for nth in range(burst):
            search.refused(is_onset=not nth)
        search.reopened(2000.0, onset_at=2000.0, shut_at=None, pause_s=0.0)
        count, now = 0, 2000.0
        while search.rate < 1.03 * hurt:
            now += 1.0 / search.rate
            search.started(now)
            count += 1
        lengths.append(count)
    assert lengths[1] > 3 * lengths[0]
    assert lengths[2] > 3 * lengths[1]


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2 * SAMPLE), st.floats(0.0, 100.0), st.floats(0.0, 70.0), st.sampled_from([0.0, 1.0, 60.0])
        ),
        max_size=30,
    )
)
def test_whatever_comes_the_pace_stays_a_pace(steps: list[tuple[int, float, float, float]]) -> None:
    search, now = Search(), 0.0
    for accepted, over_s, shut_s, pause_s in steps:
        accept(search, accepted, now, now + over_s)
        now += over_s
        onset_at = now
        now += max(shut_s, pause_s)
        learn(search, now, onset_at=onset_at, shut_at=onset_at + shut_s / 2 if shut_s else None, pause_s=pause_s)
        assert search.rate >= MIN_RATE
        assert not math.isnan(search.rate)
