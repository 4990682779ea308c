"""When the API is asked about a refused key, and for how long."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.policy.vigil import ASK_BASE_S, ASK_CAP_S, Vigil

JITTER = st.floats(0.0, 1.0, exclude_max=True)


def asked_at(vigil: Vigil, now: float, end: float) -> float | None:
    """When it is due, to a tenth of a second; None: not until `end`."""
    while now < end:
        if vigil.is_due(now):
            return now
        now += 0.1
    return None


@pytest.mark.parametrize("patience_s", [120.0, math.inf])
def test_another_key_is_asked_about_at_once(patience_s: float) -> None:
    vigil = Vigil(patience_s=patience_s)
    vigil.begin(0.0, jitter=0.9)
    vigil.renew(1.0)
    assert vigil.is_due(1.0)


def test_the_same_key_is_asked_about_only_where_patience_has_no_end() -> None:
    vigil = Vigil(patience_s=120.0)
    vigil.begin(0.0, jitter=0.9)
    assert asked_at(vigil, 0.0, 119.0) is None
    vigil = Vigil(patience_s=math.inf)
    vigil.begin(0.0, jitter=0.9)
    assert asked_at(vigil, 0.0, 119.0) == pytest.approx(0.9 * ASK_BASE_S, abs=0.11)


def test_another_key_that_is_refused_is_asked_about_again() -> None:
    vigil = Vigil(patience_s=120.0)
    vigil.begin(0.0, jitter=0.9)
    vigil.renew(1.0)
    vigil.asked(1.0, jitter=0.9)
    assert not vigil.is_due(1.0)
    assert asked_at(vigil, 1.0, 119.0) is not None


@given(patience_s=st.floats(0.0, 1e4), began_at=st.floats(0.0, 1e6), jitter=JITTER)
def test_patience_ends(patience_s: float, began_at: float, jitter: float) -> None:
    vigil = Vigil(patience_s=patience_s)
    vigil.begin(began_at, jitter=jitter)
    vigil.renew(began_at)
    assert vigil.is_over(began_at) == (vigil.left_s(began_at) == 0.0)
    assert vigil.is_over(began_at + patience_s)
    vigil.begin(began_at + 2 * patience_s, jitter=jitter)  # and begins anew with every refusal
    assert vigil.left_s(began_at + 2 * patience_s) == pytest.approx(patience_s, abs=1e-6)


@given(jitters=st.lists(JITTER, min_size=12, max_size=40))
def test_the_intervals_grow_to_the_cap_and_stay_below(jitters: list[float]) -> None:
    vigil, now = Vigil(patience_s=math.inf), 0.0
    vigil.begin(now, jitter=jitters[0])
    for number, jitter in enumerate(jitters[1:], start=1):
        longest_s = min(ASK_CAP_S, ASK_BASE_S * 2.0 ** (number - 1))
        assert vigil.is_due(now + longest_s)
        assert not vigil.is_over(now + longest_s)
        now += longest_s
        vigil.asked(now, jitter=jitter)


def test_a_day_of_waiting_is_a_few_hundred_requests() -> None:
    vigil, now, requests = Vigil(patience_s=math.inf), 0.0, 0
    vigil.begin(now, jitter=0.5)
    while now < 24 * 3600.0:
        now += 1.0
        if vigil.is_due(now):
            vigil.asked(now, jitter=0.5)
            requests += 1
    assert requests < 1000


def test_soon_after_a_wait_that_mended_nothing_the_intervals_grow_on() -> None:
    vigil, now, waits = Vigil(patience_s=math.inf), 0.0, []
    for _ in range(10):
        vigil.begin(now, jitter=0.9)
        wait_s = vigil._ask_at - now
        waits.append(wait_s)
        now += wait_s
        vigil.end(now)
    assert waits[5] > 16 * waits[0]
    vigil.begin(now + ASK_CAP_S, jitter=0.9)
    assert vigil._ask_at - (now + ASK_CAP_S) == pytest.approx(waits[0])
