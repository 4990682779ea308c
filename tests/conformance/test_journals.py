"""What every `Journal` does, whatever it keeps its records in.

A store joins by a factory in `STORES`: how it is opened, and what it is to the next process after this one has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import TYPE_CHECKING, Protocol

import pytest
from msgspec.structs import replace

from ingest.journal import changes
from ingest.journal.changes import (
    AuditClosed,
    Condemned,
    Doubted,
    Missed,
    Parked,
    Released,
    Resent,
    Settled,
    Sighted,
    Spent,
    Stored,
)
from ingest.journal.memory import MemoryJournal
from ingest.journal.records import QUARANTINED, Candidate, Claimed, Inspection, Joined, Known, Refusal
from ingest.journal.sqlite import SqliteJournal
from ingest.model import (
    FileStamp,
    Fingerprint,
    JobId,
    Locator,
    Occasion,
    Outcome,
    PackId,
    RunId,
    Stretch,
    Summary,
    Target,
)
from ingest.policy.lifecycle import IllegalTransition, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from ingest.journal.base import Journal
    from ingest.journal.changes import Change
    from ingest.journal.records import Admission, Opening, Record

TARGET = Target("https://api.example")
PACK, OTHER_PACK = PackId("pack-1"), PackId("pack-2")
RUN, NEXT_RUN = RunId("run-1"), RunId("run-2")
STAMP, OTHER_STAMP = FileStamp(size_bytes=10, mtime_ns=1_000), FileStamp(size_bytes=10, mtime_ns=2_000)
BYTES, OTHER_BYTES = Fingerprint(b"a" * 32), Fingerprint(b"b" * 32)


class Store(Protocol):
    """Where a journal's records are."""

    def open(self) -> AbstractAsyncContextManager[MemoryJournal | SqliteJournal]:
        """The journal, for as long as the block lasts."""
        ...

    def after_a_crash(self) -> Store:
        """The same as another process finds it if this one dies here."""
        ...


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._copies = 0

    def open(self) -> AbstractAsyncContextManager[Journal]:
        return SqliteJournal.open(self._path, TARGET)

    def after_a_crash(self) -> SqliteStore:
        self._copies += 1
        place = self._path.with_name(f"{self._path.name}-{self._copies}")
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{self._path}{suffix}", f"{place}{suffix}")
        return SqliteStore(place)


class MemoryStore:
    def __init__(self) -> None:
        self._journal = MemoryJournal()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Journal]:
        yield self._journal

    def after_a_crash(self) -> MemoryStore:
        return self


STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda directory: SqliteStore(directory / "journal.db"),
    "memory": lambda _: MemoryStore(),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path)


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Journal]:
    async with store.open() as journal:
        await begin(journal)
        yield journal


def candidate(
    name: str = "a.jpg", *, pack_id: PackId = PACK, key: str | None = None, stamp: FileStamp | None = STAMP
) -> Candidate:
    locator = Locator(f"/images/{name}")
    return Candidate(key=key or locator, pack_id=pack_id, locator=locator, file_name=name, stamp=stamp)


async def begin(journal: Journal, run_id: RunId = RUN, *, key_id: str = "key-1") -> Opening:
    return await journal.begin(run_id, key_id=key_id, pid=4711)


async def admit(journal: Journal, wanted: Candidate | None = None, *, run_id: RunId = RUN) -> Admission:
    (admission,) = await journal.admit(run_id, [wanted or candidate()])
    return admission


async def claim(journal: Journal, wanted: Candidate | None = None) -> Record:
    admission = await admit(journal, wanted)
    assert isinstance(admission, Claimed)
    return admission.record


def stored(
    record: Record, *, fingerprint: Fingerprint = BYTES, url: str | None = None, stamp: FileStamp = STAMP
) -> Stored:
    inspection = Inspection(fingerprint=fingerprint, content_type="image/png", stamp=stamp)
    return Stored(job_id=record.job_id, inspection=inspection, url=url or f"https://cdn.example/{record.job_id}")


def settled(record: Record, outcome: Outcome, *, reason: str | None = None, was_found: bool = False) -> Settled:
    return Settled(job_id=record.job_id, outcome=outcome, reason=reason, was_found=was_found)


def changes_to(record: Record, state: State) -> list[Change]:
    """What brings a claimed job to `state`."""
    parked = [stored(record), Parked(job_id=record.job_id, reason="timeout")]
    paths: dict[State, list[Change]] = {
        State.PENDING: [Released(job_id=record.job_id)],
        State.CLAIMED: [],
        State.STORED: [stored(record)],
        State.PARKED: [*parked],
        State.ADDED: [stored(record), settled(record, Outcome.ADDED)],
        State.DUPLICATE: [settled(record, Outcome.DUPLICATE)],
        State.REJECTED: [settled(record, Outcome.REJECTED, reason="not_an_image")],
        State.FAILED: [settled(record, Outcome.FAILED, reason="http_500")],
    }
    return paths[state]


async def admitted(journal: Journal, wanted: Candidate | None = None) -> Record:
    return (await admit(journal, wanted)).record


async def bring(journal: Journal, record: Record, *changes: Change) -> Record:
    for change in changes:
        record = await journal.submit(change)
    return record


async def job_in(journal: Journal, state: State, wanted: Candidate | None = None) -> Record:
    record = await claim(journal, wanted)
    record = await bring(journal, record, *changes_to(record, state))
    assert record.state is state
    return record


def summary(run_id: RunId = RUN) -> Summary:
    return Summary(
        run_id=run_id,
        **dict.fromkeys(("discovered", "added", "duplicate", "unchanged", "rejected", "failed", "pending"), 0),
        **dict.fromkeys(("bytes_uploaded", "requests", "retries", "throttled", "exit_code"), 0),
        duration_s=0.5,
        error=None,
    )


