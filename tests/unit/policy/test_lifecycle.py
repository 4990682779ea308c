"""The table of the lifecycle: what is in it, what is not, and what follows from it."""

from __future__ import annotations

import itertools

import pytest

from ingest.policy.lifecycle import OUTCOMES, TABLE, Event, IllegalTransition, State, advance

OPEN = frozenset(State) - OUTCOMES
PAIRS = list(itertools.product(State, Event))
AGAIN = frozenset({Event.RETRY, Event.LOOK_AGAIN, Event.MISS})
MOVES = {pair: after for pair, after in TABLE.items() if pair[0] is not after}


def reachable(start: State, *, without: frozenset[Event] = frozenset()) -> set[State]:
    seen, todo = {start}, [start]
    while todo:
        state = todo.pop()
        for (before, event), after in TABLE.items():
            if before is state and event not in without and after not in seen:
                seen.add(after)
                todo.append(after)
    return seen


def into(*states: State) -> set[tuple[State, Event]]:
    return {pair for pair, after in MOVES.items() if after in states}


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_a_pair_is_in_the_table_or_raises_with_the_history(state: State, event: Event) -> None:
    if (state, event) in TABLE:
        assert advance(state, event) is TABLE[state, event]
        return
    with pytest.raises(IllegalTransition) as raised:
        advance(state, event, job=7, history=["admitted in run-1", "pending", "claimed"])
    told = str(raised.value)
    assert "job 7" in told
    assert repr(event.value) in told
    assert repr(state.value) in told
    assert "admitted in run-1 -> pending -> claimed" in told
    assert (raised.value.state, raised.value.event) == (state, event)


def test_an_illegal_pair_without_a_history_says_so() -> None:
    with pytest.raises(IllegalTransition, match="nothing recorded"):
        advance(State.ADDED, Event.ADD)


def test_outcomes_are_the_last_four() -> None:
    assert list(State)[4:] == [State.ADDED, State.DUPLICATE, State.REJECTED, State.FAILED]
    assert frozenset(list(State)[4:]) == OUTCOMES


def test_every_event_can_happen_somewhere() -> None:
    assert {event for _, event in TABLE} == set(Event)


def test_every_state_is_reached_from_pending() -> None:
    assert reachable(State.PENDING) == set(State)


@pytest.mark.parametrize("state", sorted(OPEN))
def test_every_open_state_leads_to_an_outcome(state: State) -> None:
    assert reachable(state, without=AGAIN) & OUTCOMES


@pytest.mark.parametrize("state", sorted(OUTCOMES))
def test_an_outcome_is_left_only_by_trying_again(state: State) -> None:
    assert {event for before, event in MOVES if before is state} <= AGAIN


@pytest.mark.parametrize("state", [State.ADDED, State.DUPLICATE])
def test_what_is_in_its_pack_stays_settled(state: State) -> None:
    # … unless a look at the pack says otherwise.
    assert reachable(state, without=frozenset({Event.MISS, Event.LOOK_AGAIN})) == {state}


def test_what_its_pack_has_no_more_starts_at_the_lookup() -> None:
    assert {pair: after for pair, after in TABLE.items() if pair[1] is Event.MISS} == {
        (State.ADDED, Event.MISS): State.PARKED
    }


def test_a_parked_job_is_settled_by_a_lookup_alone() -> None:
    outcomes = {event: after for (before, event), after in MOVES.items() if before is State.PARKED}
    assert outcomes == {
        Event.FIND: State.ADDED,
        Event.RESEND: State.STORED,
        Event.REJECT: State.REJECTED,
        Event.FAIL: State.FAILED,
        Event.MATCH: State.DUPLICATE,
    }


def test_an_add_that_may_have_been_sent_never_fails_directly() -> None:
    assert into(State.FAILED) == {
        (State.CLAIMED, Event.FAIL),
        (State.CLAIMED, Event.QUARANTINE),
        (State.PARKED, Event.FAIL),
    }


def test_added_is_an_answers_or_a_lookups_word() -> None:
    assert into(State.ADDED) == {(State.STORED, Event.ADD), (State.PARKED, Event.FIND)}


def test_an_add_is_sent_only_by_who_stored_or_resent() -> None:
    assert into(State.STORED) == {(State.CLAIMED, Event.STORE), (State.PARKED, Event.RESEND)}


def test_a_parked_job_never_goes_back_to_the_file() -> None:
    without = frozenset({Event.RELEASE, Event.RETRY})
    assert not reachable(State.PARKED, without=without) & {State.PENDING, State.CLAIMED}
    assert (State.PARKED, Event.RELEASE) not in TABLE


def test_a_death_loses_no_add() -> None:
    assert {pair: after for pair, after in TABLE.items() if pair[1] is Event.DIE} == {
        (State.CLAIMED, Event.DIE): State.PENDING,
        (State.STORED, Event.DIE): State.PARKED,
    }


def test_an_audit_is_not_closed_while_an_add_may_be_on_its_way() -> None:
    assert (State.STORED, Event.AUDIT) not in TABLE
    noted = {Event.AUDIT, Event.CONDEMN, Event.DOUBT, Event.SPEND, Event.TEST}
    assert all(TABLE[pair] is pair[0] for pair in TABLE if pair[1] in noted)


def test_copies_are_condemned_wherever_an_audit_closes() -> None:
    condemned, closed = (
        {state for state, event in TABLE if event is wanted} for wanted in (Event.CONDEMN, Event.AUDIT)
    )
    assert condemned == closed == {State.PARKED, *OUTCOMES}


def test_an_audit_that_is_opened_can_be_closed() -> None:
    assert {(state, Event.AUDIT) for state, event in TABLE if event is Event.DOUBT} <= set(TABLE)
