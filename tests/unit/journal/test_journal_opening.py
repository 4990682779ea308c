"""The journal's mark: that a journal which lost commits is told from one that ended uncleanly."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from journal_samples import RUN, TARGET, job_in

from ingest.errors import MachineError, UsageError
from ingest.journal import database, opening
from ingest.journal.lock import lock_path, writer_lock
from ingest.journal.mark import Mark, is_behind
from ingest.journal.opening import opened
from ingest.journal.records import Selection
from ingest.journal.sqlite import SqliteJournal
from ingest.journal.tending import SqliteEditor, SqliteReader
from ingest.model import RunId
from ingest.policy.lifecycle import State

MANY = 60
"""Jobs whose commits bring the log into the file several times, where that is done every 20 pages."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "journal #1 %41?é.db"


def mark(path: Path) -> Mark:
    with database.untouched(path) as (connection, _):
        return opening._read(connection)


def told(path: Path) -> Mark:
    return msgspec.json.decode(lock_path(path).read_bytes(), type=Mark)


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}


async def add(path: Path, *names: str, kill_into: Path | None = None) -> None:
    """Add these; `kill_into` gets what a kill after the last commit would leave."""
    async with SqliteJournal.open(path, TARGET) as journal:
        await journal.begin(RunId(f"run {names}"), key_id="key-1", pid=1)
        for name in names:
            await job_in(journal, State.ADDED, name)
        if kill_into is not None:
            for suffix in ("", "-wal", ".lock"):
                shutil.copyfile(f"{path}{suffix}", f"{kill_into}{suffix}")


def added(path: Path) -> list[str]:
    with SqliteReader.open(path, TARGET) as reader:
        return [record.file_name for record in reader.records(Selection(states=frozenset({State.ADDED})))]


async def is_refused(path: Path) -> None:
    """Again and again, by every writer, and nothing of it is changed, but for who had the lock last."""
    before, last = contents(path), told(path)
    for _ in range(2):
        with pytest.raises(UsageError, match="older than when it was last used") as raised:
            async with SqliteJournal.open(path, TARGET):
                pytest.fail("it must not be entered")
        assert (raised.value.exit_code, raised.value.code) == (2, "journal_older")
        assert str(lock_path(path)) in raised.value.hint
        with pytest.raises(UsageError), SqliteEditor.open(path, TARGET):
            pytest.fail("it must not be entered")
        with contextlib.suppress(UsageError), SqliteReader.open(path, TARGET):
            pass
    assert told(path) == last
    after = contents(path)
    for name in before:
        if not name.endswith((".lock", "-shm")):
            assert after[name] == before[name], name


@pytest.mark.parametrize(
    ("found", "last", "expected"),
    [
        (None, None, False),
        (("a", 1), None, False),
        (None, ("a", 1), True),
        (("a", 1), ("a", 2), True),
        (("a", 2), ("a", 2), False),
        (("a", 3), ("a", 2), False),
        (("b", 1), ("a", 2), False),
    ],
)
def test_which_is_behind(found: tuple[str, int] | None, last: tuple[str, int] | None, expected: bool) -> None:
    made = [None if of is None else Mark(journal_id=of[0], epoch=of[1]) for of in (found, last)]
    assert is_behind(made[0], made[1]) is expected


