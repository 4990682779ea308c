"""The writer's lock: who is kept out, what they are told, and that no end of a process leaves it held."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from journal_samples import TARGET, child, line_of

from ingest.errors import JournalInUse, MachineError, UsageError
from ingest.journal.lock import lock_path, make_directory, writer_lock
from ingest.journal.mark import Mark
from ingest.journal.sqlite import SqliteJournal

if TYPE_CHECKING:
    from conftest import Closable

HOLDER = """
import sys
from pathlib import Path
from ingest.journal.lock import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    before = datetime.now().astimezone()
    with child(HOLDER, path) as holder:
        assert line_of(holder) == "held"
        with pytest.raises(JournalInUse) as raised, writer_lock(path):
            pytest.fail("it must not be entered")
        after = datetime.now().astimezone()
    assert raised.value.exit_code == 75
    assert f"pid {holder.pid} since " in str(raised.value)
    assert any(f"{moment:%H:%M}" in str(raised.value) for moment in (before, after))
    assert str(path) in str(raised.value)


def test_sigkill_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with child(HOLDER, path) as holder:
        assert line_of(holder) == "held"
        holder.kill()
        holder.wait()
        with writer_lock(path):
            assert msgspec.json.decode(lock_path(path).read_bytes())["pid"] == os.getpid()


def test_it_is_free_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with pytest.raises(LookupError), writer_lock(path):
        raise LookupError
    with writer_lock(path):
        pass


def test_once_in_a_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with writer_lock(path), pytest.raises(JournalInUse, match=f"pid {os.getpid()} "), writer_lock(path):
        pytest.fail("it must not be entered")


def test_by_whichever_link_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path, link = tmp_path / "real" / "journal.db", tmp_path / "link.db"
    link.symlink_to(path)
    with writer_lock(path), pytest.raises(JournalInUse), writer_lock(link):
        pytest.fail("it must not be entered")


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}', b"\xff" * 300], ids=["empty", "cut", "other", "long"])
def test_a_holder_that_did_not_say_who_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.db"
    lock_path(path).write_bytes(content)
    with lock_path(path).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(JournalInUse, match="in use by another process"), writer_lock(path):
            pytest.fail("it must not be entered")


def test_one_that_began_on_another_day_is_told_with_its_date(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    since = time.time() - 3 * 86_400
    lock_path(path).write_bytes(msgspec.json.encode({"pid": 12, "since": since}))
    with lock_path(path).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(JournalInUse) as raised, writer_lock(path):
            pytest.fail("it must not be entered")
    assert f"pid 12 since {datetime.fromtimestamp(since).astimezone():%Y-%m-%d %H:%M}" in str(raised.value)


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    lock_path(path).write_text('{"pid": 999999999999, "since": 1000000000000.5, "more": "than is written next"}')
    with writer_lock(path):
        assert msgspec.json.decode(lock_path(path).read_bytes()).keys() == {"pid", "since"}


def test_the_mark_that_it_names_is_kept_until_another_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch()
    first, second = Mark(journal_id="a", epoch=99), Mark(journal_id="b", epoch=1)
    with writer_lock(path) as lock:
        assert lock.last is None
        lock.tell(first)
    with writer_lock(path) as lock:
        assert lock.last == first
        assert msgspec.json.decode(lock_path(path).read_bytes(), type=Mark) == first
        lock.tell(second)
        with pytest.raises(JournalInUse, match=f"pid {os.getpid()} "), writer_lock(path):
            pytest.fail("it must not be entered")
    with writer_lock(path) as lock:
        assert lock.last == second


def test_the_mark_of_a_journal_that_is_no_more_is_forgotten_before_another_is_made(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    lock_path(path).write_bytes(msgspec.json.encode({"pid": 1, "since": 1.5, "journal_id": "a", "epoch": 9}))
    with writer_lock(path) as lock:
        assert lock.last is None
        assert msgspec.json.decode(lock_path(path).read_bytes()).keys() == {"pid", "since"}


def test_a_directory_that_can_not_be_written(make_unwritable: Closable) -> None:
    place = make_unwritable()
    with pytest.raises(MachineError, match="can't be written") as raised, writer_lock(place / "journal.db"):
        pytest.fail("it must not be entered")
    assert (raised.value.exit_code, raised.value.code) == (74, "journal_unwritable")
    assert "--journal" in raised.value.hint


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be written"), writer_lock(tmp_path / "file" / "journal.db"):
        pytest.fail("it must not be entered")
    with pytest.raises(UsageError, match="can't be made"):
        make_directory(tmp_path / "file" / "below")
    with pytest.raises(UsageError, match="can't be made"):
        make_directory(Path("/proc/no-such-place"))


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, MachineError), (errno.ENOLCK, UsageError)])
def test_a_lock_that_the_machine_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(kind, match="can't be locked"), writer_lock(tmp_path / "journal.db"):
        pytest.fail("it must not be entered")


def test_a_full_disk_tells_nobody_who_holds_it_and_holds_it_all_the_same(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    lock_path(path).touch()
    with (small_disk / "filling").open("wb", buffering=0) as filling, contextlib.suppress(OSError):
        while filling.write(bytes(4096)):
            pass
    with writer_lock(path), pytest.raises(JournalInUse, match="another process"), writer_lock(path):
        pytest.fail("it must not be entered")


async def test_an_open_journal_keeps_others_off_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "journal.db"
    async with SqliteJournal.open(path, TARGET):
        with pytest.raises(JournalInUse):
            async with SqliteJournal.open(path, TARGET):
                pytest.fail("it must not be entered")
    async with SqliteJournal.open(path, TARGET):
        pass
