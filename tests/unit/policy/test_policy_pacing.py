"""The pace of a lane: the user's bound, pauses, echoes, probes, and what the server says by itself."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.policy.chance import FEW
from ingest.policy.pacing import LONGEST_PAUSE_S, SHORTEST_PAUSE_S, SLACK_S, Pacer, is_refusal
from ingest.policy.quota import Quota

bounds = st.floats(0.05, 500.0)
idles = st.floats(0.0, 5.0) | st.just(0.0)
jitters = st.floats(0.0, 1.0, exclude_max=True)


def started(pacer: Pacer, now: float) -> float:
    """Start one request as early as may be, not before `now`; when that was."""
    at = now + pacer.wait_s(now)
    pacer.started(at)
    return at


def refuse(pacer: Pacer, now: float, *, started_at: float | None = None, retry_after_s: float | None = None) -> float:
    return pacer.refused(
        now, started_at=now if started_at is None else started_at, retry_after_s=retry_after_s, jitter=0.5
    )


def refuse_burst(pacer: Pacer, now: float, *, started_at: float = 0.0) -> None:
    """So many at once that nobody takes them for chance."""
    for _ in range(math.ceil(FEW)):
        refuse(pacer, now, started_at=started_at)


def against_bucket(pacer: Pacer, *, rate: float, burst: int, until: float, round_trip_s: float = 0.02) -> list[float]:
    """Endless demand, one request at a time, against a token bucket; when it took one."""
    now, at, tokens, taken = 0.0, 0.0, float(burst), []
    while now < until:
        now = started(pacer, now)
        tokens = min(float(burst), tokens + (now - at) * rate)
        at = now
        if tokens >= 1.0:
            tokens -= 1.0
            taken.append(now)
            pacer.accepted(now + round_trip_s, started_at=now)
        else:
            refuse(pacer, now + round_trip_s, started_at=now)
    return taken


@pytest.mark.parametrize(
    ("status", "retry_after_s", "expected"),
    [(429, None, True), (429, 3.0, True), (503, 3.0, True), (503, None, False), (500, 3.0, False), (None, None, False)],
)
def test_what_refuses_the_lane(status: int | None, retry_after_s: float | None, expected: bool) -> None:
    assert is_refusal(status, retry_after_s) is expected


@settings(max_examples=200)
@given(
    bound=bounds,
    gaps=st.lists(st.tuples(idles, st.sampled_from(["", "accept", "refuse", "told"])), min_size=2, max_size=80),
)
def test_the_bound_holds_over_any_window(bound: float, gaps: list[tuple[float, str]]) -> None:
    pacer, now, starts = Pacer(bound=bound), 0.0, []
    for gap, then in gaps:
        now = started(pacer, now + gap)
        starts.append(now)
        if then == "accept":
            pacer.accepted(now + 0.001, started_at=now)
        elif then == "refuse":
            refuse(pacer, now + 0.001, started_at=now)
        elif then == "told":
            refuse(pacer, now + 0.001, started_at=now, retry_after_s=0.1)
    for (i, begin), (j, end) in itertools.combinations(enumerate(starts), 2):
        assert j - i + 1 <= 1 + (end - begin + SLACK_S) * bound + 1e-6


@settings(max_examples=300)
@given(
    bound=bounds | st.none(),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["start", "accept", "refuse", "echo", "retry_after", "quota"]),
            idles,
            jitters,
            st.floats(0.0, 100.0),
        ),
        max_size=80,
    ),
)
def test_whatever_comes_a_pause_holds_and_a_request_may_start_in_the_end(
    bound: float | None, steps: list[tuple[str, float, float, float]]
) -> None:
    pacer, now, quota_until = Pacer(bound=bound), 0.0, 0.0
    for kind, gap, jitter, seconds in steps:
        now += gap
        paused_until = pacer.paused_until
        match kind:
            case "start":
                now = started(pacer, now)
                assert now >= paused_until - 1e-9
            case "accept":
                pacer.accepted(now, started_at=now - jitter)
            case "refuse" | "echo":
                started_at = now if kind == "refuse" else now - seconds
                added_s = pacer.refused(now, started_at=started_at, retry_after_s=None, jitter=jitter)
                assert 0.0 <= added_s <= 1.25 * LONGEST_PAUSE_S
            case "retry_after":
                pacer.refused(now, started_at=now - jitter, retry_after_s=seconds, jitter=jitter)
                assert pacer.wait_s(now) >= seconds - 1e-9
            case "quota":
                pacer.told(now, Quota(remaining=int(seconds) - 50, reset_s=seconds, limit=100), in_flight=3)
                quota_until = max(quota_until, now + seconds)
        assert pacer.paused_until >= paused_until  # a pause is never made shorter
        assert 0.0 < pacer.rate <= (math.inf if bound is None else bound)
        assert math.isfinite(pacer.wait_s(now))


def test_without_a_bound_nothing_waits() -> None:
    pacer = Pacer(bound=None)
    assert [started(pacer, 1.0) for _ in range(100)] == [1.0] * 100
    assert pacer.rate == math.inf


def test_a_late_wake_up_catches_up_by_the_slack_and_no_more() -> None:
    pacer = Pacer(bound=100.0)
    started(pacer, 0.0)
    starts = [started(pacer, 10.0) for _ in range(20)]
    assert sum(at == 10.0 for at in starts) == 6  # 50 ms of a hundred a second, and the one that is due


@pytest.mark.parametrize(
    ("now", "retry_after_s", "until"), [(10.0, 5.0, 15.0), (10.0, 0.0, 10.0), (0.0, 86400.0, 86400.0)]
)
def test_retry_after_pauses_the_lane(now: float, retry_after_s: float, until: float) -> None:
    pacer = Pacer(bound=None)
    pacer.started(now - 2.0)
    assert refuse(pacer, now, retry_after_s=retry_after_s) == until - now
    assert pacer.wait_s(now) == until - now
    assert pacer.wait_s(until) == 0.0


def test_the_longest_of_two_retry_afters_counts() -> None:
    pacer = Pacer(bound=None)
    assert refuse(pacer, 0.0, retry_after_s=10.0) == 10.0
    assert refuse(pacer, 1.0, retry_after_s=2.0) == 0.0
    assert refuse(pacer, 2.0, retry_after_s=9.0) == 1.0
    assert pacer.wait_s(2.0) == 9.0


@given(echoes=st.lists(st.tuples(jitters, st.floats(0.0, 1.0)), max_size=100))
def test_the_echoes_of_one_burst_are_one_signal_however_late_they_come(echoes: list[tuple[float, float]]) -> None:
    pacer = Pacer(bound=None)
    for nth in range(50):
        pacer.started(nth / 10)
        pacer.accepted(nth / 10 + 0.3, started_at=nth / 10)
    refuse_burst(pacer, 5.3, started_at=5.0)
    until = pacer.paused_until
    for late_s, earlier_s in echoes:
        assert refuse(pacer, 5.3 + late_s, started_at=5.3 - earlier_s) == 0.0
    assert pacer.paused_until == until


def test_a_first_refusal_lets_single_probes_out_less_and_less_often() -> None:
    pacer = Pacer(bound=None)
    pacer.started(0.0)
    refuse_burst(pacer, 0.02)
    assert pacer.wait_s(0.02) == pytest.approx(SHORTEST_PAUSE_S)
    gaps, before = [], 0.02
    for _ in range(25):
        at = started(pacer, before)
        assert pacer.wait_s(at) > 0.0  # nothing beside it
        refuse(pacer, at + 0.02, started_at=at)
        gaps.append(at - before)
        before = at
    assert gaps[-1] > 60.0 * 0.7
    assert all(then >= 0.99 * now for now, then in itertools.pairwise(gaps))
    assert sum(gaps[:14]) < 60.0 < sum(gaps)  # a minute is asked for a dozen times


@pytest.mark.parametrize(
    ("retry_after_s", "has_quota", "is_limited"),
    [(None, False, False), (1.0, False, False), (5.0, False, True), (None, True, True)],
)
def test_a_lone_refusal_is_no_limit_unless_the_server_tells_of_one(
    retry_after_s: float | None, has_quota: bool, is_limited: bool
) -> None:
    pacer = Pacer(bound=None)
    for nth in range(50):
        pacer.started(nth / 10)
        pacer.accepted(nth / 10 + 0.02, started_at=nth / 10)
    if has_quota:
        pacer.told(5.0, Quota(remaining=50, reset_s=30.0, limit=100), in_flight=0)
    pacer.started(5.0)
    refuse(pacer, 5.02, started_at=5.0, retry_after_s=retry_after_s)
    assert pacer.wait_s(5.02) >= (retry_after_s or 0.0) - 1e-9
    at = started(pacer, 5.02)
    pacer.accepted(at + 0.02, started_at=at)
    assert (pacer.rate < math.inf) is is_limited


def test_an_unanswered_probe_is_followed_by_another() -> None:
    pacer = Pacer(bound=None)
    pacer.started(0.0)
    refuse_burst(pacer, 0.3)
    at = started(pacer, 0.3)
    assert SHORTEST_PAUSE_S <= pacer.wait_s(at) < 1.0


@pytest.mark.parametrize("rate", [2.0, 20.0, 45.0])
@pytest.mark.parametrize("burst", [1, 10, 100])
def test_it_settles_just_under_a_bucket_and_is_seldom_refused(rate: float, burst: int) -> None:
    pacer, until = Pacer(bound=None), 20_000.0 / rate
    taken = against_bucket(pacer, rate=rate, burst=burst, until=until)
    late = [at for at in taken if at > until / 2]
    assert len(late) >= 0.97 * rate * until / 2
    assert 0.9 * rate < pacer.rate < 1.5 * rate


def test_a_quota_that_is_used_up_waits_for_its_reset() -> None:
    pacer = Pacer(bound=None)
    pacer.started(0.0)
    pacer.told(0.1, Quota(remaining=0, reset_s=30.0, limit=60), in_flight=0)
    assert pacer.wait_s(0.1) == pytest.approx(30.0)
    assert pacer.wait_s(30.2) == 0.0


def test_the_rest_of_a_quota_is_spread_until_its_reset() -> None:
    pacer, now, starts = Pacer(bound=None), 0.0, []
    for remaining in range(59, -1, -1):
        now = started(pacer, now)
        starts.append(now)
        pacer.told(now, Quota(remaining=remaining, reset_s=60.0 - now, limit=60), in_flight=0)
    assert starts[20] == 0.0
    assert 55.0 < starts[-1] < 60.0
    assert pacer.wait_s(now) == pytest.approx(60.0 - now)
