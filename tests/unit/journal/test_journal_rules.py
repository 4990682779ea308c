"""Any sequence of changes keeps the journal's promises, and every store agrees on it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_samples import PACK, STAMP, SUMMARY, TARGET
from msgspec.structs import replace

from ingest.journal import changes as told
from ingest.journal import rules
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
from ingest.journal.records import QUARANTINED, Candidate, Claimed, Inspection, Joined, Known, Record
from ingest.journal.sqlite import SqliteJournal
from ingest.model import FileStamp, Fingerprint, JobId, Locator, Occasion, Outcome, PackId, RunId
from ingest.policy.lifecycle import OUTCOMES, IllegalTransition, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.journal.changes import Change
    from ingest.journal.records import Admission

RUN = RunId("run-1")
STAMPS = (STAMP, FileStamp(size_bytes=11, mtime_ns=2_000), None)


def inspection(number: int) -> Inspection:
    return Inspection(
        fingerprint=Fingerprint(bytes([number]) * 32),
        content_type="image/png",
        stamp=STAMPS[number % 2] or STAMP,
    )


def changes(job_ids: st.SearchStrategy[JobId], urls: st.SearchStrategy[str]) -> st.SearchStrategy[Change]:
    inspections = st.integers(0, 2).map(inspection)
    image_ids = st.sampled_from(["image-1", "image-2", '"idé'])
    return st.one_of(
        st.builds(told.Tested, job_id=job_ids),
        st.builds(Spent, job_id=job_ids, attempts=st.integers(1, 9), reason=st.just("http_500")),
        st.builds(Stored, job_id=job_ids, inspection=inspections, url=urls),
        st.builds(Parked, job_id=job_ids, reason=st.just("timeout")),
        st.builds(Resent, job_id=job_ids),
        st.builds(
            Settled,
            job_id=job_ids,
            outcome=st.sampled_from(Outcome),
            reason=st.none() | st.just("a_reason"),
            inspection=st.none() | inspections,
            image_id=st.none() | image_ids,
            was_found=st.booleans(),
        ),
        st.builds(Released, job_id=job_ids),
        st.builds(Condemned, job_id=job_ids, image_ids=st.lists(image_ids, min_size=1, max_size=2).map(tuple)),
        st.builds(AuditClosed, job_id=job_ids, image_id=st.none() | image_ids),
        st.builds(Missed, job_id=job_ids),
        st.builds(Sighted, job_id=job_ids),
        st.builds(Doubted, job_id=job_ids),
    )


def candidates() -> st.SearchStrategy[Candidate]:
    return st.builds(
        Candidate,
        key=st.sampled_from(["/images/a.jpg", "/images/b.jpg", "id:\udcff\n"]),
        pack_id=st.sampled_from([PACK, PackId("pack-2")]),
        locator=st.sampled_from([Locator("/images/a.jpg"), Locator("/images/\udcff.jpg")]),
        file_name=st.sampled_from(["a.jpg", "\udcff.jpg"]),
        stamp=st.sampled_from(STAMPS),
    )


class TestOneRecord:
    """The rules alone: a record walks at random, and what can't happen is passed over."""

    Step = Any  # a change, or a function from a record to the next one

    @staticmethod
    def steps() -> st.SearchStrategy[list[Step]]:
        def readmit(candidate: Candidate) -> Callable[[Record], Record]:
            def step(record: Record) -> Record:
                admission = rules.admit(record, candidate, run_id=RUN, now=5.0)
                return record if admission.record.job_id == rules.UNNUMBERED else admission.record

            return step

        urls = st.sampled_from(["https://cdn.example/1", "https://cdn.example/2"])
        likely = st.sampled_from(
            [
                Stored(job_id=JobId(1), inspection=inspection(0), url="https://cdn.example/1"),
                Parked(job_id=JobId(1), reason="timeout"),
                Resent(job_id=JobId(1)),
                Settled(job_id=JobId(1), outcome=Outcome.FAILED),
                lambda record: rules.claim(record, RUN),
                rules.retry,
                lambda record: rules.recover(record, now=7.0),
            ]
        )
        others = st.sampled_from([rules.put_back]) | candidates().map(readmit)
        return st.lists(likely | likely | others | changes(st.just(JobId(1)), urls), max_size=60)

    @settings(max_examples=400, deadline=None)
    @given(steps=steps())
    def test_a_random_walk_keeps_every_promise(self, steps: list[Step]) -> None:
        candidate = Candidate(
            key="/images/a.jpg", pack_id=PACK, locator=Locator("/images/a.jpg"), file_name="a.jpg", stamp=STAMP
        )
        record = replace(rules.admit(None, candidate, run_id=RUN, now=1.0).record, job_id=JobId(1))
        for step in steps:
            before = record
            try:
                record = step(record) if callable(step) else rules.apply(record, step, now=9.0, run_id=RUN)
            except IllegalTransition:
                continue
            self.check(before, record, step)

    @staticmethod
    def check(before: Record, after: Record, step: Step) -> None:
        # An outcome is left only by trying again.
        if before.state in OUTCOMES and after.state is not before.state:
            # … or because a look at its pack says otherwise: then it starts at the lookup.
            looks = {Missed: {State.ADDED}, Sighted: {State.DUPLICATE, State.FAILED, State.REJECTED}}
            assert callable(step) or (before.state in looks[type(step)] and after.state is State.PARKED)
            assert before.state in {State.FAILED, State.REJECTED} or isinstance(step, Missed | Sighted)
            assert (after.attempts, after.deaths, after.settled_at) == (0, 0, None)
            assert not callable(step) or after.reason is None
        assert (after.settled_at is not None) == (after.state in OUTCOMES)
        # What may have been sent stays so, but for the one add that surely was not.
        if after.adds_sent < before.adds_sent:
            assert isinstance(step, Released)
            assert (before.adds_sent, after.adds_sent) == (1, 0)
        assert after.adds_sent <= before.adds_sent + 1
        # A url that may have been sent is never given up.
        if before.adds_sent >= 1 and after.adds_sent >= 1:
            assert after.url == before.url
        assert after.adds_sent == 0 or after.url is not None
        # What may have been sent is never back at the file, and fails only after a lookup.
        if after.state in {State.PENDING, State.CLAIMED}:
            assert after.adds_sent == 0
            assert not after.audit_is_open
        if after.state in {State.STORED, State.PARKED, State.ADDED}:
            assert after.adds_sent >= 1
        if after.state is State.FAILED and before.state is not State.FAILED:
            assert before.state in {State.CLAIMED, State.PARKED}
        # A second add owes an audit until the pack was read after it.
        if after.adds_sent > before.adds_sent >= 1:
            assert after.audit_is_open
        if before.audit_is_open and not after.audit_is_open:
            assert isinstance(step, AuditClosed)
            assert before.state is not State.STORED
        if after.audit_is_open and not before.audit_is_open:
            assert isinstance(step, Resent | Doubted)
        # What was condemned stays so, and nothing is while an add may be on its way.
        assert after.condemned[: len(before.condemned)] == before.condemned
        if after.condemned != before.condemned:
            assert isinstance(step, Condemned)
            assert after == replace(before, condemned=before.condemned + step.image_ids)
            assert before.state in {State.PARKED, *OUTCOMES}
        # The journal goes on naming a copy, another one where an audit left that.
        if after.image_id != before.image_id:
            assert isinstance(step, AuditClosed | Settled)
            assert after.image_id == step.image_id is not None
        # Who it is never changes.
        identity = ("job_id", "pack_id", "key", "revision", "admitted_at")
        assert [getattr(after, name) for name in identity] == [getattr(before, name) for name in identity]
        assert not (after.is_alone and after.state in {State.PENDING, State.ADDED})

    def test_a_death_alone_is_told_with_its_count(self) -> None:
        candidate = Candidate(
            key="/images/a.jpg", pack_id=PACK, locator=Locator("/images/a.jpg"), file_name="a.jpg", stamp=STAMP
        )
        record = rules.admit(None, candidate, run_id=RUN, now=1.0).record
        record = rules.recover(replace(record, is_alone=True, deaths=3), now=7.0)
        assert (record.state, record.reason, record.deaths) == (State.FAILED, QUARANTINED, 4)
        assert record.settled_at == 7.0
        assert record.detail is not None
        assert "died 4 times" in record.detail

    @pytest.mark.parametrize("state", sorted(set(State) - {State.CLAIMED, State.STORED}))
    def test_only_what_a_process_had_is_recovered(self, state: State) -> None:
        record = Record(
            job_id=JobId(1),
            pack_id=PACK,
            key="k",
            revision=1,
            locator=Locator("/a"),
            file_name="a",
            state=state,
            admitted_at=1.0,
            run_id=RUN,
        )
        with pytest.raises(IllegalTransition):
            rules.recover(record, now=7.0)