class TestAdmit:
    async def test_a_new_job_is_claimed_with_what_was_said_of_it(self, journal: Journal) -> None:
        record = await claim(journal, candidate("a.jpg"))
        assert record.job_id > 0
        assert (record.state, record.revision, record.run_id) == (State.CLAIMED, 1, RUN)
        assert (record.pack_id, record.key, record.locator) == (PACK, "/images/a.jpg", "/images/a.jpg")
        assert (record.file_name, record.stamp) == ("a.jpg", STAMP)
        assert (record.url, record.fingerprint, record.adds_sent, record.attempts, record.deaths) == (
            None,
            None,
            0,
            0,
            0,
        )

    async def test_admissions_keep_the_order_of_their_candidates(self, journal: Journal) -> None:
        names = [f"{number}.jpg" for number in range(300)]
        admissions = await journal.admit(RUN, [candidate(name) for name in names])
        assert [admission.record.file_name for admission in admissions] == names
        numbers = [admission.record.job_id for admission in admissions]
        assert numbers == sorted(set(numbers))

    async def test_nothing_to_admit(self, journal: Journal) -> None:
        assert list(await journal.admit(RUN, [])) == []

    async def test_a_job_twice_in_one_batch_is_claimed_once(self, journal: Journal) -> None:
        first, second = await journal.admit(RUN, [candidate(), candidate()])
        assert isinstance(first, Claimed)
        assert isinstance(second, Joined)
        assert first.record == second.record

    async def test_one_key_in_two_packs_is_two_jobs(self, journal: Journal) -> None:
        first = await claim(journal, candidate())
        second = await claim(journal, candidate(pack_id=OTHER_PACK))
        assert first.job_id != second.job_id

    async def test_a_callers_id_is_another_key_than_the_locator(self, journal: Journal) -> None:
        await claim(journal, candidate("a.jpg"))
        named = await claim(journal, candidate("a.jpg", key="id:/images/a.jpg"))
        assert named.key == "id:/images/a.jpg"
        assert isinstance(await admit(journal, candidate("b.jpg", key="id:/images/a.jpg")), Joined)

    @pytest.mark.parametrize(
        "name",
        [
            b"\xff\xfe.jpg".decode("utf-8", "surrogateescape"),
            "line\nbreak\r.jpg",
            "nul\0.jpg",
            "日本 é.jpg",
            "a'b\"%?.jpg",
        ],
        ids=["not UTF-8", "newline", "nul", "unicode", "quotes"],
    )
    async def test_any_name_comes_back_as_it_was(self, journal: Journal, name: str) -> None:
        record = await claim(journal, candidate(name))
        record = await bring(
            journal,
            record,
            Settled(job_id=record.job_id, outcome=Outcome.REJECTED, reason="empty", detail=f"{name} is empty"),
        )
        assert record.state is State.REJECTED
        known = await admit(journal, candidate(name))
        assert isinstance(known, Known)
        assert known.record.job_id == record.job_id
        assert (known.record.key, known.record.locator) == (f"/images/{name}", f"/images/{name}")
        assert known.record.file_name == name
        assert known.record.detail is not None

    async def test_names_that_differ_in_one_odd_byte_are_two_jobs(self, journal: Journal) -> None:
        first = await claim(journal, candidate("\udcff.jpg"))
        second = await claim(journal, candidate("\udcfe.jpg"))
        assert first.job_id != second.job_id

    @pytest.mark.parametrize("state", [State.CLAIMED, State.STORED, State.PARKED])
    async def test_a_job_in_work_is_joined(self, journal: Journal, state: State) -> None:
        record = await job_in(journal, state)
        admission = await admit(journal)
        assert isinstance(admission, Joined)
        assert admission.record == record

    async def test_a_claimed_job_whose_file_became_another_is_a_new_revision(self, journal: Journal) -> None:
        record = await job_in(journal, State.CLAIMED)
        admission = await admit(journal, candidate(stamp=OTHER_STAMP))
        assert isinstance(admission, Claimed)
        assert (admission.record.revision, admission.record.stamp) == (record.revision + 1, OTHER_STAMP)

    @pytest.mark.parametrize(
        ("state", "outcome"),
        [
            (State.ADDED, Outcome.DUPLICATE),
            (State.DUPLICATE, Outcome.DUPLICATE),
            (State.REJECTED, Outcome.REJECTED),
        ],
    )
    @pytest.mark.parametrize("stamp", [STAMP, None])
    async def test_a_settled_job_with_the_same_file_is_known(
        self, journal: Journal, state: State, outcome: Outcome, stamp: FileStamp | None
    ) -> None:
        record = await job_in(journal, state)
        admission = await admit(journal, candidate(stamp=stamp), run_id=NEXT_RUN)
        assert admission == Known(record=record, outcome=outcome)

    @pytest.mark.parametrize(
        "state", [State.STORED, State.PARKED, State.ADDED, State.DUPLICATE, State.REJECTED], ids=str
    )
    async def test_other_bytes_under_a_key_are_a_new_revision(self, journal: Journal, state: State) -> None:
        first = await job_in(journal, state)
        admission = await admit(journal, candidate(stamp=OTHER_STAMP))
        assert isinstance(admission, Claimed)
        second = admission.record
        assert second.job_id != first.job_id
        assert (second.revision, second.stamp, second.url, second.adds_sent) == (2, OTHER_STAMP, None, 0)
        # The latest revision is the one that counts from here on; the first lives on for itself.
        assert await admit(journal, candidate(stamp=OTHER_STAMP)) == Joined(record=second)

    async def test_an_older_revision_still_reaches_its_outcome(self, journal: Journal) -> None:
        first = await job_in(journal, State.PARKED)
        await claim(journal, candidate(stamp=OTHER_STAMP))
        found = await journal.submit(settled(first, Outcome.ADDED, was_found=True))
        assert (found.state, found.revision) == (State.ADDED, 1)

    async def test_a_job_that_was_put_back_is_claimed_again(self, journal: Journal) -> None:
        record = await job_in(journal, State.PENDING)
        again = await admit(journal, run_id=NEXT_RUN)
        assert isinstance(again, Claimed)
        assert again.record == replace(record, state=State.CLAIMED, run_id=NEXT_RUN)

    async def test_a_job_that_was_put_back_keeps_its_attempts(self, journal: Journal) -> None:
        record = await claim(journal)
        spent = Spent(job_id=record.job_id, attempts=3, reason="http_500")
        await bring(journal, record, spent, Released(job_id=record.job_id))
        assert (await claim(journal)).attempts == 3

    async def test_a_pending_job_whose_file_changed_forgets_what_was_read(self, journal: Journal) -> None:
        record = await job_in(journal, State.STORED)
        await journal.submit(Released(job_id=record.job_id))
        again = await claim(journal, candidate(stamp=OTHER_STAMP))
        assert again.job_id == record.job_id
        assert (again.url, again.fingerprint, again.content_type, again.stamp) == (None, None, None, OTHER_STAMP)

    async def test_a_pending_job_with_the_same_file_keeps_what_was_stored(self, journal: Journal) -> None:
        record = await job_in(journal, State.STORED)
        await journal.submit(Released(job_id=record.job_id))
        again = await claim(journal)
        assert (again.url, again.fingerprint, again.adds_sent) == (record.url, BYTES, 0)

    @pytest.mark.parametrize("state", [State.PENDING, State.FAILED])
    async def test_a_callers_id_that_has_moved_is_read_at_its_new_place(self, journal: Journal, state: State) -> None:
        record = await job_in(journal, state, candidate("old.jpg", key="id:7"))
        again = await claim(journal, candidate("new.jpg", key="id:7"))
        assert (again.job_id, again.key) == (record.job_id, "id:7")
        assert (again.locator, again.file_name) == ("/images/new.jpg", "new.jpg")

    @pytest.mark.parametrize("stamp", [STAMP, OTHER_STAMP])
    async def test_a_failed_job_is_tried_again(self, journal: Journal, stamp: FileStamp) -> None:
        record = await claim(journal)
        spent = Spent(job_id=record.job_id, attempts=8, reason="http_500")
        record = await bring(journal, record, spent, settled(record, Outcome.FAILED, reason="http_500"))
        again = await claim(journal, candidate(stamp=stamp))
        assert again.job_id == record.job_id
        assert (again.state, again.attempts, again.reason, again.settled_at) == (State.CLAIMED, 0, None, None)
        assert again.stamp == stamp

    @pytest.mark.parametrize("state", [State.CLAIMED, State.PARKED])
    async def test_a_failed_job_that_is_only_met_again_is_left_alone_for_a_while(
        self, journal: Journal, state: State
    ) -> None:
        record = await job_in(journal, state)
        await journal.submit(settled(record, Outcome.FAILED, reason="http_500"))
        (met,) = await journal.admit(RUN, [replace(candidate(), occasion=Occasion.AGAIN)])
        assert isinstance(met, Known)
        assert (met.outcome, met.record.state, met.record.reason) == (Outcome.FAILED, State.FAILED, "http_500")
        (again,) = await journal.admit(RUN, [replace(candidate(), occasion=Occasion.CHANGED)])
        assert isinstance(again, Claimed if state is State.CLAIMED else Joined)

    async def test_a_failed_job_that_is_met_again_with_another_stamp_is_tried_at_once(self, journal: Journal) -> None:
        record = await claim(journal)
        await journal.submit(settled(record, Outcome.FAILED, reason="missing"))
        (again,) = await journal.admit(RUN, [replace(candidate(stamp=OTHER_STAMP), occasion=Occasion.AGAIN)])
        assert isinstance(again, Claimed)

    async def test_a_failed_job_whose_add_was_sent_starts_at_the_lookup(self, journal: Journal) -> None:
        record = await job_in(journal, State.PARKED)
        await journal.submit(settled(record, Outcome.FAILED, reason="http_500"))
        admission = await admit(journal)
        assert isinstance(admission, Joined)
        assert (admission.record.state, admission.record.url) == (State.PARKED, record.url)

    async def test_other_bytes_for_a_failed_job_whose_add_was_sent_are_a_new_revision(self, journal: Journal) -> None:
        record = await job_in(journal, State.PARKED)
        await journal.submit(settled(record, Outcome.FAILED, reason="http_500"))
        assert (await claim(journal, candidate(stamp=OTHER_STAMP))).revision == 2


