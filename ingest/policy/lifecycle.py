"""The life of a job: one table `(state, event) -> state`, and nothing beside it.

    PENDING --claim--> CLAIMED --store--> STORED --add--> ADDED
       ^                  |                 |  ^
       +-----release------+      park, die  |  | resend (a settled lookup found nothing)
       +-----die----------+                 v  |
       +-----release (never sent)---------  PARKED --find--> ADDED
                                               ^               |
                                               +-----miss------+

What is durable says what may have happened: in STORED an add may have been sent, so a process that dies there leaves a
job that is looked up first; an uncertain job can't become `failed`, `rejected` or `duplicate` but from PARKED, by a
settled lookup.
Deciding *which* event happened is the caller's.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OUTCOMES", "TABLE", "Event", "IllegalTransition", "State", "advance"]


class State(enum.StrEnum):
    """Where a job stands in the journal; the last four are outcomes."""

    PENDING = "pending"
    CLAIMED = "claimed"
    STORED = "stored"
    PARKED = "parked"
    ADDED = "added"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    FAILED = "failed"


OUTCOMES: Final = frozenset({State.ADDED, State.DUPLICATE, State.REJECTED, State.FAILED})


class Event(enum.StrEnum):
    """What can happen to a job; the verbs of DESIGN §3."""

    CLAIM = "claim"  # a run takes it
    RELEASE = "release"  # a run puts it back: no add was sent
    DIE = "die"  # the process that had it died
    QUARANTINE = "quarantine"  # it died while it ran alone
    MATCH = "match"  # its pack holds this image already
    STORE = "store"  # its bytes are on the CDN and the url is here; the add may be sent
    ADD = "add"  # the add was answered with success
    PARK = "park"  # an add was sent and its effect is unknown
    FIND = "find"  # a lookup found it in its pack
    RESEND = "resend"  # a settled lookup did not: the next add is counted and an audit is due
    REJECT = "reject"  # it can never work
    FAIL = "fail"  # its attempts are used up
    RETRY = "retry"  # a later run or a person tries again what never reached an add
    LOOK_AGAIN = "look_again"  # the same for what has a url: it starts at the lookup
    TEST = "test"  # it is about to run alone
    EXCUSE = "excuse"  # it runs alone no more
    SPEND = "spend"  # an answer about it was no success
    AUDIT = "audit"  # its pack was read after its last add could have landed
    MISS = "miss"  # a settled read of its pack has it no more: it starts at the lookup
    CONDEMN = "condemn"  # surplus copies of it are about to be deleted
    DOUBT = "doubt"  # its pack holds more copies of it than one: an audit is due again


TABLE: Final[dict[tuple[State, Event], State]] = {
    (State.PENDING, Event.CLAIM): State.CLAIMED,
    (State.CLAIMED, Event.RELEASE): State.PENDING,
    (State.CLAIMED, Event.DIE): State.PENDING,
    (State.CLAIMED, Event.QUARANTINE): State.FAILED,
    (State.CLAIMED, Event.MATCH): State.DUPLICATE,
    (State.CLAIMED, Event.REJECT): State.REJECTED,
    (State.CLAIMED, Event.FAIL): State.FAILED,
    (State.CLAIMED, Event.STORE): State.STORED,
    (State.STORED, Event.ADD): State.ADDED,
    (State.STORED, Event.PARK): State.PARKED,
    (State.STORED, Event.DIE): State.PARKED,
    (State.STORED, Event.RELEASE): State.PENDING,
    (State.STORED, Event.REJECT): State.REJECTED,
    (State.PARKED, Event.FIND): State.ADDED,
    (State.PARKED, Event.RESEND): State.STORED,
    (State.PARKED, Event.REJECT): State.REJECTED,
    (State.PARKED, Event.FAIL): State.FAILED,
    (State.PARKED, Event.MATCH): State.DUPLICATE,
    (State.FAILED, Event.RETRY): State.PENDING,
    (State.FAILED, Event.LOOK_AGAIN): State.PARKED,
    (State.REJECTED, Event.RETRY): State.PENDING,
    (State.REJECTED, Event.LOOK_AGAIN): State.PARKED,
    (State.DUPLICATE, Event.LOOK_AGAIN): State.PARKED,
    (State.ADDED, Event.MISS): State.PARKED,
    # What is noted without a move. An audit can't close in STORED: the add that it must outlast may be on its way.
    (State.CLAIMED, Event.TEST): State.CLAIMED,
    (State.CLAIMED, Event.EXCUSE): State.CLAIMED,
    (State.CLAIMED, Event.SPEND): State.CLAIMED,
    (State.STORED, Event.SPEND): State.STORED,
    (State.PARKED, Event.SPEND): State.PARKED,
    (State.PARKED, Event.AUDIT): State.PARKED,
    (State.ADDED, Event.AUDIT): State.ADDED,
    (State.DUPLICATE, Event.AUDIT): State.DUPLICATE,
    (State.REJECTED, Event.AUDIT): State.REJECTED,
    (State.FAILED, Event.AUDIT): State.FAILED,
    (State.PARKED, Event.CONDEMN): State.PARKED,
    (State.ADDED, Event.CONDEMN): State.ADDED,
    (State.DUPLICATE, Event.CONDEMN): State.DUPLICATE,
    (State.REJECTED, Event.CONDEMN): State.REJECTED,
    (State.FAILED, Event.CONDEMN): State.FAILED,
    (State.PARKED, Event.DOUBT): State.PARKED,
    (State.ADDED, Event.DOUBT): State.ADDED,
}


class IllegalTransition(Exception):
    """A pair that the table does not have: a bug, told with the job's history."""

    def __init__(self, state: State, event: Event, *, job: object, history: Sequence[str]) -> None:
        told = " -> ".join(history) or "nothing recorded"
        super().__init__(f"job {job}: {event.value!r} can't happen in {state.value!r} (history: {told})")
        self.state = state
        self.event = event


def advance(state: State, event: Event, *, job: object = "?", history: Sequence[str] = ()) -> State:
    """The state after `event`; an illegal pair raises `IllegalTransition` with the job's history."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalTransition(state, event, job=job, history=history) from None
