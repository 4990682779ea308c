"""The SQLite file: made, migrated, refused, and read beside a writer."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from ingest.errors import JournalCorrupt, JournalInUse, JournalNewer, MachineError, StopError, UsageError
from ingest.journal import database
from ingest.journal.database import (
    APPLICATION_ID,
    MIGRATIONS,
    NETWORK_FILE_SYSTEMS,
    connect,
    connect_readonly,
    file_system,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Closable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal #1 %41?é.db"


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def make(path: Path) -> None:
    with contextlib.closing(connect(path)) as connection:
        connection.execute("INSERT INTO targets (base_url) VALUES ('https://api.example')")


def targets(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT base_url FROM targets ORDER BY 1")]


@contextlib.contextmanager
def edited(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


class TestConnect:
    def test_a_fresh_file(self, path: Path) -> None:
        with contextlib.closing(connect(path)) as connection:
            assert pragma(connection, "application_id") == APPLICATION_ID
            assert pragma(connection, "user_version") == len(MIGRATIONS)
            assert pragma(connection, "journal_mode") == "wal"
            assert pragma(connection, "synchronous") == 2  # FULL
            assert pragma(connection, "fullfsync") == 1
            assert pragma(connection, "checkpoint_fullfsync") == 1
            assert pragma(connection, "foreign_keys") == 1

    def test_an_empty_file_is_a_first_start_that_was_killed(self, path: Path) -> None:
        path.touch()
        make(path)
        with contextlib.closing(connect(path)) as connection:
            assert targets(connection) == ["https://api.example"]

    def test_again_changes_nothing(self, path: Path) -> None:
        for _ in range(3):
            with contextlib.closing(connect(path)) as connection:
                connection.execute("INSERT INTO targets (base_url) VALUES ('https://a') ON CONFLICT DO NOTHING")
                assert targets(connection) == ["https://a"]

    def test_steps_that_are_missing_are_made(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(path)
        step = tmp_path / "next.sql"
        step.write_text("ALTER TABLE targets ADD COLUMN colour TEXT DEFAULT 'red';")
        monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, str(step)))
        for file, expected in ((path, [("https://api.example", "red")]), (tmp_path / "fresh.db", [])):
            for _ in range(2):  # the second time none is missing
                with contextlib.closing(connect(file)) as connection:
                    assert connection.execute("SELECT base_url, colour FROM targets").fetchall() == expected
                    assert pragma(connection, "user_version") == len(MIGRATIONS) + 1

    def test_a_step_that_fails_leaves_the_version_before_it(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(path)
        # The first step once more as the last one: its tables are there already.
        with monkeypatch.context() as patch:
            patch.setattr(database, "MIGRATIONS", (*MIGRATIONS, "0001.sql"))
            with pytest.raises(StopError, match="already exists"):
                connect(path)
        with contextlib.closing(connect(path)) as connection:
            assert pragma(connection, "user_version") == len(MIGRATIONS)
            assert targets(connection) == ["https://api.example"]

    def test_a_newer_version(self, path: Path) -> None:
        make(path)
        with edited(path) as connection:
            connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
        for opening in (connect, connect_readonly):
            with pytest.raises(JournalNewer, match="newer version") as raised:
                opening(path)
            assert raised.value.exit_code == 2

    def test_garbage(self, path: Path) -> None:
        path.write_bytes(b"no database at all, but long enough to hold a header" * 100)
        before = path.read_bytes()
        for opening in (connect, connect_readonly):
            with pytest.raises(JournalCorrupt, match="no journal") as raised:
                opening(path)
            assert raised.value.exit_code == 2
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "script",
        [
            "CREATE TABLE songs (title TEXT)",
            "PRAGMA application_id=1",
            "PRAGMA user_version=1",
            f"PRAGMA application_id={APPLICATION_ID + 1}; CREATE TABLE jobs (job_id INTEGER)",
        ],
    )
    def test_another_programs_database_is_refused_and_left_as_it_was(self, path: Path, script: str) -> None:
        with edited(path) as connection:
            connection.executescript(script)
        before = path.read_bytes()
        for opening in (connect, connect_readonly):
            with pytest.raises(JournalCorrupt, match="another program's"):
                opening(path)
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == [path.name]

    def test_a_file_that_was_cut_short(self, path: Path) -> None:
        make(path)
        os.truncate(path, path.stat().st_size - 3 * 4096)
        for opening in (connect, connect_readonly):
            with pytest.raises(JournalCorrupt, match="damaged"):
                opening(path)

    def test_a_directory_in_its_place(self, path: Path) -> None:
        path.mkdir()
        for opening in (connect, connect_readonly):
            with pytest.raises(UsageError, match="can't be opened"):
                opening(path)

    def test_a_network_file_system(self, path: Path, tmp_path: Path) -> None:
        mounts = tmp_path / "mountinfo"
        mounts.write_text("1 0 0:1 / / rw - nfs4 server:/export rw\n")
        with pytest.raises(UsageError, match=r"network file system \(nfs4\)") as raised:
            connect(path, mounts=mounts)
        assert "--journal" in raised.value.hint
        assert not path.exists()

    def test_a_read_only_place(self, make_unwritable: Closable) -> None:
        with pytest.raises(MachineError, match="can't be opened"):
            connect(make_unwritable() / "journal.db")

    def test_a_foreign_program_that_keeps_it_locked(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(path)
        monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.0)
        with edited(path) as foreign:
            foreign.execute("PRAGMA locking_mode=EXCLUSIVE")
            foreign.execute("BEGIN EXCLUSIVE")
            with pytest.raises(JournalInUse, match="another program"):
                connect(path)

    def test_a_disk_with_no_room_for_it(self, small_disk: Path) -> None:
        filling = small_disk / "filling"
        with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(MachineError, match="can't be used") as raised:
            connect(small_disk / "journal.db")
        assert raised.value.exit_code == 74
        filling.unlink()
        make(small_disk / "journal.db")


class TestConnectReadonly:
    def test_no_journal(self, path: Path) -> None:
        with pytest.raises(UsageError, match="no journal at") as raised:
            connect_readonly(path)
        assert raised.value.code == "no_journal"
        assert not path.exists()

    def test_an_empty_file_holds_no_journal_yet(self, path: Path) -> None:
        path.touch()
        with pytest.raises(UsageError) as raised:
            connect_readonly(path)
        assert raised.value.code == "no_journal"

    def test_beside_a_writer(self, path: Path) -> None:
        with contextlib.closing(connect(path)) as writer, contextlib.closing(connect_readonly(path)) as reader:
            assert targets(reader) == []
            writer.execute("INSERT INTO targets (base_url) VALUES ('https://a')")
            assert targets(reader) == ["https://a"]
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("INSERT INTO targets (base_url) VALUES ('https://b')")
            assert targets(reader) == ["https://a"]
            writer.execute("COMMIT")
            assert targets(reader) == ["https://a", "https://b"]

    def test_a_slow_reader_does_not_stop_the_writer(self, path: Path) -> None:
        with contextlib.closing(connect(path)) as writer, contextlib.closing(connect_readonly(path)) as reader:
            writer.executemany("INSERT INTO targets (base_url) VALUES (?)", [(f"https://{n}",) for n in range(100)])
            rows = reader.execute("SELECT base_url FROM targets ORDER BY target_id")
            assert next(rows) == ("https://0",)
            writer.execute("DELETE FROM targets")
            assert len(list(rows)) == 99
            assert targets(reader) == []

    def test_it_can_not_write(self, path: Path) -> None:
        make(path)
        with contextlib.closing(connect_readonly(path)) as reader, pytest.raises(sqlite3.OperationalError):
            reader.execute("DELETE FROM targets")

    def test_what_only_the_log_holds_after_a_crash(self, path: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.db"
        with contextlib.closing(connect(path)) as writer:
            writer.execute("INSERT INTO targets (base_url) VALUES ('https://a')")
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        with contextlib.closing(connect_readonly(copy)) as reader:
            assert targets(reader) == ["https://a"]

    def test_in_a_directory_that_can_not_be_written(self, make_unwritable: Closable) -> None:
        path = make_unwritable.place / "journal.db"
        make(path)
        make_unwritable()
        with contextlib.closing(connect_readonly(path)) as reader:
            assert targets(reader) == ["https://api.example"]

    def test_a_log_that_can_not_be_read_is_not_passed_over(self, make_unwritable: Closable, tmp_path: Path) -> None:
        path = make_unwritable.place / "journal.db"
        with contextlib.closing(connect(tmp_path / "source.db")) as writer:
            writer.execute("INSERT INTO targets (base_url) VALUES ('https://a')")
            for suffix in ("", "-wal"):
                shutil.copyfile(tmp_path / f"source.db{suffix}", f"{path}{suffix}")
        make_unwritable()
        with pytest.raises(MachineError, match="can't be opened") as raised:
            connect_readonly(path)
        assert raised.value.code == "journal_unwritable"


class TestFileSystem:
    @pytest.fixture
    def mounts(self, tmp_path: Path) -> Path:
        mounts = tmp_path / "mountinfo"
        mounts.write_bytes(
            b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            b"23 22 0:5 / /data rw shared:2 master:3 - xfs /dev/sdb rw\n"
            b"24 22 0:6 / /data/net rw - nfs4 server:/export rw\n"
            b"25 22 0:7 / /with\\040space\\134and rw - cifs //server/share rw\n"
            b"26 22 0:8 / /\xc3\xa9t\xc3\xa9 rw - fuse.sshfs host: rw\n"
            b"27 22 0:9 / /over rw - ext4 /dev/sdc rw\n"
            b"28 22 0:10 / /over rw - tmpfs tmpfs rw\n"
            b"a line of another kind\n"
            b"\n"
        )
        return mounts

    @pytest.mark.parametrize(
        ("place", "kind"),
        [
            ("/", "ext4"),
            ("/nowhere/journal.db", "ext4"),
            ("/data", "xfs"),
            ("/data/a/b", "xfs"),
            ("/data/net", "nfs4"),
            ("/data/net/a", "nfs4"),
            ("/data/network/a", "xfs"),
            ("/database", "ext4"),
            ("/with space\\and/a", "cifs"),
            ("/été/a", "fuse.sshfs"),
            ("/over/a", "tmpfs"),
            ("/data/net/../a", "xfs"),
        ],
    )
    def test_the_nearest_mount_counts(self, mounts: Path, tmp_path: Path, place: str, kind: str) -> None:
        assert file_system(type(tmp_path)(place), mounts=mounts) == kind

    def test_a_link_is_followed(self, mounts: Path, tmp_path: Path) -> None:
        link = tmp_path / "journal.db"
        link.symlink_to("/data/net/journal.db")
        assert file_system(link, mounts=mounts) in NETWORK_FILE_SYSTEMS

    def test_where_the_system_does_not_tell(self, tmp_path: Path) -> None:
        assert file_system(tmp_path, mounts=tmp_path / "missing") == ""

    def test_this_machine(self, small_disk: Path) -> None:
        assert file_system(small_disk / "journal.db") == "tmpfs"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_READONLY, MachineError),
        (sqlite3.SQLITE_READONLY_DIRECTORY, MachineError),
        (sqlite3.SQLITE_CANTOPEN, MachineError),
        (sqlite3.SQLITE_BUSY, JournalInUse),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, JournalInUse),
        (sqlite3.SQLITE_NOTADB, JournalCorrupt),
        (sqlite3.SQLITE_CORRUPT, JournalCorrupt),
        (sqlite3.SQLITE_FULL, MachineError),
        (sqlite3.SQLITE_IOERR_FSYNC, MachineError),
        (None, MachineError),
    ],
)
def test_what_a_failure_means(tmp_path: Path, code: int | None, kind: type[StopError]) -> None:
    error = sqlite3.OperationalError("told")
    if code is not None:
        error.sqlite_errorcode = code
    made = translated(error, tmp_path / "journal.db")
    assert type(made) is kind
    assert "told" in str(made)
    assert made.hint
