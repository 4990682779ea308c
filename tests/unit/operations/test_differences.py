"""One job beside its pack: what differs, and what the journal is told of it."""

from __future__ import annotations

import pytest

from ingest.journal import rules
from ingest.journal.changes import Doubted, Missed, Sighted
from ingest.journal.records import Record
from ingest.model import JobId, Locator, PackId, RunId
from ingest.operations.differences import COMPARED, Difference, What, differences, is_owing, mend
from ingest.policy.copies import is_copy, surplus
from ingest.policy.lifecycle import State

OURS, SERVERS, FOREIGN = "https://cdn.test/abc.jpg", "https://cdn.test/x/abc.jpg?v=1", "https://cdn.test/shared.jpg"


def job(state: State = State.ADDED, **fields: object) -> Record:
    return Record(
        **{
            "job_id": JobId(1),
            "pack_id": PackId("pack-1"),
            "key": "/a.jpg",
            "revision": 1,
            "locator": Locator("/a.jpg"),
            "file_name": "a.jpg",
            "state": state,
            "admitted_at": 1.0,
            "run_id": RunId("run-1"),
            "url": OURS,
            "adds_sent": 1,
            **fields,
        }
    )


def told(record: Record, held: dict[str, int]) -> list[tuple[str, int]]:
    return [(difference.what.value, difference.copies) for difference in differences(record, held)]


@pytest.mark.parametrize(
    ("state", "held", "expected"),
    [
        (State.ADDED, {OURS: 1}, []),
        (State.ADDED, {}, [("missing", 0)]),
        (State.ADDED, {"https://cdn.test/other.jpg": 3}, [("missing", 0)]),
        (State.ADDED, {OURS: 2}, [("doubled", 2)]),
        (State.STORED, {}, []),
        (State.PARKED, {}, []),
        (State.FAILED, {}, []),
        (State.REJECTED, {}, []),
        (State.STORED, {OURS: 1}, [("stray", 1)]),
        (State.PARKED, {OURS: 1}, [("stray", 1)]),
        (State.FAILED, {OURS: 1}, [("stray", 1)]),
        (State.REJECTED, {OURS: 3}, [("stray", 3), ("doubled", 3)]),
    ],
)
def test_what_differs(state: State, held: dict[str, int], expected: list[tuple[str, int]]) -> None:
    assert told(job(state), held) == expected


@pytest.mark.parametrize(
    ("answered", "held", "expected"),
    [
        (SERVERS, {SERVERS: 1}, []),
        (SERVERS, {OURS: 1, SERVERS: 1}, [("doubled", 2)]),
        (SERVERS, {SERVERS: 2}, [("doubled", 2)]),
        # Under a name that does not hold ours, an image may be another job's as well: it is there, and no copy.
        (FOREIGN, {FOREIGN: 1}, []),
        (FOREIGN, {FOREIGN: 5}, []),
        (FOREIGN, {FOREIGN: 1, OURS: 1}, []),
        (FOREIGN, {}, [("missing", 0)]),
    ],
)
def test_a_pack_may_have_it_under_the_servers_name(
    answered: str, held: dict[str, int], expected: list[tuple[str, int]]
) -> None:
    assert told(job(answered_url=answered), held) == expected


@pytest.mark.parametrize(
    ("what", "record", "expected"),
    [
        (What.MISSING, job(), Missed(job_id=JobId(1))),
        (What.STRAY, job(State.FAILED), Sighted(job_id=JobId(1))),
        (What.STRAY, job(State.REJECTED), Sighted(job_id=JobId(1))),
        (What.STRAY, job(State.DUPLICATE), Sighted(job_id=JobId(1))),
        (What.STRAY, job(State.PARKED), None),  # a debt already: every run looks
        (What.STRAY, job(State.STORED), None),
        (What.DOUBLED, job(adds_sent=2), Doubted(job_id=JobId(1))),
        (What.DOUBLED, job(adds_sent=1), None),  # somebody else added the second one
        (What.DOUBLED, job(adds_sent=2, audit_is_open=True), None),  # a debt already
        (What.DOUBLED, job(adds_sent=2, condemned=("image-1",)), None),  # both adds are accounted for
        (What.DOUBLED, job(adds_sent=3, condemned=("image-1",)), Doubted(job_id=JobId(1))),
    ],
)
def test_what_the_journal_is_told(what: What, record: Record, expected: object) -> None:
    assert mend(Difference(what=what, record=record, copies=0 if what is What.MISSING else 2)) == expected


@pytest.mark.parametrize("state", COMPARED)
@pytest.mark.parametrize("held", [{}, {OURS: 1}, {OURS: 2}, {OURS: 9}])
@pytest.mark.parametrize("adds_sent", [1, 2, 5])
@pytest.mark.parametrize("condemned", [(), ("image-1",)])
def test_whatever_is_told_can_happen_and_leaves_a_debt(
    state: State, held: dict[str, int], adds_sent: int, condemned: tuple[str, ...]
) -> None:
    # What is stored was sent once, or owes the audit that a second add opens.
    record = job(
        state,
        adds_sent=adds_sent,
        condemned=condemned,
        audit_is_open=state is State.STORED and adds_sent > 1,
    )
    for change in [change for difference in differences(record, held) if (change := mend(difference)) is not None]:
        record = rules.apply(record, change, now=2.0, run_id=RunId("run-2"))
        assert is_owing(record)


@pytest.mark.parametrize(
    ("copies", "adds_sent", "condemned", "expected"),
    [(0, 1, 0, 0), (1, 5, 0, 0), (2, 1, 0, 0), (2, 2, 0, 1), (9, 3, 0, 2), (9, 3, 1, 1), (9, 3, 2, 0), (2, 2, 5, 0)],
)
def test_how_many_copies_may_go(copies: int, adds_sent: int, condemned: int, expected: int) -> None:
    assert surplus(copies, adds_sent=adds_sent, condemned=condemned) == expected


def test_a_job_without_a_url_has_no_copies() -> None:
    assert not is_copy(OURS, minted=None, answered=OURS)