class TestSubmit:
    async def test_the_way_of_a_job(self, journal: Journal) -> None:
        record = await claim(journal)
        in_store = await journal.submit(stored(record, stamp=OTHER_STAMP))
        assert (in_store.state, in_store.adds_sent, in_store.fingerprint) == (State.STORED, 1, BYTES)
        assert (in_store.content_type, in_store.stamp) == ("image/png", OTHER_STAMP)
        added = await journal.submit(
            Settled(job_id=record.job_id, outcome=Outcome.ADDED, image_id="image-1", answered_url="https://cdn/x")
        )
        assert (added.state, added.image_id, added.answered_url) == (State.ADDED, "image-1", "https://cdn/x")
        assert (added.url, added.fingerprint, added.stamp) == (in_store.url, BYTES, OTHER_STAMP)
        assert added.settled_at is not None
        assert added.settled_at >= added.admitted_at

    async def test_an_uncertain_add_is_counted_and_owes_an_audit(self, journal: Journal) -> None:
        record = await job_in(journal, State.PARKED)
        assert (record.reason, record.adds_sent, record.audit_is_open) == ("timeout", 1, False)
        again = await journal.submit(Resent(job_id=record.job_id))
        assert (again.state, again.adds_sent, again.audit_is_open) == (State.STORED, 2, True)
        added = await journal.submit(settled(record, Outcome.ADDED))
        assert added.audit_is_open
        closed = await journal.submit(AuditClosed(job_id=record.job_id))
        assert (closed.state, closed.audit_is_open, closed.adds_sent) == (State.ADDED, False, 2)

    async def test_what_an_inspection_told_is_kept_with_a_duplicate(self, journal: Journal) -> None:
        record = await claim(journal)
        seen = Inspection(fingerprint=BYTES, content_type="image/gif", stamp=OTHER_STAMP)
        done = await journal.submit(Settled(job_id=record.job_id, outcome=Outcome.DUPLICATE, inspection=seen))
        assert (done.fingerprint, done.content_type, done.stamp) == (BYTES, "image/gif", OTHER_STAMP)
        assert isinstance(await admit(journal, candidate(stamp=OTHER_STAMP)), Known)

    async def test_a_release_takes_the_unsent_add_back(self, journal: Journal) -> None:
        record = await job_in(journal, State.STORED)
        back = await journal.submit(Released(job_id=record.job_id))
        assert (back.state, back.adds_sent, back.url) == (State.PENDING, 0, record.url)

    async def test_a_job_whose_earlier_add_may_have_landed_can_not_be_released(self, journal: Journal) -> None:
        record = await job_in(journal, State.PARKED)
        await journal.submit(Resent(job_id=record.job_id))
        with pytest.raises(IllegalTransition, match="adds sent 2"):
            await journal.submit(Released(job_id=record.job_id))

    @pytest.mark.parametrize(
        ("state", "change"),
        [
            (State.PENDING, stored),
            (State.CLAIMED, lambda record: settled(record, Outcome.ADDED)),
            (State.CLAIMED, lambda record: Parked(job_id=record.job_id, reason="timeout")),
            (State.CLAIMED, lambda record: AuditClosed(job_id=record.job_id)),
            (State.STORED, lambda record: settled(record, Outcome.FAILED)),
            (State.STORED, stored),
            (State.STORED, lambda record: changes.Tested(job_id=record.job_id)),
            (State.STORED, lambda record: AuditClosed(job_id=record.job_id)),
            *(
                (state, lambda record: Condemned(job_id=record.job_id, image_ids=("image-1",)))
                for state in (State.PENDING, State.CLAIMED, State.STORED)
            ),
            (State.PARKED, lambda record: settled(record, Outcome.ADDED)),
            (State.PARKED, lambda record: Released(job_id=record.job_id)),
            (State.ADDED, lambda record: settled(record, Outcome.ADDED)),
            (State.ADDED, lambda record: Spent(job_id=record.job_id, attempts=1, reason="http_500")),
            (State.ADDED, lambda record: Resent(job_id=record.job_id)),
            (State.PARKED, lambda record: Missed(job_id=record.job_id)),
            (State.FAILED, lambda record: Missed(job_id=record.job_id)),
            (State.FAILED, lambda record: Sighted(job_id=record.job_id)),  # it has no url
            (State.ADDED, lambda record: Sighted(job_id=record.job_id)),
            (State.STORED, lambda record: Doubted(job_id=record.job_id)),
            (State.REJECTED, lambda record: Doubted(job_id=record.job_id)),
            (State.DUPLICATE, stored),
            (State.REJECTED, lambda record: Released(job_id=record.job_id)),
            (State.FAILED, lambda record: settled(record, Outcome.FAILED)),
        ],
    )
    async def test_what_can_not_happen_raises_with_the_history_and_changes_nothing(
        self, journal: Journal, state: State, change: Callable[[Record], Change]
    ) -> None:
        record = await job_in(journal, state)
        with pytest.raises(IllegalTransition) as raised:
            await journal.submit(change(record))
        assert f"job {record.job_id}" in str(raised.value)
        assert f"admitted in {RUN}" in str(raised.value)
        assert raised.value.state is state
        assert isinstance(await admit(journal, candidate("still-alive.jpg")), Claimed)

    async def test_a_job_that_is_not_there(self, journal: Journal) -> None:
        with pytest.raises(KeyError):
            await journal.submit(changes.Tested(job_id=JobId(99)))

    async def test_a_failing_change_does_not_spoil_its_neighbours(self, journal: Journal) -> None:
        records = [await claim(journal, candidate(f"{number}.jpg")) for number in range(6)]
        futures = []
        for number, record in enumerate(records):
            wrong = Parked(job_id=record.job_id, reason="timeout")
            futures.append(journal.submit(wrong if number % 2 else stored(record)))
        results = await asyncio.gather(*futures, return_exceptions=True)
        for number, result in enumerate(results):
            if number % 2:
                assert isinstance(result, IllegalTransition)
            else:
                assert not isinstance(result, BaseException)
                assert result.state is State.STORED

    async def test_changes_take_effect_in_the_order_of_the_calls(self, journal: Journal) -> None:
        record = await claim(journal)
        waits = [
            journal.submit(stored(record)),
            journal.submit(Parked(job_id=record.job_id, reason="timeout")),
            journal.submit(Resent(job_id=record.job_id)),
            journal.submit(settled(record, Outcome.ADDED)),
        ]
        admission = asyncio.ensure_future(admit(journal))
        done: list[int] = []
        for number, wait in enumerate(waits):
            wait.add_done_callback(lambda _, number=number: done.append(number))
        states = [(await wait).state for wait in waits]
        assert states == [State.STORED, State.PARKED, State.STORED, State.ADDED]
        assert isinstance(await admission, Known)
        assert done == [0, 1, 2, 3]

    async def test_a_change_lasts_though_nobody_waits_for_it(self, journal: Journal) -> None:
        record = await claim(journal)
        journal.submit(stored(record)).cancel()
        added = await journal.submit(settled(record, Outcome.ADDED))
        assert (added.state, added.adds_sent) == (State.ADDED, 1)

    async def test_a_url_belongs_to_one_job(self, journal: Journal) -> None:
        first = await claim(journal, candidate("a.jpg"))
        second = await claim(journal, candidate("b.jpg"))
        await journal.submit(stored(first, url="https://cdn.example/same"))
        with pytest.raises(ValueError, match="belongs to another job"):
            await journal.submit(stored(second, url="https://cdn.example/same"))
        again = await journal.submit(stored(second, url="https://cdn.example/another"))
        assert again.state is State.STORED

    async def test_a_job_may_store_the_same_url_again_and_another(self, journal: Journal) -> None:
        record = await claim(journal)
        for url in ("https://cdn.example/1", "https://cdn.example/1", "https://cdn.example/2"):
            assert (await journal.submit(stored(record, url=url))).url == url
            await journal.submit(Released(job_id=record.job_id))
            await claim(journal)

    async def test_two_jobs_that_forgot_their_urls(self, journal: Journal) -> None:
        for name in ("a.jpg", "b.jpg"):
            record = await job_in(journal, State.STORED, candidate(name))
            await journal.submit(Released(job_id=record.job_id))
            assert (await claim(journal, candidate(name, stamp=OTHER_STAMP))).url is None


