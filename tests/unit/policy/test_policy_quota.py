"""What is left by the server's own word."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.policy.quota import ROUNDING_S, TAIL, Quota, Reserve


def told(remaining: int, reset_s: float, *, limit: int | None = 100, in_flight: int = 0, now: float = 0.0) -> Reserve:
    reserve = Reserve()
    reserve.told(now, Quota(remaining=remaining, reset_s=reset_s, limit=limit), in_flight=in_flight)
    return reserve


def test_nothing_is_known_at_first() -> None:
    assert Reserve().next_at(0.0, 0.0) == -math.inf


@pytest.mark.parametrize("remaining", [51, 100])
def test_the_first_half_may_be_used_at_once(remaining: int) -> None:
    assert TAIL == 0.5
    assert told(remaining, 60.0).next_at(0.0, 0.0) == -math.inf


@pytest.mark.parametrize("limit", [100, None])
def test_the_rest_is_spread(limit: int | None) -> None:
    assert told(20, 60.0 + ROUNDING_S, limit=limit).next_at(0.0, 0.0) == pytest.approx(3.0)


def test_nothing_starts_until_the_reset_when_all_is_used_up_or_under_way() -> None:
    assert told(0, 30.0).next_at(1.0, 0.0) == 30.0
    assert told(3, 30.0, in_flight=3).next_at(1.0, 0.0) == 30.0
    assert told(0, 30.0).next_at(30.0, 0.0) == -math.inf


def test_what_starts_counts_before_its_answer_comes() -> None:
    reserve = told(2, 30.0)
    reserve.started()
    reserve.started()
    assert reserve.next_at(1.0, 0.0) == 30.0


@pytest.mark.parametrize("reset_s", [0.0, 0.5, 1.0])
def test_a_reset_within_a_second_tells_nothing(reset_s: float) -> None:
    assert told(0, reset_s).next_at(0.0, 0.0) == -math.inf


def test_the_last_second_of_a_known_window_is_kept() -> None:
    reserve = told(5, 30.0)
    reserve.told(29.5, Quota(remaining=0, reset_s=1.0, limit=100), in_flight=0)
    assert reserve.next_at(29.6, 29.5) == pytest.approx(30.0)


@given(
    words=st.lists(
        st.tuples(st.floats(0.0, 90.0), st.integers(0, 200), st.floats(0.0, 100.0), st.integers(0, 70)), min_size=1
    )
)
def test_it_never_waits_beyond_the_last_reset_it_was_told(words: list[tuple[float, int, float, int]]) -> None:
    reserve, now, latest = Reserve(), 0.0, -math.inf
    for gap, remaining, reset_s, in_flight in words:
        now += gap
        reserve.told(now, Quota(remaining=remaining, reset_s=reset_s, limit=100), in_flight=in_flight)
        latest = max(latest, now + reset_s)
        assert reserve.next_at(now, now) <= latest