class TestTwoStores:
    """The same calls on both stores have the same results."""

    @staticmethod
    def calls() -> st.SearchStrategy[list[tuple[str, Any]]]:
        job_ids = st.integers(1, 4).map(JobId)
        urls = st.integers(1, 3).map(lambda number: f"https://cdn.example/{number}")
        # Ways that a job really goes, so that walks get far.
        ways = st.builds(
            lambda job_id, number, url, rest: [
                ("submit", Stored(job_id=job_id, inspection=inspection(number), url=url)),
                *(("submit", change) for change in rest),
            ],
            job_ids,
            st.integers(0, 2),
            urls,
            st.lists(changes(job_ids, urls), max_size=2),
        )
        single = st.one_of(
            st.tuples(st.just("admit"), st.lists(candidates(), min_size=1, max_size=4)),
            st.tuples(st.just("submit"), changes(job_ids, urls)),
            st.tuples(st.just("resume"), st.tuples(st.integers(0, 3), st.integers(1, 3))),
            st.tuples(st.just("find_equal"), st.tuples(job_ids, st.integers(0, 2))),
            st.tuples(st.just("page"), st.tuples(st.sampled_from(State), st.integers(0, 3), st.integers(1, 3))),
            st.tuples(st.just("packs"), st.none()),
            st.tuples(st.just("begin"), st.none()),
            st.tuples(st.just("end"), st.none()),
        )
        parts = st.lists(ways | single.map(lambda call: [call]), max_size=30)
        first = [("begin", None), ("admit", [])]
        return parts.map(lambda lists: [*first, *(call for part in lists for call in part)])

    @settings(max_examples=40, deadline=None)
    @given(calls=calls())
    def test_they_agree(self, calls: list[tuple[str, Any]]) -> None:
        asyncio.run(self.compare(calls))

    async def compare(self, calls: list[tuple[str, Any]]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with SqliteJournal.open(Path(directory) / "journal.db", TARGET) as durable:
                memory = MemoryJournal()
                seen: dict[JobId, Record] = {}
                for number, (name, argument) in enumerate(calls):
                    run_id = RunId(f"run-{number:04}")
                    expected = await self.call(memory, run_id, name, argument, seen)
                    told = await self.call(durable, run_id, name, argument, seen)
                    assert told == expected, (name, argument)
                    for record in told if isinstance(told, list) else ():
                        if isinstance(record, Record):
                            seen[record.job_id] = record

    async def call(
        self,
        journal: MemoryJournal | SqliteJournal,
        run_id: RunId,
        name: str,
        argument: Any,
        seen: dict[JobId, Record],
    ) -> object:
        """What comes back, without times."""
        match name:
            case "begin":
                opening = await journal.begin(run_id, key_id=run_id, pid=1)
                return (
                    [self.timeless(record) for record in opening.parked],
                    [self.timeless(record) for record in opening.audits],
                    opening.packs,
                )
            case "admit":
                return [self.admission(admission) for admission in await journal.admit(run_id, argument)]
            case "submit":
                try:
                    return [self.timeless(await journal.submit(argument))]
                except (IllegalTransition, KeyError, ValueError) as error:
                    return (type(error), str(error))
            case "resume":
                after, limit = argument
                return [self.timeless(record) for record in await journal.resume(run_id, after=after, limit=limit)]
            case "find_equal":
                job_id, number = argument
                asking = seen.get(job_id)
                if asking is None:
                    return None
                found = await journal.find_equal(asking, inspection(number).fingerprint)
                return [] if found is None else [self.timeless(found)]
            case "page":
                state, after, limit = argument
                found = await journal.page(PACK, state, after=JobId(after), limit=limit)
                return [self.timeless(record) for record in found]
            case "packs":
                return await journal.packs()
            case _:
                return await journal.end(run_id, SUMMARY)

    @staticmethod
    def timeless(record: Record) -> Record:
        return replace(record, admitted_at=0.0, settled_at=None if record.settled_at is None else 0.0)

    def admission(self, admission: Admission) -> object:
        match admission:
            case Claimed(record=record) | Joined(record=record):
                return (type(admission), self.timeless(record))
            case Known(record=record, outcome=outcome):
                return (outcome, self.timeless(record))


@pytest.mark.parametrize("age_s", [0.0, 59.0, 100.0, 7 * 3600.0])
def test_what_failed_and_is_met_again_waits_as_long_as_it_took_to_fail(age_s: float) -> None:
    met = Candidate(key="a", pack_id=PACK, locator=Locator("a"), file_name="a", stamp=STAMP, occasion=Occasion.AGAIN)
    first = rules.admit(None, met, run_id=RUN, now=1000.0).record
    failed = rules.apply(first, Settled(job_id=first.job_id, outcome=Outcome.FAILED), now=1000.0 + age_s, run_id=RUN)
    ends_at = 1000.0 + age_s + min(6 * 3600.0, max(60.0, age_s))

    assert isinstance(rules.admit(failed, met, run_id=RUN, now=ends_at - 1.0), Known)
    again = rules.admit(failed, met, run_id=RUN, now=ends_at)
    assert isinstance(again, Claimed)
    assert again.record.admitted_at == 1000.0  # by which the next respite is about twice as long
    # A clock that was put back keeps nobody waiting for years.
    assert isinstance(rules.admit(failed, met, run_id=RUN, now=0.0), Claimed)