class TestFindEqual:
    @pytest.mark.parametrize("state", [State.STORED, State.PARKED, State.ADDED])
    async def test_bytes_that_are_or_may_get_into_the_pack(self, journal: Journal, state: State) -> None:
        first = await job_in(journal, state, candidate("a.jpg"))
        second = await claim(journal, candidate("b.jpg"))
        assert await journal.find_equal(second, BYTES) == first

    @pytest.mark.parametrize("state", [State.PENDING, State.DUPLICATE, State.REJECTED, State.FAILED])
    async def test_bytes_that_are_not_in_the_pack(self, journal: Journal, state: State) -> None:
        first = await claim(journal, candidate("a.jpg"))
        if state in {State.PENDING, State.REJECTED}:
            await journal.submit(stored(first))
        elif state is State.FAILED:
            await bring(journal, first, stored(first), Parked(job_id=first.job_id, reason="timeout"))
        await bring(journal, first, *changes_to(first, state))
        second = await claim(journal, candidate("b.jpg"))
        assert await journal.find_equal(second, BYTES) is None

    async def test_it_is_another_job_in_the_same_pack_with_the_same_bytes(self, journal: Journal) -> None:
        record = await job_in(journal, State.ADDED, candidate("a.jpg"))
        elsewhere = await claim(journal, candidate("a.jpg", pack_id=OTHER_PACK))
        assert await journal.find_equal(record, BYTES) is None
        assert await journal.find_equal(elsewhere, BYTES) is None
        assert await journal.find_equal(await claim(journal, candidate("b.jpg")), OTHER_BYTES) is None

    async def test_one_that_was_added_goes_before_older_open_ones(self, journal: Journal) -> None:
        await job_in(journal, State.STORED, candidate("a.jpg"))
        await job_in(journal, State.PARKED, candidate("b.jpg"))
        added = await job_in(journal, State.ADDED, candidate("c.jpg"))
        asking = await claim(journal, candidate("d.jpg"))
        assert await journal.find_equal(asking, BYTES) == added

    async def test_the_lowest_number_goes_first(self, journal: Journal) -> None:
        first = await claim(journal, candidate("a.jpg"))
        second = await claim(journal, candidate("b.jpg"))
        await journal.submit(stored(second))
        waiting = await journal.submit(stored(first))
        asking = await claim(journal, candidate("c.jpg"))
        assert await journal.find_equal(asking, BYTES) == waiting

    async def test_an_earlier_revision_with_the_same_bytes(self, journal: Journal) -> None:
        first = await job_in(journal, State.ADDED)
        touched = await claim(journal, candidate(stamp=OTHER_STAMP))
        assert await journal.find_equal(touched, BYTES) == first

    async def test_bytes_that_a_job_had_before_count_no_more(self, journal: Journal) -> None:
        first = await job_in(journal, State.STORED, candidate("a.jpg"))
        await journal.submit(Released(job_id=first.job_id))
        await claim(journal, candidate("a.jpg", stamp=OTHER_STAMP))
        await journal.submit(stored(first, fingerprint=OTHER_BYTES, url="https://cdn.example/new"))
        asking = await claim(journal, candidate("b.jpg"))
        assert await journal.find_equal(asking, BYTES) is None
        assert await journal.find_equal(asking, OTHER_BYTES) is not None

    async def test_it_sees_what_was_submitted_before(self, journal: Journal) -> None:
        first = await claim(journal, candidate("a.jpg"))
        second = await claim(journal, candidate("b.jpg"))
        wait = journal.submit(stored(first))
        assert await journal.find_equal(second, BYTES) == await wait


def stretch(*names: str, stamp: FileStamp = STAMP, directory: str = "/images/") -> Stretch:
    return Stretch(directory=directory, stamps=dict.fromkeys(names, (stamp.size_bytes, stamp.mtime_ns)))


async def unchanged(journal: Journal, *stretches: Stretch, pack_id: PackId = PACK) -> list[set[str]]:
    return [set(names) for names in await journal.unchanged(pack_id, stretches)]


