"""What commands read beside a run, and what people change by hand."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest
from journal_samples import PACK, RUN, SUMMARY, TARGET, candidate, child, job_in, line_of

from ingest.errors import JournalCorrupt, JournalInUse, MachineError, UsageError
from ingest.journal import changes, database
from ingest.journal.changes import Parked, Resent, Settled, Spent
from ingest.journal.records import QUARANTINED, Claimed, PackRecord, Refusal, Selection
from ingest.journal.sqlite import SqliteJournal
from ingest.journal.tending import BATCH, SqliteEditor, SqliteReader
from ingest.model import JobId, Outcome, PackId, RunId, Target
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ingest.journal.records import Record

OTHER_PACK = PackId("pack-2")
EVERYTHING = Selection()

WRITER = """
import asyncio, sys
from pathlib import Path
from ingest.journal.sqlite import SqliteJournal
from ingest.policy.lifecycle import State
from journal_samples import RUN, TARGET, job_in

async def main():
    async with SqliteJournal.open(Path(sys.argv[1]), TARGET) as journal:
        await journal.begin(RUN, key_id="key-1", pid=1)
        for number, line in enumerate(sys.stdin):
            await job_in(journal, State(line.strip()), f"{number}.jpg")
            print("done", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with one job a state, and some in another pack, after its run."""
    return asyncio.run(filled(tmp_path / "journal.db"))


async def filled(path: Path) -> Path:
    async with SqliteJournal.open(path, TARGET) as journal:
        await journal.begin(RUN, key_id="key-1", pid=4711)
        for state in State:
            if state is not State.CLAIMED:
                await job_in(journal, state, f"{state}.jpg")
        for state in (State.PENDING, State.FAILED, State.PARKED):
            await job_in(journal, state, f"{state}.jpg", pack_id=OTHER_PACK)
        await journal.end(RUN, SUMMARY)
    return path


def read(path: Path, selection: Selection = EVERYTHING, target: Target | None = TARGET) -> Sequence[Record]:
    with SqliteReader.open(path, target) as reader:
        return list(reader.records(selection))


def states_of(path: Path) -> dict[str, State]:
    return {f"{record.pack_id}/{record.file_name}": record.state for record in read(path)}


class TestReader:
    def test_there_must_be_a_journal(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no journal at"), SqliteReader.open(tmp_path / "no.db", TARGET):
            pytest.fail("it must not be entered")

    def test_packs_with_their_counts(self, path: Path) -> None:
        with SqliteReader.open(path, TARGET) as reader:
            packs = sorted(reader.packs(), key=lambda pack: pack.pack_id)
        assert packs == [
            PackRecord(pack_id=PACK, states={state: 1 for state in State if state is not State.CLAIMED}),
            PackRecord(pack_id=OTHER_PACK, states=dict.fromkeys((State.PENDING, State.FAILED, State.PARKED), 1)),
        ]

    @pytest.mark.parametrize(
        ("selection", "count"),
        [
            (EVERYTHING, 10),
            (Selection(states=frozenset({State.FAILED})), 2),
            (Selection(states=frozenset({State.FAILED, State.REJECTED})), 3),
            (Selection(states=frozenset()), 0),
            (Selection(reason="http_500"), 2),
            (Selection(reason="http_500", pack_id=PACK), 1),
            (Selection(pack_id=OTHER_PACK), 3),
            (Selection(pack_id=PackId("nowhere")), 0),
            (Selection(states=frozenset({State.ADDED}), pack_id=OTHER_PACK), 0),
        ],
    )
    def test_selections(self, path: Path, selection: Selection, count: int) -> None:
        records = read(path, selection)
        assert len(records) == count
        assert [record.job_id for record in records] == sorted(record.job_id for record in records)
        for record in records:
            assert selection.states is None or record.state in selection.states
            assert selection.reason in {None, record.reason}
            assert selection.pack_id in {None, record.pack_id}

    async def test_targets(self, path: Path) -> None:
        other = Target("https://other.example")
        assert read(path, target=other) == []
        async with SqliteJournal.open(path, other) as journal:
            await journal.begin(RunId("run-2"), key_id="key-2", pid=1)
            await job_in(journal, State.ADDED, "a.jpg")
        assert len(read(path, target=other)) == 1
        assert len(read(path, target=None)) == 11
        assert len(read(path)) == 10

    async def test_runs_latest_first(self, path: Path) -> None:
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RunId("run-2"), key_id="key-1", pid=4712)
        with SqliteReader.open(path, TARGET) as reader:
            latest, first = reader.runs(10)
            assert [run.run_id for run in reader.runs(1)] == ["run-2"]
            assert list(reader.runs(0)) == []
        assert (latest.run_id, latest.pid, latest.ended_at, latest.summary) == ("run-2", 4712, None, None)
        assert (first.run_id, first.pid, first.summary) == (RUN, 4711, SUMMARY)
        assert first.ended_at is not None
        assert first.ended_at >= first.started_at

    async def test_the_oldest_job_that_is_not_settled(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            with SqliteReader.open(path, TARGET) as reader:
                assert reader.oldest_pending() is None
                await job_in(journal, State.ADDED, "added.jpg")
                assert reader.oldest_pending() is None
                waiting = await job_in(journal, State.PARKED, "parked.jpg")
                await job_in(journal, State.CLAIMED, "claimed.jpg")
                assert reader.oldest_pending() == waiting.admitted_at

    async def test_refusals_by_source_and_line(self, path: Path) -> None:
        other = Target("https://other.example")
        refused = [
            Refusal(source=source, place=place, reason=reason, detail="said", run_id=RUN, refused_at=1.5)
            for source, place, reason in [
                ("/b.csv", "10", "bad_row"),
                ("/b.csv", "9", "no_image"),
                ("/\udcff.csv", "x-1", "bad_row"),
                ("/a.csv", "2", "bad_row"),
            ]
        ]
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.refuse(refused)
        async with SqliteJournal.open(path, other) as journal:
            await journal.refuse(refused[:1])
        with SqliteReader.open(path, TARGET) as reader:
            assert list(reader.refusals(None)) == [refused[3], refused[1], refused[0], refused[2]]
            assert list(reader.refusals("no_image")) == [refused[1]]
        with SqliteReader.open(path, None) as reader:
            assert len(list(reader.refusals(None))) == 5

    async def test_a_journal_that_is_older_than_refusals_has_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:2])
            await filled(tmp_path / "old.db")
        with SqliteReader.open(tmp_path / "old.db", None) as reader:
            assert list(reader.refusals(None)) == []
        async with SqliteJournal.open(tmp_path / "old.db", TARGET) as journal:  # and is brought up to date
            refusal = Refusal(source="/a", place="1", reason="bad_row", detail="", run_id=RUN, refused_at=1.5)
            await journal.refuse([refusal])
        with SqliteReader.open(tmp_path / "old.db", None) as reader:
            assert list(reader.refusals(None)) == [refusal]
            assert len(list(reader.records(EVERYTHING))) == 10

    def test_beside_a_writer_in_another_process(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        with child(WRITER, path) as writer:
            assert writer.stdin is not None
            for number, state in enumerate(State):
                print(state, file=writer.stdin, flush=True)
                assert line_of(writer) == "done"
                assert [record.state for record in read(path)] == list(State)[: number + 1]
            with pytest.raises(JournalInUse, match=f"pid {writer.pid}"), SqliteEditor.open(path, TARGET):
                pytest.fail("it must not be entered")

    async def test_a_list_that_is_read_slowly_holds_up_nobody(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            await journal.admit(RUN, [candidate(f"{number}.jpg") for number in range(1_000)])
            with SqliteReader.open(path, TARGET) as reader:
                records = iter(reader.records(EVERYTHING))
                assert next(records).file_name == "0.jpg"
                (late,) = await journal.admit(RUN, [candidate("late.jpg")])
                assert isinstance(late, Claimed)
                assert len(list(records)) == 999

    def test_damage_that_is_met_later(self, path: Path) -> None:
        pages = path.stat().st_size // 4096
        with path.open("r+b") as file:
            for page in range(1, pages):
                file.seek(page * 4096)
                file.write(b"\xff" * 4096)
        with pytest.raises(JournalCorrupt, match="damaged"):
            read(path)

    @pytest.mark.parametrize("target", [TARGET, None])
    @pytest.mark.parametrize("state", [State.PENDING, State.CLAIMED, State.STORED, State.PARKED, State.FAILED])
    def test_no_short_list_reads_the_whole_journal(self, path: Path, target: Target | None, state: State) -> None:
        statements: list[str] = []
        with SqliteReader.open(path, target) as reader:
            reader._connection.set_trace_callback(statements.append)
            list(reader.records(Selection(states=frozenset({state}))))
            reader.oldest_pending()
            reader._connection.set_trace_callback(None)
            for statement in statements:
                plan = [row[3] for row in reader._connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
                assert any("jobs_unsettled" in step or "jobs_not_added" in step for step in plan), plan

    @pytest.mark.parametrize("target", [TARGET, None])
    def test_packs_are_counted_from_the_indexes(self, path: Path, target: Target | None) -> None:
        statements: list[str] = []
        with SqliteReader.open(path, target) as reader:
            reader._connection.set_trace_callback(statements.append)
            reader.packs()
            reader._connection.set_trace_callback(None)
            (statement,) = statements
            plan = " ".join(row[3] for row in reader._connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        assert "COVERING INDEX jobs_settled" in plan
        assert "INDEX jobs_unsettled" in plan


class TestRetry:
    async def test_failed_jobs_start_again(self, path: Path) -> None:
        with SqliteEditor.open(path, TARGET) as editor:
            assert editor.retry(EVERYTHING) == 2
            assert editor.retry(EVERYTHING) == 0
        (record,) = [record for record in read(path) if record.file_name == "failed.jpg" and record.pack_id == PACK]
        assert (record.state, record.attempts, record.reason, record.settled_at) == (State.PENDING, 0, None, None)
        assert states_of(path)[f"{PACK}/rejected.jpg"] is State.REJECTED

    @pytest.mark.parametrize(
        ("selection", "count"),
        [
            (Selection(states=frozenset({State.REJECTED})), 1),
            (Selection(states=frozenset({State.REJECTED, State.FAILED})), 3),
            (Selection(states=frozenset({State.ADDED, State.PENDING, State.PARKED})), 0),
            (Selection(states=frozenset()), 0),
            (Selection(reason="http_500"), 2),
            (Selection(reason="http_502"), 0),
            (Selection(pack_id=OTHER_PACK), 1),
            (Selection(states=frozenset({State.REJECTED}), reason="not_an_image", pack_id=PACK), 1),
        ],
    )
    def test_selections(self, path: Path, selection: Selection, count: int) -> None:
        before = states_of(path)
        with SqliteEditor.open(path, TARGET) as editor:
            assert editor.retry(selection) == count
        after = states_of(path)
        assert sum(before[name] is not after[name] for name in before) == count

    async def test_what_has_a_url_starts_at_the_lookup_and_keeps_its_debts(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            record = await job_in(journal, State.PARKED, "a.jpg")
            for change in (
                Resent(job_id=record.job_id),
                Spent(job_id=record.job_id, attempts=8, reason="http_500"),
                Parked(job_id=record.job_id, reason="http_500"),
                Settled(job_id=record.job_id, outcome=Outcome.FAILED, reason="http_500"),
            ):
                failed = await journal.submit(change)
        with SqliteEditor.open(path, TARGET) as editor:
            assert editor.retry(EVERYTHING) == 1
        (after,) = read(path)
        assert (after.state, after.attempts) == (State.PARKED, 0)
        assert (after.url, after.adds_sent, after.audit_is_open) == (failed.url, 2, True)

    async def test_a_quarantined_job_is_woken_by_a_person(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            record = await job_in(journal, State.CLAIMED, "a.jpg")
            await journal.submit(changes.Tested(job_id=record.job_id))
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RunId("run-2"), key_id="key-1", pid=1)
        with SqliteEditor.open(path, TARGET) as editor:
            assert editor.retry(Selection(reason=QUARANTINED)) == 1
        (after,) = read(path)
        assert (after.state, after.deaths, after.is_alone, after.detail) == (State.PENDING, 0, False, None)

    async def test_more_than_one_batch_in_one_transaction(self, tmp_path: Path) -> None:
        path, count = tmp_path / "journal.db", 2 * BATCH + 1
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            for admission in await journal.admit(RUN, [candidate(f"{number}.jpg") for number in range(count)]):
                last = journal.submit(Settled(job_id=admission.record.job_id, outcome=Outcome.FAILED, reason="x"))
            await last
        with SqliteEditor.open(path, TARGET) as editor, SqliteReader.open(path, TARGET) as reader:
            failed, seen = Selection(states=frozenset({State.FAILED})), list[int]()

            def look(statement: str) -> None:
                if statement.startswith("SELECT"):
                    seen.append(len(list(reader.records(failed))))

            editor._connection.set_trace_callback(look)
            assert editor.retry(EVERYTHING) == count
        assert seen == [count] * 4  # three batches and the end, and never a part of them
        assert {record.state for record in read(path)} == {State.PENDING}


class TestForget:
    def test_pending_jobs_go_and_what_may_have_been_sent_stays(self, path: Path) -> None:
        with SqliteEditor.open(path, TARGET) as editor:
            assert editor.forget(EVERYTHING) == (2, 3)
            assert editor.forget(EVERYTHING) == (0, 3)
        assert f"{PACK}/pending.jpg" not in states_of(path)
        assert len(read(path)) == 8

    @pytest.mark.parametrize(
        ("selection", "gone", "kept"),
        [
            (Selection(pack_id=OTHER_PACK), 1, 1),
            (Selection(states=frozenset({State.PENDING})), 2, 0),
            (Selection(states=frozenset({State.PARKED})), 0, 2),
            (Selection(states=frozenset({State.ADDED, State.FAILED})), 0, 0),
            (Selection(reason="timeout"), 0, 2),
            (Selection(reason="no such reason"), 0, 0),
        ],
    )
    def test_selections(self, path: Path, selection: Selection, gone: int, kept: int) -> None:
        with SqliteEditor.open(path, TARGET) as editor:
            assert editor.forget(selection) == (gone, kept)
        assert len(read(path)) == 10 - gone

    async def test_a_dead_runs_claims_go_too_and_may_come_again(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            await job_in(journal, State.CLAIMED, "a.jpg")
        with SqliteEditor.open(path, TARGET) as editor:
            assert editor.forget(EVERYTHING) == (1, 0)
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RunId("run-2"), key_id="key-1", pid=1)
            (again,) = await journal.admit(RunId("run-2"), [candidate("a.jpg")])
            assert isinstance(again, Claimed)
            assert list(await journal.resume(RUN, after=JobId(0), limit=9)) == []


class TestEditor:
    def test_there_must_be_a_journal(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no journal at"), SqliteEditor.open(tmp_path / "no.db", TARGET):
            pytest.fail("it must not be entered")
        assert list(tmp_path.iterdir()) == []

    async def test_not_beside_a_run(self, path: Path) -> None:
        async with SqliteJournal.open(path, TARGET):
            with pytest.raises(JournalInUse), SqliteEditor.open(path, TARGET):
                pytest.fail("it must not be entered")

    def test_other_targets_are_left_alone(self, path: Path) -> None:
        before = states_of(path)
        with SqliteEditor.open(path, Target("https://other.example")) as editor:
            assert editor.retry(EVERYTHING) == 0
            assert editor.forget(EVERYTHING) == (0, 0)
        assert states_of(path) == before
        with SqliteEditor.open(path, None) as editor:
            assert editor.retry(EVERYTHING) == 2

    async def test_a_disk_that_fills_up_changes_nothing(self, small_disk: Path) -> None:
        path, filling, count = small_disk / "journal.db", small_disk / "filling", 300
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            for admission in await journal.admit(RUN, [candidate(f"{number}.jpg") for number in range(count)]):
                last = journal.submit(Settled(job_id=admission.record.job_id, outcome=Outcome.FAILED, reason="x"))
            await last
        before = states_of(path)

        def fill_up_and_retry() -> None:
            with SqliteEditor.open(path, TARGET) as editor:
                with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                    while file.write(bytes(4096)):
                        pass
                editor.retry(EVERYTHING)

        with pytest.raises(MachineError, match="can't be used"):
            fill_up_and_retry()
        filling.unlink()
        assert states_of(path) == before
        with SqliteEditor.open(path, TARGET) as editor:
            assert editor.retry(EVERYTHING) == count

    def test_a_reader_can_not_change_anything(self, path: Path) -> None:
        with SqliteReader.open(path, TARGET) as reader, pytest.raises(sqlite3.OperationalError):
            reader._connection.execute("DELETE FROM jobs")