class TestTheMark:
    def test_every_opening_raises_it_and_tells_it(self, path: Path) -> None:
        marks = []
        for _ in range(3):
            with opened(path) as files:
                marks.append(opening._read(files.connection))
                assert told(path) == marks[-1]
        assert len({mark.journal_id for mark in marks}) == 1
        assert [mark.epoch for mark in marks] == [1, 2, 3]

    def test_two_journals_have_two(self, path: Path, tmp_path: Path) -> None:
        for each in (path, tmp_path / "other.db"):
            with opened(each):
                pass
        assert mark(path).journal_id != mark(tmp_path / "other.db").journal_id

    async def test_what_changes_something_raises_it_and_what_reads_does_not(self, path: Path) -> None:
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            before = told(path)
            await journal.packs()
            assert told(path) == before
            await job_in(journal, State.PENDING, "a.jpg")
            after = told(path)
            assert after.epoch > before.epoch
        assert mark(path) == after

    async def test_one_that_was_made_before_marks_were_gets_one(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
            database.connect(path).close()
        lock_path(path).write_text('{"pid": 1, "since": 1.5}')
        await add(path, "a.jpg")
        assert told(path) == mark(path)

    def test_the_file_alone_is_a_journal_as_soon_as_it_is_made(self, path: Path, tmp_path: Path) -> None:
        alone = tmp_path / "alone.db"
        with opened(path):
            shutil.copyfile(path, alone)
        assert mark(alone).epoch == 0


class TestRefused:
    async def test_a_file_that_was_emptied(self, path: Path) -> None:
        await add(path, "a.jpg")
        os.truncate(path, 0)
        await is_refused(path)
        lock_path(path).unlink()
        await add(path, "b.jpg")
        assert added(path) == ["b.jpg"]

    async def test_a_file_that_was_emptied_beside_its_log(self, path: Path, tmp_path: Path) -> None:
        killed = path.parent / "killed.db"
        await add(tmp_path / "source.db", "a.jpg", kill_into=killed)
        whole = killed.read_bytes()
        os.truncate(killed, 0)
        await is_refused(killed)
        killed.write_bytes(whole)
        await add(killed, "b.jpg")
        assert added(killed) == ["a.jpg", "b.jpg"]

    async def test_a_file_that_is_missing_beside_its_log(self, path: Path, tmp_path: Path) -> None:
        killed = path.parent / "killed.db"
        await add(tmp_path / "source.db", "a.jpg", kill_into=killed)
        whole = killed.read_bytes()
        killed.unlink()
        for _ in range(2):
            with pytest.raises(UsageError, match="its -wal file was removed"):
                async with SqliteJournal.open(killed, TARGET):
                    pytest.fail("it must not be entered")
        killed.write_bytes(whole)
        await add(killed, "b.jpg")
        assert added(killed) == ["a.jpg", "b.jpg"]

    @pytest.mark.parametrize("often", [1000, 20], ids=["whole", "its last part"])
    async def test_a_log_that_was_lost(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, often: int
    ) -> None:
        killed = path.parent / "killed.db"
        with monkeypatch.context() as patch:
            migrate = database._migrate

            def migrated(connection: sqlite3.Connection, version: int) -> None:
                migrate(connection, version)
                connection.execute(f"PRAGMA wal_autocheckpoint={often}")

            patch.setattr(database, "_migrate", migrated)
            await add(tmp_path / "source.db", *(f"{n}.jpg" for n in range(MANY)), kill_into=killed)
        log = Path(f"{killed}-wal")
        whole = log.read_bytes()
        log.unlink()
        await is_refused(killed)
        log.write_bytes(whole)
        await add(killed, "b.jpg")
        assert len(added(killed)) == MANY + 1

    async def test_a_log_that_was_cut_short(self, path: Path, tmp_path: Path) -> None:
        killed = path.parent / "killed.db"
        await add(tmp_path / "source.db", "a.jpg", "b.jpg", kill_into=killed)
        log = Path(f"{killed}-wal")
        whole = log.read_bytes()
        os.truncate(log, len(whole) // 2)
        await is_refused(killed)
        log.write_bytes(whole)
        await add(killed, "c.jpg")
        assert added(killed) == ["a.jpg", "b.jpg", "c.jpg"]

    async def test_an_older_copy(self, path: Path, tmp_path: Path) -> None:
        await add(path, "a.jpg")
        shutil.copyfile(path, tmp_path / "copy")
        await add(path, "b.jpg")
        newer = path.read_bytes()
        shutil.copyfile(tmp_path / "copy", path)
        await is_refused(path)
        path.write_bytes(newer)
        await add(path, "c.jpg")
        assert added(path) == ["a.jpg", "b.jpg", "c.jpg"]

    async def test_a_copy_from_the_middle_of_the_last_run(self, path: Path) -> None:
        killed = path.parent / "killed.db"
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            await job_in(journal, State.ADDED, "a.jpg")
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{killed}{suffix}")
            await job_in(journal, State.ADDED, "b.jpg")
        shutil.copyfile(lock_path(path), lock_path(killed))
        await is_refused(killed)
        lock_path(killed).unlink()
        await add(killed, "c.jpg")
        assert added(killed) == ["a.jpg", "c.jpg"]

    async def test_a_copy_from_before_marks_were(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        await add(path, "a.jpg")
        path.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
            database.connect(path).close()
        await is_refused(path)


class TestNotRefused:
    async def test_another_journal_in_its_place(self, path: Path, tmp_path: Path) -> None:
        await add(path, "a.jpg", "b.jpg")
        await add(tmp_path / "other.db", "c.jpg")
        shutil.copyfile(tmp_path / "other.db", path)
        await add(path, "d.jpg")
        assert added(path) == ["c.jpg", "d.jpg"]
        assert told(path) == mark(path)

    async def test_no_file_any_more(self, path: Path) -> None:
        await add(path, "a.jpg")
        path.unlink()
        await add(path, "b.jpg")
        assert added(path) == ["b.jpg"]

    async def test_a_file_that_a_killed_start_left_empty_where_another_had_been(self, path: Path) -> None:
        await add(path, "a.jpg")
        path.unlink()
        with writer_lock(path) as lock:
            assert lock.last is None
            path.touch()
        await add(path, "b.jpg")
        assert added(path) == ["b.jpg"]

    @pytest.mark.parametrize("keep", [slice(0), slice(40), slice(-1), slice(1, None)], ids=["none", "cut", "-1", "1-"])
    async def test_a_lock_that_is_torn(self, path: Path, keep: slice) -> None:
        await add(path, "a.jpg")
        lock_path(path).write_bytes(lock_path(path).read_bytes()[keep])
        shutil.copyfile(path, f"{path}.copy")
        await add(path, "b.jpg")
        assert added(path) == ["a.jpg", "b.jpg"]

    async def test_a_lock_that_is_older(self, path: Path) -> None:
        await add(path, "a.jpg")
        older = lock_path(path).read_bytes()
        await add(path, "b.jpg")
        lock_path(path).write_bytes(older)
        await add(path, "c.jpg")
        assert added(path) == ["a.jpg", "b.jpg", "c.jpg"]

    async def test_a_kill_between_the_commit_and_the_lock(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed = path.parent / "killed.db"
        await add(path, "a.jpg")
        with monkeypatch.context() as patch:
            patch.setattr("ingest.journal.lock.WriterLock.tell", lambda *_: None)
            await add(path, "b.jpg", kill_into=killed)
        assert told(killed).epoch < mark(killed).epoch
        await add(killed, "c.jpg")
        assert added(killed) == ["a.jpg", "b.jpg", "c.jpg"]

    @pytest.mark.parametrize("statement", ["SELECT 1", "PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM"])
    async def test_a_person_that_opens_it_after_a_kill(self, path: Path, tmp_path: Path, statement: str) -> None:
        killed = path.parent / "killed.db"
        await add(tmp_path / "source.db", "a.jpg", kill_into=killed)
        with contextlib.closing(sqlite3.connect(killed)) as connection:
            connection.execute("SELECT count(*) FROM jobs").fetchone()
            connection.execute(statement).fetchone()
        assert not Path(f"{killed}-wal").exists()
        await add(killed, "b.jpg")
        assert added(killed) == ["a.jpg", "b.jpg"]


class TestUnderARun:
    """What is done to the log while it is written."""

    async def test_cut_short(self, path: Path) -> None:
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            await job_in(journal, State.ADDED, "a.jpg")
            log = Path(f"{path}-wal")
            os.truncate(log, log.stat().st_size // 2)
            with pytest.raises(MachineError, match="cut short") as raised:
                await job_in(journal, State.ADDED, "b.jpg")
            assert (raised.value.exit_code, raised.value.code) == (74, "journal_gone")
        await is_refused(path)

    async def test_the_file_itself_cut_short(self, path: Path, tmp_path: Path) -> None:
        await add(path, *(f"{number}.jpg" for number in range(MANY)))  # it is in the file by now, and not in the log
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            os.truncate(path, 4096)
            with pytest.raises(MachineError, match="cut short") as raised:
                await job_in(journal, State.ADDED, "b.jpg")
            assert (raised.value.exit_code, raised.value.code) == (74, "journal_gone")

    async def test_emptied(self, path: Path) -> None:
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            await job_in(journal, State.ADDED, "a.jpg")
            os.truncate(f"{path}-wal", 0)
            with pytest.raises(MachineError) as raised:
                await job_in(journal, State.ADDED, "b.jpg")
            assert raised.value.code == "journal_gone"

    @pytest.mark.parametrize("kind", ["PASSIVE", "RESTART", "TRUNCATE"])
    async def test_brought_into_the_file_by_a_person(self, path: Path, kind: str) -> None:
        async with SqliteJournal.open(path, TARGET) as journal:
            await journal.begin(RUN, key_id="key-1", pid=1)
            names = [f"{number}.jpg" for number in range(6)]
            for name in names:
                await job_in(journal, State.ADDED, name)
                with contextlib.closing(sqlite3.connect(path)) as connection:
                    busy, *_ = connection.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
                assert not busy
        assert added(path) == names
        assert told(path) == mark(path)


def test_a_file_with_two_names(path: Path) -> None:
    with opened(path):
        pass
    other = path.with_name("other.db")
    os.link(path, other)
    for name in (path, other):
        with pytest.raises(UsageError, match="2 names") as raised, opened(name):
            pytest.fail("it must not be entered")
        assert (raised.value.exit_code, raised.value.code) == (2, "bad_journal_path")
        assert "symbolic links" in raised.value.hint
    other.unlink()
    with opened(path):
        pass
