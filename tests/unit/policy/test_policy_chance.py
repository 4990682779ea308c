"""Chance and limits, told apart: what is excused, and when a pace is given back."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.policy.chance import FEW, FORGOTTEN, RUN, Chance


def fall(chance: Chance, stretches: list[tuple[float, int, float]]) -> list[float | None]:
    """Onsets at these paces, each after so many accepted requests that took so many seconds; what is given back."""
    now, back = 0.0, []
    chance.learned(now, 100.0, is_limit=False)
    for pace, accepted, span_s in stretches:
        now += span_s
        for _ in range(accepted):
            chance.accepted()
        chance.refused()
        back.append(chance.learned(now, pace, is_limit=False))
    return back


PACES = [99.0 * 0.88**nth for nth in range(2 * RUN)]
IN_VAIN = [(pace, 40, 40 / pace) for pace in PACES]
# One refusal in 41 requests, at whatever pace.


def test_a_lone_refusal_is_excused_and_a_burst_is_not() -> None:
    chance = Chance()
    assert [chance.refused() for _ in range(math.ceil(FEW))] == [False] * (math.ceil(FEW) - 1) + [True]


def test_one_in_a_hundred_at_random_is_seldom_taken_for_a_limit() -> None:
    dice, serious = random.Random(1), 0
    for _ in range(20):
        chance = Chance()
        for _ in range(1000):
            if dice.random() >= 0.01:
                chance.accepted()
            elif chance.refused():
                serious += 1
                break
    assert serious <= 5


def test_every_refusal_counts_once_a_limit_was_found() -> None:
    chance = Chance()
    chance.learned(1.0, 50.0, is_limit=False)
    assert chance.refused()


def test_a_pace_that_was_lowered_in_vain_is_given_back_and_such_refusals_are_excused() -> None:
    chance = Chance()
    back = fall(chance, IN_VAIN)
    assert next(pace for pace in back if pace is not None) == 100.0
    assert back.index(100.0) >= RUN - 1
    chance = Chance()
    fall(chance, IN_VAIN[: back.index(100.0) + 1])
    assert not chance.refused()
    for _ in range(200):
        for _ in range(40):
            chance.accepted()
        assert not chance.refused()
    assert any(chance.refused() for _ in range(10))


@pytest.mark.parametrize(
    "stretches",
    [
        pytest.param([(pace, 2, 2 / 35.0) for pace in PACES], id="a third and more are refused"),
        pytest.param([(pace, 40, 1.0) for pace in PACES], id="a limit gives the same a second, however far passed"),
        pytest.param([(pace, 15 + 8 * nth, (15 + 8 * nth) / pace) for nth, pace in enumerate(PACES)], id="ever rarer"),
        pytest.param([(99.0 - nth / 10, 40, 0.4) for nth in range(2 * RUN)], id="the pace stays"),
    ],
)
def test_what_a_limit_does_is_no_chance(stretches: list[tuple[float, int, float]]) -> None:
    assert set(fall(Chance(), stretches)) == {None}


def test_what_is_not_seen_any_more_is_forgotten() -> None:
    chance = Chance()
    back = fall(chance, IN_VAIN)
    chance = Chance()
    fall(chance, IN_VAIN[: back.index(100.0) + 1])
    for _ in range(int(41 * FORGOTTEN) + 1):
        chance.accepted()
    assert chance.refused()


@given(events=st.lists(st.sampled_from(["accepted", "refused", "learned", "limit"]), max_size=300), paces=st.randoms())
def test_only_a_pace_that_there_was_is_given_back(events: list[str], paces: random.Random) -> None:
    chance, now, seen = Chance(), 0.0, []
    for event in events:
        now += paces.random()
        if event == "accepted":
            chance.accepted()
        elif event == "refused":
            chance.refused()
        else:
            seen.append(100.0 * paces.random())
            back = chance.learned(now, seen[-1], is_limit=event == "limit")
            assert back is None or back in seen
