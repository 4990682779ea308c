"""A file is taken after two equal looks, so far apart, and never sooner."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.model import FileStamp, Occasion
from ingest.policy.retry import LONGEST_RESPITE_S, SHORTEST_RESPITE_S, respite_s
from ingest.policy.settling import EMPTY_LOOKS, Settling

FIRST, CHANGED, AGAIN = Occasion


def stamp(number: int, size_bytes: int = 5) -> FileStamp:
    return FileStamp(size_bytes=size_bytes, mtime_ns=number)


def settling(capacity: int = 100) -> Settling:
    return Settling(quiet_s=2.0, capacity=capacity)


def judged(it: Settling, path: str, seen: FileStamp | None, now: float) -> Occasion | None:
    return it.judge(path, seen, began_at=now, ended_at=now)


def test_what_is_unchanged_is_due_after_the_quiet_time_and_taken_once() -> None:
    it = settling()
    it.see("a", stamp(1), 10.0, FIRST)
    assert it.next_due == 12.0
    assert it.due(11.9, 9) == []
    assert it.due(12.0, 9) == ["a"]
    assert judged(it, "a", stamp(1), 12.0) is FIRST
    assert it.next_due == math.inf
    assert judged(it, "a", stamp(1), 12.0) is None


def test_what_changed_waits_anew_and_behind_the_others() -> None:
    it = settling()
    it.see("a", stamp(1), 0.0, FIRST)
    it.see("b", stamp(1), 1.0, FIRST)
    it.see("a", stamp(2), 1.5, CHANGED)
    assert it.due(3.4, 9) == ["b"]
    assert judged(it, "b", stamp(2), 3.4) is None
    assert it.due(5.0, 9) == ["a"]
    assert it.due(9.0, 9) == ["a", "b"]
    assert it.due(9.0, 1) == ["a"]


def test_an_unchanged_look_in_between_makes_nobody_wait_longer() -> None:
    it = settling()
    it.see("a", stamp(1), 0.0, FIRST)
    it.see("a", stamp(1), 1.9, CHANGED)
    assert it.due(2.0, 9) == ["a"]


def test_a_change_that_another_look_met_meanwhile_counts() -> None:
    """Due at 2; the file changes, somebody else meets that, and only then comes the look that was begun at 2."""
    it = settling()
    it.see("a", stamp(1), 0.0, FIRST)
    assert it.due(2.0, 9) == ["a"]
    it.see("a", stamp(2), 2.1, CHANGED)
    assert it.judge("a", stamp(2), began_at=2.0, ended_at=2.2) is None
    assert it.due(4.0, 9) == []
    assert judged(it, "a", stamp(2), 4.1) is FIRST


def test_a_slow_look_that_met_a_change_counts_from_its_end() -> None:
    it = settling()
    it.see("a", stamp(1), 0.0, FIRST)
    assert it.judge("a", stamp(2), began_at=2.0, ended_at=5.0) is None
    assert it.next_due == 7.0


def test_what_is_gone_is_forgotten() -> None:
    it = settling()
    it.see("a", stamp(1), 0.0, FIRST)
    assert judged(it, "a", None, 2.0) is None
    assert it.next_due == math.inf


def test_an_empty_file_waits_ten_times_as_long() -> None:
    it = settling()
    it.see("a", stamp(1, 0), 0.0, FIRST)
    for look in range(1, EMPTY_LOOKS):
        assert judged(it, "a", stamp(1, 0), 2.0 * look) is None
    assert judged(it, "a", stamp(1, 0), 2.0 * EMPTY_LOOKS) is FIRST
    it.see("b", stamp(1, 0), 100.0, FIRST)
    assert judged(it, "b", stamp(2), 102.0) is None
    assert judged(it, "b", stamp(2), 104.0) is FIRST


@pytest.mark.parametrize(("one", "other", "counts"), [(FIRST, AGAIN, FIRST), (AGAIN, CHANGED, CHANGED)])
def test_of_several_occasions_the_lowest_counts(one: Occasion, other: Occasion, counts: Occasion) -> None:
    for order in ((one, other), (other, one)):
        it = settling()
        for number, occasion in enumerate(order):
            it.see("a", stamp(number), float(number), occasion)
        assert judged(it, "a", stamp(1), 3.0) is counts


def test_it_is_full_at_its_capacity() -> None:
    it = settling(capacity=2)
    it.see("a", stamp(1), 0.0, FIRST)
    assert not it.is_full
    it.see("b", stamp(1), 0.0, FIRST)
    assert it.is_full
    assert judged(it, "a", stamp(1), 2.0) is FIRST
    assert not it.is_full


@dataclass
class File:
    """What really is: its stamp, and since when it has that."""

    number: int = 0
    since: float = 0.0
    looks: list[tuple[float, int]] = field(default_factory=list)


@given(st.lists(st.tuples(st.floats(0.1, 3.0), st.sampled_from(["write", "see", "judge"])), max_size=60))
def test_whatever_is_taken_was_found_equal_twice_so_far_apart(steps: list[tuple[float, str]]) -> None:
    it, file, now = settling(), File(), 0.0
    for passed_s, step in steps:
        now += passed_s
        if step == "write":
            file.number += 1
        elif step == "see":
            it.see("a", stamp(file.number), now, AGAIN)
            file.looks.append((now, file.number))
        elif it.due(now, 1):
            taken = judged(it, "a", stamp(file.number), now)
            first = next(at for at, number in file.looks if number == file.number) if taken else now
            assert taken is None or now - first >= 2.0
            file.looks.append((now, file.number))


def test_a_respite_is_as_long_as_it_took_to_fail_within_bounds() -> None:
    assert respite_s(0.0) == SHORTEST_RESPITE_S
    assert respite_s(300.0) == 300.0
    assert respite_s(1e9) == LONGEST_RESPITE_S
