"""What a SQLite journal promises when the process is killed or the disk is full."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import TYPE_CHECKING

import pytest
from journal_samples import PACK, RUN, SUMMARY, TARGET, candidate, changes_to, child, job_in, line_of, stored

from ingest.errors import MachineError
from ingest.journal.records import Claimed, Known, Selection
from ingest.journal.sqlite import SqliteJournal
from ingest.journal.tending import SqliteReader
from ingest.model import JobId, RunId
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from ingest.journal.sqlite import SqliteJournal
from journal_samples import RUN, TARGET, candidate, stored, settled
from ingest.model import Outcome

async def work(journal, numbers):
    for number in numbers:
        (admission,) = await journal.admit(RUN, [candidate(f"{number}.jpg")])
        record = await journal.submit(stored(admission.record))
        print("stored", record.job_id, flush=True)
        if number % 2:
            record = await journal.submit(settled(record, Outcome.ADDED))
            print("added", record.job_id, flush=True)

async def main():
    async with SqliteJournal.open(Path(sys.argv[1]), TARGET) as journal:
        await journal.begin(RUN, key_id="key-1", pid=1)
        numbers = itertools.count()
        await asyncio.gather(*(work(journal, numbers) for _ in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 20, 500])
async def test_what_was_told_survives_sigkill(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "journal.db"
    told: dict[JobId, str] = {}
    with child(WRITER, path) as writer:
        for _ in range(lines):
            state, number = line_of(writer).split()
            told[JobId(int(number))] = state
        writer.kill()
        assert writer.stdout is not None
        for line in writer.stdout:
            if line.endswith("\n"):
                state, number = line.split()
                told[JobId(int(number))] = state
        writer.wait()
    with SqliteReader.open(path, TARGET) as reader:
        kept = {record.job_id: record for record in reader.records(Selection())}
        (run,) = reader.runs(5)
    assert (run.run_id, run.ended_at, run.summary) == (RUN, None, None)
    for number, state in told.items():
        # More than was told may be there, less may not.
        assert kept[number].state in ({State.ADDED} if state == "added" else {State.STORED, State.ADDED})
        assert kept[number].url is not None
    async with SqliteJournal.open(path, TARGET) as journal:
        opening = await journal.begin(RunId("run-2"), key_id="key-1", pid=2)
    expected = {number for number, record in kept.items() if record.state is State.STORED}
    assert {record.job_id for record in opening.parked} == expected
    assert all(record.reason == "process_died" for record in opening.parked)


async def test_a_process_that_only_opened_it_may_die_too(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    script = WRITER.replace("numbers = itertools.count()", "print('open', flush=True); await asyncio.Event().wait()")
    with child(script, path) as writer:
        assert line_of(writer) == "open"
        writer.kill()
        writer.wait()
    async with SqliteJournal.open(path, TARGET) as journal:
        opening = await journal.begin(RunId("run-2"), key_id="key-2", pid=2)
    assert (list(opening.parked), opening.packs) == ([], {})


async def test_a_full_disk_is_a_clean_end_and_room_mends_it(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    told: list[JobId] = []
    async with SqliteJournal.open(path, TARGET) as journal:
        await journal.begin(RUN, key_id="key-1", pid=1)
        # Room is taken so that some hundred records fit, whatever the log needs.
        with (small_disk / "filling").open("wb") as filling:
            filling.write(bytes(shutil.disk_usage(small_disk).free - 500_000))

        async def work(start: int) -> None:
            for number in range(start, start + 10_000):
                record = await job_in(journal, State.ADDED, f"{number}.jpg")
                told.append(record.job_id)

        results = await asyncio.gather(*(work(number * 10_000) for number in range(4)), return_exceptions=True)
        for result in results:
            assert isinstance(result, MachineError)
            assert result.exit_code == 74
        with pytest.raises(MachineError):
            await journal.end(RUN, SUMMARY)
    assert told
    (small_disk / "filling").unlink()
    with SqliteReader.open(path, TARGET) as reader:
        states = {record.job_id: record.state for record in reader.records(Selection())}
    assert {states[number] for number in told} == {State.ADDED}
    async with SqliteJournal.open(path, TARGET) as journal:
        await journal.begin(RunId("run-2"), key_id="key-1", pid=1)
        admissions = await journal.admit(RunId("run-2"), [candidate("0.jpg"), candidate("new.jpg")])
        assert isinstance(admissions[0], Known)
        assert isinstance(admissions[1], Claimed)
        assert (await journal.submit(stored(admissions[1].record))).state is State.STORED


async def test_a_file_that_may_grow_no_more(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with SqliteJournal.open(path, TARGET) as journal:
        await journal.begin(RUN, key_id="key-1", pid=1)
        first = await job_in(journal, State.PARKED, "first.jpg")
        await journal._commits.submit(
            lambda connection: connection.execute(
                f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}"
            ).fetchone()
        )
        with pytest.raises(MachineError, match="full"):
            await journal.admit(RUN, [candidate(f"{number}.jpg") for number in range(2_000)])
        with pytest.raises(MachineError, match="full"):
            await journal.submit(changes_to(first, State.REJECTED)[0])
        with pytest.raises(MachineError):
            await journal.find_equal(first, stored(first).inspection.fingerprint)
    async with SqliteJournal.open(path, TARGET) as journal:
        opening = await journal.begin(RunId("run-2"), key_id="key-1", pid=1)
        assert list(opening.parked) == [first]
        assert list(await journal.resume(RunId("run-2"), after=JobId(0), limit=5)) == []
        assert (
            len(await journal.admit(RunId("run-2"), [candidate(f"{number}.jpg") for number in range(2_000)])) == 2_000
        )


async def test_targets_share_a_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    other = type(TARGET)("https://other.example")
    async with SqliteJournal.open(path, TARGET) as journal:
        await journal.begin(RUN, key_id="key-1", pid=1)
        await job_in(journal, State.ADDED, "added.jpg")
        first = await job_in(journal, State.STORED, "a.jpg")
    async with SqliteJournal.open(path, other) as journal:
        opening = await journal.begin(RunId("run-2"), key_id="key-2", pid=1)
        assert (list(opening.parked), opening.packs) == ([], {})
        (admission,) = await journal.admit(RunId("run-2"), [candidate("a.jpg")])
        assert isinstance(admission, Claimed)
        assert await journal.find_equal(admission.record, stored(first).inspection.fingerprint) is None
        await journal.end(RunId("run-2"), SUMMARY)
    async with SqliteJournal.open(path, TARGET) as journal:
        opening = await journal.begin(RunId("run-3"), key_id="key-1", pid=1)
        assert [record.job_id for record in opening.parked] == [first.job_id]
        assert opening.packs == {PACK: "key-1"}  # the second key has it at the other target


async def test_an_end_without_end_loses_nothing_that_was_submitted(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with contextlib.suppress(LookupError):
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            (admission,) = await journal.admit(RUN, [candidate("a.jpg")])
            journal.submit(stored(admission.record))
            raise LookupError
    with SqliteReader.open(path, TARGET) as reader:
        assert [record.state for record in reader.records(Selection())] == [State.STORED]


async def test_no_statement_of_a_run_reads_the_whole_journal(tmp_path: Path) -> None:
    statements: list[str] = []
    async with SqliteJournal.open(tmp_path / "journal.db", TARGET) as journal:
        await journal.begin(RUN, key_id="key-1", pid=1)
        record = await job_in(journal, State.PENDING, "a.jpg")
        await journal._commits.submit(lambda connection: connection.set_trace_callback(statements.append))
        await journal.resume(RUN, after=JobId(0), limit=5)
        await journal.find_equal(record, stored(record).inspection.fingerprint)
        await job_in(journal, State.ADDED, "b.jpg")
        await journal.begin(RunId("run-2"), key_id="key-1", pid=1)
        await journal.end(RunId("run-2"), SUMMARY)
        await journal._commits.submit(lambda connection: connection.set_trace_callback(None))

        def plans(connection: sqlite3.Connection) -> dict[str, list[str]]:
            read = [statement for statement in statements if statement.startswith("SELECT job_id")]
            return {s: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {s}")] for s in read}

        found = await journal._commits.submit(plans)
    assert len(found) > 6
    narrow = ("PRIMARY KEY", "jobs_unsettled", "jobs_owing_audits", "jobs_by_fingerprint", "AND key=?")
    for statement, plan in found.items():
        assert all("TEMP B-TREE" in step or any(word in step for word in narrow) for step in plan), (statement, plan)
