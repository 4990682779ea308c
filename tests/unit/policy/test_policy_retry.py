"""The delay before an attempt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.policy.retry import backoff_s

jitters = st.floats(0.0, 1.0, exclude_max=True)


@pytest.mark.parametrize(
    ("failures", "longest_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (8, 30.0), (10**9, 30.0)]
)
def test_the_span_doubles_up_to_its_cap(failures: int, longest_s: float) -> None:
    assert backoff_s(failures, base_s=0.5, cap_s=30.0, jitter=1.0) == longest_s
    assert backoff_s(failures, base_s=0.5, cap_s=30.0, jitter=0.0) == 0.0


def test_eight_attempts_span_about_two_minutes() -> None:
    longest_s = sum(backoff_s(failures, base_s=0.5, cap_s=30.0, jitter=1.0) for failures in range(1, 8))
    assert 60 <= longest_s <= 120


@given(failures=st.integers(1, 10**12), base_s=st.floats(0.0, 1e6), cap_s=st.floats(0.0, 1e6), jitter=jitters)
def test_it_is_never_negative_and_never_beyond_its_cap(
    failures: int, base_s: float, cap_s: float, jitter: float
) -> None:
    assert 0.0 <= backoff_s(failures, base_s=base_s, cap_s=cap_s, jitter=jitter) <= cap_s


@given(failures=st.integers(1, 60), jitter=jitters)
def test_it_never_shrinks_with_more_failures(failures: int, jitter: float) -> None:
    first, then = (backoff_s(n, base_s=0.5, cap_s=30.0, jitter=jitter) for n in (failures, failures + 1))
    assert first <= then