class TestUnchanged:
    @pytest.mark.parametrize("state", State)
    async def test_what_is_added_or_a_duplicate_and_nothing_else(self, journal: Journal, state: State) -> None:
        await job_in(journal, state)
        is_known = state in {State.ADDED, State.DUPLICATE}
        assert await unchanged(journal, stretch("a.jpg")) == [{"a.jpg"} if is_known else set()]

    async def test_those_between_others(self, journal: Journal) -> None:
        for name in ("a.jpg", "c.jpg", "e.jpg"):
            await job_in(journal, State.DUPLICATE, candidate(name))
        await job_in(journal, State.REJECTED, candidate("d.jpg"))
        assert await unchanged(journal, stretch("b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg")) == [{"c.jpg", "e.jpg"}]

    async def test_each_stretch_has_its_answer(self, journal: Journal) -> None:
        for name in ("a.jpg", "x/a.jpg", "x/b.jpg"):
            await job_in(journal, State.DUPLICATE, candidate(name))
        here, below = stretch("a.jpg", "b.jpg"), stretch("a.jpg", "b.jpg", directory="/images/x/")
        assert await unchanged(journal, below, stretch(), here) == [{"a.jpg", "b.jpg"}, set(), {"a.jpg"}]
        assert await unchanged(journal) == []

    @pytest.mark.parametrize("other", [OTHER_STAMP, FileStamp(size_bytes=11, mtime_ns=1_000)])
    async def test_not_with_another_stamp(self, journal: Journal, other: FileStamp) -> None:
        await job_in(journal, State.ADDED)
        assert await unchanged(journal, stretch("a.jpg", stamp=other)) == [set()]

    async def test_not_without_a_stamp_in_the_journal(self, journal: Journal) -> None:
        await job_in(journal, State.DUPLICATE, candidate(stamp=None))
        assert await unchanged(journal, stretch("a.jpg")) == [set()]

    async def test_not_in_another_pack_or_directory_or_under_a_callers_id(self, journal: Journal) -> None:
        await job_in(journal, State.ADDED, candidate("a.jpg"))
        await job_in(journal, State.DUPLICATE, candidate("b.jpg", key="id:7"))
        assert await unchanged(journal, stretch("a.jpg"), pack_id=OTHER_PACK) == [set()]
        assert await unchanged(journal, stretch("a.jpg", directory="/")) == [set()]
        assert await unchanged(journal, stretch("a.jpg", directory="/images2/")) == [set()]
        assert await unchanged(journal, stretch("b.jpg")) == [set()]

    async def test_the_latest_revision_decides(self, journal: Journal) -> None:
        await job_in(journal, State.ADDED)
        await job_in(journal, State.CLAIMED, candidate(stamp=OTHER_STAMP))
        assert await unchanged(journal, stretch("a.jpg")) == [set()]
        assert await unchanged(journal, stretch("a.jpg", stamp=OTHER_STAMP)) == [set()]

    async def test_the_latest_of_very_many_revisions_decides(self, journal: Journal) -> None:
        for number in range(1, 60):
            stamp = FileStamp(size_bytes=number, mtime_ns=number)
            await job_in(journal, State.DUPLICATE, candidate(stamp=stamp))
            for before in (stamp, FileStamp(size_bytes=16, mtime_ns=16)):
                (known,) = await unchanged(journal, stretch("a.jpg", stamp=before))
                assert known <= ({"a.jpg"} if before == stamp else set())

    async def test_what_lies_below_a_directory_is_not_taken_for_a_file(self, journal: Journal) -> None:
        """By the bytes of their keys, all files in `b` stand between `b.jpg` and `c.jpg`."""
        for name in ("b.jpg", "b/1.jpg", "b/c/2.jpg", "b/c.jpg", "c.jpg"):
            await job_in(journal, State.DUPLICATE, candidate(name))
        names = ("1.jpg", "2.jpg", "b-c", "b.jpg", "b/1.jpg", "c", "c.jpg")
        assert await unchanged(journal, stretch(*names[:4], *names[5:])) == [{"b.jpg", "c.jpg"}]

    @pytest.mark.parametrize("name", ["\udcff\udcfe.jpg", "日本.jpg", "\U0001f600.jpg", "a\nb.jpg", "%_[*.jpg"])
    async def test_any_name(self, journal: Journal, name: str) -> None:
        await job_in(journal, State.DUPLICATE, candidate(name))
        await job_in(journal, State.DUPLICATE, candidate("!"))
        assert await unchanged(journal, stretch("!", name)) == [{"!", name}]
        assert await unchanged(journal, stretch(name, directory="/images/\udcff/")) == [set()]

    async def test_of_many_that_are_gone_none_is_named(self, journal: Journal) -> None:
        for number in range(100):
            await job_in(journal, State.DUPLICATE, candidate(f"{number:03}.jpg"))
        (known,) = await unchanged(journal, stretch("000.jpg", "002.jpg", "099.jpg"))
        assert {"000.jpg", "002.jpg"} <= known <= {"000.jpg", "002.jpg", "099.jpg"}

    async def test_admission_agrees(self, journal: Journal) -> None:
        for number, state in enumerate(State):
            await job_in(journal, state, candidate(f"{number}.jpg"))
        names = [f"{number}.jpg" for number in range(len(State) + 1)]
        (known,) = await unchanged(journal, stretch(*names))
        admissions = await journal.admit(RUN, [candidate(name) for name in names])
        assert known == {
            name
            for name, admission in zip(names, admissions, strict=True)
            if isinstance(admission, Known) and admission.outcome is Outcome.DUPLICATE
        }

    async def test_the_key_sees_the_pack_if_anything_is_known(self, journal: Journal) -> None:
        await job_in(journal, State.ADDED)
        await journal.unchanged(PACK, [stretch("b.jpg")], key_id="key-2")
        await journal.unchanged(OTHER_PACK, [stretch("a.jpg")], key_id="key-2")
        assert await journal.packs() == {PACK: "key-1"}
        await journal.unchanged(PACK, [stretch("a.jpg")], key_id="key-2")
        assert await journal.packs() == {PACK: "key-2"}


class TestResume:
    async def test_pages_of_pending_jobs_by_number(self, journal: Journal) -> None:
        records = [await job_in(journal, State.PENDING, candidate(f"{number}.jpg")) for number in range(5)]
        await job_in(journal, State.ADDED, candidate("added.jpg"))
        await job_in(journal, State.CLAIMED, candidate("claimed.jpg"))
        seen: list[Record] = []
        after = JobId(0)
        while page := await journal.resume(NEXT_RUN, after=after, limit=2):
            assert len(page) <= 2
            seen += page
            after = page[-1].job_id
        assert seen == [replace(record, state=State.CLAIMED, run_id=NEXT_RUN) for record in records]
        assert list(await journal.resume(NEXT_RUN, after=JobId(0), limit=2)) == []

    async def test_a_page_begins_after_the_number(self, journal: Journal) -> None:
        records = [await job_in(journal, State.PENDING, candidate(f"{number}.jpg")) for number in range(3)]
        page = await journal.resume(RUN, after=records[0].job_id, limit=10)
        assert [record.job_id for record in page] == [record.job_id for record in records[1:]]
        (left,) = await journal.resume(RUN, after=JobId(0), limit=10)
        assert left.job_id == records[0].job_id


