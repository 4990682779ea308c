"""One job beside its pack: what differs, and what the journal is told of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.api.messages import ImageRef
from ingest.journal import rules
from ingest.journal.changes import Doubted, Missed, Sighted
from ingest.journal.records import Record
from ingest.model import JobId, Locator, PackId, RunId
from ingest.operations.differences import COMPARED, Difference, What, differences, is_owing, mend
from ingest.operations.holdings import Holding, Holdings, Names
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


def held_of(records: list[Record], held: dict[str, int], *images: tuple[str, str]) -> list[Holding]:
    """What each of them has of a pack with so many images under each url, and these, by id and url."""
    names = Names()
    for record in records:
        names.note(record)
    wanted = names.close()
    urls = [url for url, count in held.items() for _ in range(count)]
    every = [*images, *((f"image {number}", url) for number, url in enumerate(urls))]
    holdings = Holdings(names, [ImageRef(image_id=image_id, url=url) for image_id, url in every if url in wanted])
    return [holdings.of(record) for record in records]


def told(record: Record, held: dict[str, int], *images: tuple[str, str]) -> list[tuple[str, int]]:
    (holding,) = held_of([record], held, *images)
    return [(difference.what.value, difference.copies) for difference in differences(record, holding)]


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


@pytest.mark.parametrize("state", COMPARED)
def test_a_copy_that_was_deleted_and_is_there_is_no_image_of_the_job_and_to_go(state: State) -> None:
    record = job(state, adds_sent=2, condemned=("gone",), audit_is_open=state is State.STORED)
    is_added, is_stray = state is State.ADDED, state is not State.ADDED
    assert told(record, {}, ("gone", OURS)) == [("missing", 1)] * is_added + [("doubled", 1)]
    assert told(record, {OURS: 1}, ("gone", OURS)) == [("stray", 2)] * is_stray + [("doubled", 2)]
    assert told(record, {OURS: 1}, ("another's", OURS))[-1] == ("doubled", 2)
    assert told(record, {OURS: 1}) == [("stray", 1)] * is_stray


def test_an_image_that_is_listed_twice_is_one() -> None:
    assert told(job(adds_sent=2), {}, ("one", OURS), ("one", OURS)) == []


def test_an_image_counts_for_one_job_only() -> None:
    other = "https://cdn.test/other.jpg"
    first, second = job(answered_url=other), job(job_id=JobId(2), url=other)
    third, fourth = (job(job_id=JobId(n), url=f"https://cdn.test/{n}.jpg", answered_url=FOREIGN) for n in (3, 4))
    jobs = [first, second, third, fourth]

    def copies(held: dict[str, int]) -> list[int]:
        return [holding.copies for holding in held_of(jobs, held)]

    assert copies({other: 1, FOREIGN: 1}) == [0, 1, 1, 0]
    assert copies({other: 2, FOREIGN: 2}) == [0, 2, 1, 1]
    assert copies({FOREIGN: 1, third.url or "": 1}) == [0, 0, 1, 1]  # what has its own needs no other
    # An answer with another job's image under that one's own name, in whatever order they come.
    liar, owner = job(url="https://cdn.test/liar.jpg", answered_url=SERVERS), job(job_id=JobId(2), answered_url=SERVERS)
    assert [holding.copies for holding in held_of([liar, owner], {SERVERS: 1})] == [0, 1]


NAMES = [f"https://cdn.test/{letter}.jpg" for letter in "abcd"]


@given(
    st.lists(st.none() | st.sampled_from([*NAMES, FOREIGN]), max_size=4), st.lists(st.sampled_from([*NAMES, FOREIGN]))
)
def test_no_more_images_are_counted_than_the_pack_holds(answers: list[str | None], urls: list[str]) -> None:
    jobs = [
        job(job_id=JobId(n), url=url, answered_url=answer if answer != url else None)
        for n, (url, answer) in enumerate(zip(NAMES, answers, strict=False))
    ]
    holdings = held_of(jobs, {url: urls.count(url) for url in urls})
    assert sum(holding.copies for holding in holdings) <= len(urls)
    for record, holding in zip(jobs, holdings, strict=True):
        assert holding.copies >= urls.count(record.url or "")
        assert bool(differences(record, holding)) == (holding.copies != 1)


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


@pytest.mark.parametrize("audit_is_open", [False, True])
def test_a_copy_that_was_deleted_and_is_there_is_deleted_again(audit_is_open: bool) -> None:
    record = job(adds_sent=2, condemned=("image-1",), audit_is_open=audit_is_open)
    difference = Difference(what=What.DOUBLED, record=record, copies=2, condemned=1)
    assert mend(difference) == (None if audit_is_open else Doubted(job_id=JobId(1)))


@pytest.mark.parametrize("state", COMPARED)
@pytest.mark.parametrize("copies", [0, 1, 2, 9])
@pytest.mark.parametrize(("adds_sent", "condemned"), [(1, 0), (2, 0), (2, 1), (5, 0), (5, 1), (5, 4)])
def test_whatever_is_told_can_happen_and_leaves_a_debt(
    state: State, copies: int, adds_sent: int, condemned: int
) -> None:
    # What is stored was sent once, or owes the audit that a second add opens.
    record = job(
        state,
        adds_sent=adds_sent,
        condemned=tuple(f"image-{number}" for number in range(condemned)),
        audit_is_open=state is State.STORED and adds_sent > 1,
    )
    held = Holding(copies=copies, condemned=condemned)
    for change in [change for difference in differences(record, held) if (change := mend(difference)) is not None]:
        record = rules.apply(record, change, now=2.0, run_id=RunId("run-2"))
        assert is_owing(record)


@pytest.mark.parametrize(
    ("copies", "adds_sent", "condemned", "expected"),
    [(0, 1, 0, 0), (1, 5, 0, 0), (2, 1, 0, 0), (2, 2, 0, 1), (9, 3, 0, 2), (9, 3, 1, 1), (9, 3, 2, 0), (2, 2, 5, 0)],
)
def test_how_many_copies_may_go(copies: int, adds_sent: int, condemned: int, expected: int) -> None:
    assert surplus(copies, adds_sent=adds_sent, condemned=condemned) == expected


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        ("https://other.test/abc123.jpg?v=1", True),
        ("https://other.test/x/abc123.jpg", True),
        ("https://other.test/xabc123.jpg", False),
        ("https://other.test/abc123.jpgs", False),
        ("https://other.test/zzz999.jpg", False),
    ],
)
def test_a_name_of_the_servers_is_the_jobs_own_where_it_holds_the_minted_one(answered: str, *, expected: bool) -> None:
    assert is_copy(answered, minted="https://cdn.test/abc123.jpg", answered=answered) is expected


@pytest.mark.parametrize("minted", ["https://cdn.test/1.jpg", "https://cdn.test/a/"])
def test_a_name_that_says_nothing_is_nobodys_own(minted: str) -> None:
    answered = "https://cdn.test/b/1.jpg"
    assert not is_copy(answered, minted=minted, answered=answered)


def test_a_job_without_a_url_has_no_copies() -> None:
    assert not is_copy(OURS, minted=None, answered=OURS)


# URLs that callers named.

NAMED, TOLD = "https://pics.test/a.jpg", "https://pics.test/A.jpg"


def link(number: int, state: State = State.ADDED, **fields: object) -> Record:
    named = {"locator": Locator(NAMED), "url": None, "fingerprint": b"u" * 32, "key": f"id:{number}"}
    return job(state, job_id=JobId(number), **{**named, **fields})


def copies(records: list[Record], held: dict[str, int]) -> list[int]:
    return [holding.copies for holding in held_of(records, held)]


@pytest.mark.parametrize(
    ("states", "count", "expected"),
    [
        ([State.ADDED], 0, [0]),
        ([State.ADDED], 1, [1]),
        ([State.ADDED], 3, [3]),
        ([State.ADDED, State.ADDED], 1, [1, 0]),
        ([State.ADDED, State.ADDED], 2, [1, 1]),
        ([State.ADDED, State.ADDED], 4, [3, 1]),
        ([State.ADDED, State.DUPLICATE], 1, [1, 0]),
        ([State.ADDED, State.FAILED], 1, [1, 0]),
        ([State.ADDED, State.PARKED], 1, [1, 0]),
        ([State.ADDED, State.PARKED], 2, [1, 1]),
        ([State.FAILED], 1, [1]),
        ([State.FAILED, State.PARKED], 1, [0, 1]),
        ([State.FAILED, State.PARKED], 2, [1, 1]),
        ([State.REJECTED, State.FAILED], 1, [1, 0]),
    ],
)
def test_of_copies_of_a_url_each_job_that_is_due_one_has_one(
    states: list[State], count: int, expected: list[int]
) -> None:
    jobs = [link(number, state) for number, state in enumerate(states, start=1)]
    assert copies(jobs, {NAMED: count}) == expected


def test_a_url_counts_under_the_name_that_the_server_gave_it() -> None:
    assert copies([link(1, answered_url=TOLD)], {TOLD: 1}) == [1]
    other = link(2, answered_url=TOLD, locator=Locator("https://pics.test/b.jpg"))
    assert copies([link(1, answered_url=TOLD), other], {TOLD: 2}) == [1, 1]
    assert copies([link(1, answered_url=TOLD), other], {TOLD: 1}) == [1, 0]


@pytest.mark.parametrize(
    ("record", "what", "change"),
    [
        (link(1), What.MISSING, Missed(job_id=JobId(1))),
        (link(1, fingerprint=None), What.MISSING, Missed(job_id=JobId(1))),
        (link(1), What.DOUBLED, None),
        (link(1, adds_sent=2), What.DOUBLED, None),  # nobody's to delete
        (link(1, State.FAILED), What.STRAY, Sighted(job_id=JobId(1))),
        (link(1, State.FAILED, fingerprint=None), What.STRAY, None),  # no lookup tells whose it is
        (link(1, State.PARKED), What.STRAY, None),
    ],
)
def test_how_a_url_is_mended(record: Record, what: What, change: object) -> None:
    assert mend(Difference(what=what, record=record, copies=2)) == change