class TestMending:
    """What a comparison with the packs reads, and what it tells the journal; between runs."""

    async def test_what_is_missed_is_a_debt_of_the_next_run(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            added = await job_in(journal, State.ADDED)
            await journal.end(RUN, summary())
        async with store.open() as journal:
            missed = await journal.submit(Missed(job_id=added.job_id))
            assert (missed.state, missed.url, missed.adds_sent) == (State.PARKED, added.url, 1)
            assert (missed.attempts, missed.reason, missed.settled_at) == (0, "missed", None)
            crashed = store.after_a_crash()
        async with crashed.open() as journal:
            opening = await begin(journal, NEXT_RUN)
            assert list(opening.parked) == [missed]
            again = await journal.submit(Resent(job_id=added.job_id))
            assert (again.state, again.adds_sent, again.audit_is_open) == (State.STORED, 2, True)

    @pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.FAILED])
    async def test_what_is_sighted_is_looked_up_whatever_was_told_of_it(
        self, journal: Journal, outcome: Outcome
    ) -> None:
        record = await bring(journal, await claim(journal), *changes_to(await admitted(journal), State.PARKED))
        await journal.submit(Spent(job_id=record.job_id, attempts=8, reason="http_500"))
        await journal.submit(settled(record, outcome, reason="http_500"))
        sighted = await journal.submit(Sighted(job_id=record.job_id))
        assert (sighted.state, sighted.attempts, sighted.settled_at) == (State.PARKED, 0, None)
        found = await journal.submit(settled(record, Outcome.ADDED, was_found=True))
        assert (found.state, found.reason) == (State.ADDED, None)

    async def test_what_was_sighted_was_sent(self, journal: Journal) -> None:
        record = await job_in(journal, State.STORED)
        await bring(journal, record, Released(job_id=record.job_id))
        await claim(journal)
        rejected = await journal.submit(settled(record, Outcome.REJECTED, reason="too_large"))
        assert (rejected.url, rejected.adds_sent) == (record.url, 0)
        assert (await journal.submit(Sighted(job_id=record.job_id))).adds_sent == 1

    async def test_a_doubt_opens_the_audit_again_and_what_is_condemned_stays_so(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            record = await job_in(journal, State.PARKED)
            await bring(journal, record, Resent(job_id=record.job_id), settled(record, Outcome.ADDED))
            condemned = await journal.submit(Condemned(job_id=record.job_id, image_ids=("image-2", 'an "odd" id, ü')))
            assert (condemned.state, condemned.audit_is_open) == (State.ADDED, True)
            assert condemned.condemned == ("image-2", 'an "odd" id, ü')
            store = store.after_a_crash()  # whatever became of the deletes
        async with store.open() as journal:
            assert list((await begin(journal, NEXT_RUN)).audits) == [condemned]
            closed = await journal.submit(AuditClosed(job_id=record.job_id))
            assert closed == replace(condemned, audit_is_open=False)
            assert closed.adds_sent == 2
            doubted = await journal.submit(Doubted(job_id=record.job_id))
            assert doubted == condemned
            store = store.after_a_crash()
        async with store.open() as journal:
            assert list((await begin(journal, RunId("run-3"))).audits) == [doubted]
            more = await journal.submit(Condemned(job_id=record.job_id, image_ids=("image-4",)))
            assert more.condemned == (*condemned.condemned, "image-4")

    async def test_an_audit_that_ends_names_the_copy_that_is_left(self, journal: Journal) -> None:
        record = await job_in(journal, State.PARKED)
        added = Settled(job_id=record.job_id, outcome=Outcome.ADDED, image_id="image-2")
        await bring(journal, record, Resent(job_id=record.job_id), added)
        for surviving, named in (("image-1", "image-1"), (None, "image-1")):  # none is known: it keeps what it has
            closed = await journal.submit(AuditClosed(job_id=record.job_id, image_id=surviving))
            assert (closed.audit_is_open, closed.image_id) == (False, named)
            await journal.submit(Doubted(job_id=record.job_id))

    @pytest.mark.parametrize(
        "state", [State.PARKED, State.ADDED, State.DUPLICATE, State.REJECTED, State.FAILED], ids=str
    )
    async def test_copies_are_condemned_whatever_became_of_the_job(self, journal: Journal, state: State) -> None:
        record = await job_in(journal, state)
        condemned = await journal.submit(Condemned(job_id=record.job_id, image_ids=("image-1",)))
        assert condemned == replace(record, condemned=("image-1",))

    async def test_pages_of_jobs_with_a_url_by_state_and_number(self, journal: MemoryJournal | SqliteJournal) -> None:
        for state in (State.ADDED, State.PARKED):
            records = [await job_in(journal, state, candidate(f"{state}-{number}.jpg")) for number in range(5)]
            await job_in(journal, state, candidate("elsewhere.jpg", pack_id=OTHER_PACK, key=f"id:{state}"))
            seen: list[Record] = []
            after = JobId(0)
            while page := await journal.page(PACK, state, after=after, limit=2):
                assert len(page) <= 2
                seen += page
                after = page[-1].job_id
            assert seen == records
        await job_in(journal, State.REJECTED, candidate("no-image.jpg"))
        assert list(await journal.page(PACK, State.REJECTED, after=JobId(0), limit=2)) == []

    async def test_every_pack_that_jobs_were_admitted_for_latest_first(self, store: Store) -> None:
        async with store.open() as journal:
            assert await journal.packs() == {}
            await begin(journal)
            for number, state in enumerate(State):
                await job_in(journal, state, candidate("a.jpg", pack_id=PackId(f"pack-{number}")))
            await job_in(journal, State.ADDED, candidate("b.jpg", pack_id=PackId("pack-0")))  # known, and no later
            await journal.end(RUN, summary())
            expected = [(f"pack-{number}", "key-1") for number in reversed(range(len(State)))]
            assert list((await journal.packs()).items()) == expected
            store = store.after_a_crash()
        async with store.open() as journal:
            assert list((await journal.packs()).items()) == expected


class TestEndAndBegin:
    async def test_the_first_run_finds_nothing(self, store: Store) -> None:
        async with store.open() as journal:
            opening = await begin(journal)
        assert (list(opening.parked), list(opening.audits), opening.packs) == ([], [], {})

    async def test_the_packs_it_knows_latest_first(self, journal: Journal) -> None:
        for number in range(12):
            await job_in(journal, State.ADDED, candidate(f"{number}.jpg", pack_id=PackId(f"pack-{number}")))
        await job_in(journal, State.REJECTED, candidate("not.jpg", pack_id=PackId("pack-rejected")))
        opening = await begin(journal, NEXT_RUN, key_id="key-2")  # which has seen none of them
        assert list(opening.packs) == ["pack-rejected", *(f"pack-{number}" for number in reversed(range(12)))]
        assert set(opening.packs.values()) == {"key-1"}

    async def test_a_key_has_the_packs_of_its_scope(self, store: Store) -> None:
        """Where a key sees what another one saw, it sees all that one saw; of others' packs that says nothing."""
        async with store.open() as journal:
            await begin(journal, key_id="key-1")
            for name in ("a", "b"):
                await claim(journal, candidate(f"{name}.jpg", pack_id=PackId(name)))
            await begin(journal, NEXT_RUN, key_id="of-another")
            await claim(journal, candidate("theirs.jpg", pack_id=PackId("theirs")))
            assert await journal.packs() == {"a": "key-1", "b": "key-1", "theirs": "of-another"}
            opening = await begin(journal, RunId("run-3"), key_id="key-2")
            assert opening.packs == {"a": "key-1", "b": "key-1", "theirs": "of-another"}  # a beginning says nothing
            await claim(journal, candidate("new.jpg", pack_id=PackId("a")))
            assert list((await journal.packs()).items()) == [("theirs", "of-another"), ("b", "key-2"), ("a", "key-2")]
        async with store.open() as journal:
            opening = await begin(journal, RunId("run-4"), key_id="key-1")
            assert list(opening.packs.items()) == [("theirs", "of-another"), ("b", "key-2"), ("a", "key-2")]

    async def test_known_jobs_tell_as_much_of_the_key_as_new_ones(self, journal: Journal) -> None:
        await job_in(journal, State.ADDED)
        await begin(journal, NEXT_RUN, key_id="key-2")
        assert isinstance(await admit(journal), Known)
        assert await journal.packs() == {PACK: "key-2"}

    async def test_the_key_of_an_answered_add_sees_the_pack(self, journal: Journal) -> None:
        """A job of an earlier run is continued without being admitted anew."""
        await job_in(journal, State.PENDING, candidate("elsewhere.jpg", pack_id=OTHER_PACK))
        answered, found, failed = [
            await job_in(journal, State.PARKED, candidate(f"{number}.jpg")) for number in range(3)
        ]
        await begin(journal, NEXT_RUN, key_id="key-2")
        await bring(journal, found, settled(found, Outcome.ADDED, was_found=True))
        await bring(journal, failed, settled(failed, Outcome.FAILED, reason="http_500"))
        (pending,) = await journal.resume(NEXT_RUN, after=JobId(0), limit=10)
        await bring(journal, pending, settled(pending, Outcome.DUPLICATE))
        await journal.submit(Resent(job_id=answered.job_id))
        # A pack that somebody else made public is read, and not changed.
        assert set((await journal.packs()).values()) == {"key-1"}
        await journal.submit(settled(answered, Outcome.ADDED))
        assert await journal.packs() == {PACK: "key-2", OTHER_PACK: "key-2"}

    async def test_end_puts_claims_back_and_counts_no_death(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            record = await claim(journal)
            await journal.submit(changes.Tested(job_id=record.job_id))
            await journal.end(RUN, summary())
            (back,) = await journal.resume(RUN, after=JobId(0), limit=10)
        assert (back.job_id, back.deaths, back.is_alone) == (record.job_id, 0, False)

    async def test_end_waits_for_all_that_was_submitted(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            records = [await claim(journal, candidate(f"{number}.jpg")) for number in range(50)]
            waits = [journal.submit(changes_to(record, State.REJECTED)[0]) for record in records]
            await journal.end(RUN, summary())
            assert all(wait.done() for wait in waits)

    async def test_end_leaves_a_stored_job_and_the_next_begin_parks_it(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            record = await job_in(journal, State.STORED)
            await journal.end(RUN, summary())
            assert await admit(journal) == Joined(record=record)
        async with store.open() as journal:
            (parked,) = (await begin(journal, NEXT_RUN)).parked
        assert parked == replace(record, state=State.PARKED, reason="process_died")

    async def test_debts_stay_until_they_are_paid(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            waiting = await job_in(journal, State.PARKED, candidate("parked.jpg"))
            record = await job_in(journal, State.PARKED, candidate("audit.jpg"))
            owing = await bring(journal, record, Resent(job_id=record.job_id), settled(record, Outcome.ADDED))
            await journal.end(RUN, summary())
        for run in ("run-2", "run-3"):
            async with store.open() as journal:
                opening = await begin(journal, RunId(run))
                assert list(opening.parked) == [waiting]
                assert list(opening.audits) == [owing]
        async with store.open() as journal:
            await begin(journal, RunId("run-4"))
            await journal.submit(AuditClosed(job_id=owing.job_id))
            await journal.submit(settled(waiting, Outcome.ADDED, was_found=True))
            opening = await begin(journal, RunId("run-5"))
            assert (list(opening.parked), list(opening.audits)) == ([], [])


class TestAnUncleanEnd:
    async def test_what_was_told_is_there_and_says_what_may_have_happened(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            before = {state: await job_in(journal, state, candidate(f"{state}.jpg")) for state in State}
            crashed = store.after_a_crash()
            async with crashed.open() as after:
                opening = await begin(after, NEXT_RUN, key_id="key-2")
                assert opening.packs == {PACK: "key-1"}
                assert [(record.job_id, record.state) for record in opening.parked] == [
                    (before[State.STORED].job_id, State.PARKED),
                    (before[State.PARKED].job_id, State.PARKED),
                ]
                assert [record.reason for record in opening.parked] == ["process_died", "timeout"]
                pending = await after.resume(NEXT_RUN, after=JobId(0), limit=10)
                assert {record.job_id: record.deaths for record in pending} == {
                    before[State.PENDING].job_id: 0,
                    before[State.CLAIMED].job_id: 1,
                }
                known = await after.admit(
                    NEXT_RUN, [candidate(f"{state}.jpg") for state in (State.ADDED, State.DUPLICATE, State.REJECTED)]
                )
                assert all(isinstance(admission, Known) for admission in known)

    async def test_deaths_add_up_and_blame_nobody(self, store: Store) -> None:
        record = None
        for number in range(5):
            async with store.open() as journal:
                await begin(journal, RunId(f"run-{number}"))
                record = await claim(journal)
                assert (record.deaths, record.state) == (number, State.CLAIMED)
                store = store.after_a_crash()

    async def test_a_job_that_died_alone_is_quarantined(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            alone = await claim(journal, candidate("alone.jpg"))
            tested = await journal.submit(changes.Tested(job_id=alone.job_id))
            assert (tested.state, tested.is_alone) == (State.CLAIMED, True)
            beside = await claim(journal, candidate("beside.jpg"))
            store = store.after_a_crash()
        async with store.open() as journal:
            await begin(journal, NEXT_RUN)
            admission = await admit(journal, candidate("alone.jpg"))
            assert isinstance(admission, Known)
            assert (admission.outcome, admission.record.reason) == (Outcome.FAILED, QUARANTINED)
            assert admission.record.deaths == 1
            again = await claim(journal, candidate("beside.jpg"))
            assert (again.job_id, again.deaths) == (beside.job_id, 1)
            # Other bytes under the name are innocent.
            assert (await claim(journal, candidate("alone.jpg", stamp=OTHER_STAMP))).revision == 2

    async def test_a_job_that_was_tested_and_released_is_not_blamed_later(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            record = await claim(journal)
            await bring(journal, record, changes.Tested(job_id=record.job_id), Released(job_id=record.job_id))
            await claim(journal)
            store = store.after_a_crash()
        async with store.open() as journal:
            await begin(journal, NEXT_RUN)
            assert (await claim(journal)).deaths == 1

    async def test_an_add_that_was_sent_twice_is_looked_up_and_audited(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            record = await job_in(journal, State.PARKED)
            await journal.submit(Resent(job_id=record.job_id))
            store = store.after_a_crash()
        async with store.open() as journal:
            opening = await begin(journal, NEXT_RUN)
            (parked,) = opening.parked
            assert list(opening.audits) == [parked]
            assert (parked.adds_sent, parked.audit_is_open, parked.url) == (2, True, record.url)


def refusal(place: str = "7", *, reason: str = "bad_row", source: str = "/lists/a.csv", run_id: RunId = RUN) -> Refusal:
    return Refusal(source=source, place=place, reason=reason, detail="it is not JSON", run_id=run_id, refused_at=1.5)


def anywhere(place: str) -> bool:
    return True


class TestRefusals:
    async def test_what_is_news(self, journal: Journal) -> None:
        assert list(await journal.refuse([refusal("1"), refusal("2")])) == [True, True]
        again = [refusal("1", run_id=NEXT_RUN), refusal("2", reason="no_image"), refusal("3")]
        assert list(await journal.refuse(again)) == [False, True, True]
        assert list(await journal.refuse([refusal("1", source="/lists/b.csv")])) == [True]
        assert list(await journal.refuse([])) == []

    async def test_one_place_twice_in_a_batch_is_news_once(self, journal: Journal) -> None:
        assert list(await journal.refuse([refusal(), refusal()])) == [True, False]

    async def test_what_a_complete_pass_does_not_meet_is_dropped(self, journal: Journal) -> None:
        await journal.refuse([refusal(str(number)) for number in range(1200)])
        await journal.refuse([refusal("5", source="/lists/b.csv")])
        await journal.refuse([refusal("5", run_id=NEXT_RUN), refusal("2000", run_id=NEXT_RUN)])
        assert await journal.mended(NEXT_RUN, "/lists/a.csv", retells=anywhere) == 1199
        assert await journal.mended(NEXT_RUN, "/lists/a.csv", retells=anywhere) == 0
        known = [refusal("5"), refusal("2000"), refusal("6"), refusal("5", source="/lists/b.csv")]
        assert list(await journal.refuse(known)) == [False, False, True, False]

    async def test_what_is_not_told_again_stays(self, journal: Journal) -> None:
        await journal.refuse([refusal(str(number)) for number in range(1200)])
        assert await journal.mended(NEXT_RUN, "/lists/a.csv", retells=lambda place: int(place) % 2 == 0) == 600
        assert list(await journal.refuse([refusal("3"), refusal("4")])) == [False, True]

    @pytest.mark.parametrize("odd", ["\udcff", "n\0l", "\n", "日本", "it's"])
    async def test_any_source_and_text(self, journal: Journal, odd: str) -> None:
        odd_one = Refusal(
            source=f"/{odd}.csv", place=f"1{odd}", reason="bad_row", detail=odd, run_id=RUN, refused_at=1.0
        )
        assert list(await journal.refuse([odd_one])) == [True]
        assert list(await journal.refuse([odd_one])) == [False]
        assert await journal.mended(NEXT_RUN, odd_one.source, retells=anywhere) == 1

    async def test_it_is_there_after_a_crash_and_is_no_job(self, store: Store) -> None:
        async with store.open() as journal:
            await begin(journal)
            await journal.refuse([refusal()])
            after = store.after_a_crash()
        async with after.open() as journal:
            opening = await begin(journal, NEXT_RUN)
            assert not opening.packs
            assert list(await journal.resume(NEXT_RUN, after=JobId(0), limit=10)) == []
            assert list(await journal.refuse([refusal(run_id=NEXT_RUN)])) == [False]


A_URL = "https://pics.test/(a).jpg?signed=1"


def linked(key: str | None = None, url: str = A_URL) -> Candidate:
    return Candidate(key=key or url, pack_id=PACK, locator=Locator(url), file_name="(a).jpg", stamp=None)


def stored_link(record: Record, fingerprint: Fingerprint | None = BYTES) -> Stored:
    seen = None if fingerprint is None else Inspection(fingerprint=fingerprint, content_type=None, stamp=None)
    return Stored(job_id=record.job_id, inspection=seen, url=None)


class TestUrls:
    """Jobs whose add sends the caller's own URL."""

    async def test_what_is_added_is_the_locator_and_it_belongs_to_nobody(self, journal: Journal) -> None:
        record = await claim(journal, linked())
        assert (record.add_url, record.urls, record.own_urls) == (A_URL, (), ())
        record = await bring(journal, record, stored_link(record))
        assert (record.state, record.url, record.adds_sent, record.stamp) == (State.STORED, None, 1, None)
        assert (record.add_url, record.urls, record.own_urls) == (A_URL, (A_URL,), ())
        assert record.inspection is None  # nothing was uploaded
        record = await bring(journal, record, settled(record, Outcome.ADDED))
        assert record.urls == (A_URL,)

    async def test_many_jobs_may_have_one_url(self, journal: Journal) -> None:
        for name in "123":
            record = await claim(journal, linked(f"id:{name}"))
            await bring(journal, record, stored_link(record), settled(record, Outcome.ADDED))

    async def test_two_of_one_url_are_equal(self, journal: Journal) -> None:
        first, second = await claim(journal, linked("id:1")), await claim(journal, linked("id:2"))
        await bring(journal, first, stored_link(first))
        found = await journal.find_equal(second, BYTES)
        assert found is not None
        assert found.job_id == first.job_id

    async def test_a_death_after_stored_leaves_it_to_be_looked_up(self, store: Store, journal: Journal) -> None:
        record = await claim(journal, linked())
        await bring(journal, record, stored_link(record))
        async with store.after_a_crash().open() as reopened:
            opening = await begin(reopened, NEXT_RUN)
        (parked,) = opening.parked
        assert (parked.urls, parked.adds_sent, parked.is_verifiable) == ((A_URL,), 1, True)

    async def test_that_nothing_tells_its_copies_apart_outlives_the_process(
        self, store: Store, journal: Journal
    ) -> None:
        record = await claim(journal, linked())
        # Put back by a run that compared, it is sent by one that does not.
        record = await bring(journal, record, stored_link(record), Released(job_id=record.job_id))
        record = await claim(journal, linked())
        await bring(journal, record, stored_link(record, None))
        async with store.after_a_crash().open() as reopened:
            opening = await begin(reopened, NEXT_RUN)
        (parked,) = opening.parked
        assert (parked.fingerprint, parked.is_verifiable) == (None, False)

    async def test_one_that_failed_after_an_add_starts_at_the_lookup_and_else_from_the_url(
        self, journal: Journal
    ) -> None:
        sent, unsent = await claim(journal, linked("id:1")), await claim(journal, linked("id:2"))
        failed = [Parked(job_id=sent.job_id, reason="timeout"), settled(sent, Outcome.FAILED)]
        await bring(journal, sent, stored_link(sent), *failed)
        await bring(journal, unsent, settled(unsent, Outcome.FAILED, reason="dns"))
        first = await admit(journal, linked("id:1", "https://pics.test/moved.jpg"))
        assert isinstance(first, Joined)
        assert (first.record.state, first.record.urls) == (State.PARKED, (A_URL,))  # as it was sent
        second = await admit(journal, linked("id:2", "https://pics.test/moved.jpg"))
        assert isinstance(second, Claimed)
        assert second.record.add_url == "https://pics.test/moved.jpg"

    async def test_a_comparison_reads_those_whose_add_was_sent(self, journal: Journal) -> None:
        added, rejected, refused = [await claim(journal, linked(f"id:{name}")) for name in "123"]
        await bring(journal, added, stored_link(added), settled(added, Outcome.ADDED))
        await bring(journal, rejected, settled(rejected, Outcome.REJECTED, reason="not_found"))
        await bring(journal, refused, stored_link(refused), settled(refused, Outcome.REJECTED, reason="http_422"))
        found = [
            record.job_id
            for state in (State.ADDED, State.REJECTED)
            for record in await journal.page(PACK, state, after=JobId(0), limit=10)
        ]
        assert found == [added.job_id, refused.job_id]

    async def test_one_that_is_missing_is_looked_for_and_one_that_was_never_sent_is_no_stray(
        self, journal: Journal
    ) -> None:
        record = await claim(journal, linked("id:1"))
        record = await bring(journal, record, stored_link(record), settled(record, Outcome.ADDED))
        record = await bring(journal, record, Missed(job_id=record.job_id))
        assert (record.state, record.urls) == (State.PARKED, (A_URL,))
        record = await bring(journal, record, Resent(job_id=record.job_id))
        assert (record.adds_sent, record.audit_is_open) == (2, True)
        other = await claim(journal, linked("id:2"))
        await bring(journal, other, settled(other, Outcome.REJECTED))
        with pytest.raises(IllegalTransition):
            await journal.submit(Sighted(job_id=other.job_id))

    async def test_an_image_that_was_downloaded_has_no_stamp_and_goes_on_where_it_was(self, journal: Journal) -> None:
        record = await claim(journal, linked())
        inspection = Inspection(fingerprint=BYTES, content_type="image/png", stamp=None)
        stored = Stored(job_id=record.job_id, inspection=inspection, url="https://cdn.example/1")
        await bring(journal, record, stored, Released(job_id=record.job_id))
        record = await claim(journal, linked())
        assert (record.add_url, record.inspection) == ("https://cdn.example/1", inspection)
        assert record.own_urls == ("https://cdn.example/1",)
