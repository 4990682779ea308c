"""Directories hand over what is an image, in order, and tell what they passed over."""

from __future__ import annotations

import os
import threading

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from ingest.errors import UsageError
from ingest.model import FileStamp
from ingest.sources import directory, walk
from ingest.sources.base import MAX_UNREADABLE, SourceReport
from ingest.sources.directory import DirectorySource, FileSource


def sniff(head: bytes) -> bool:
    return head.startswith(b"IMAGE")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def plant(root, *names: str, data: bytes = b"x") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def source(root, **options) -> DirectorySource:
    return DirectorySource(str(root), sniff=sniff, **options)


async def drained(source) -> list:
    async with source.open() as batches:
        return [delivery async for batch in batches for delivery in batch]


async def names(source) -> list[str]:
    """Paths below the root, in the order in which they came."""
    return [os.path.relpath(delivery.job.image, source.root) for delivery in await drained(source)]


class TestOrder:
    async def test_each_directory_sorted_and_depth_first(self, root):
        plant(root, "b.jpg", "a/z.jpg", "a/b/c.jpg", "a.jpg", "c/1.jpg", "B.jpg", "a-b/1.jpg")
        assert await names(source(root)) == [
            "B.jpg", "a/b/c.jpg", "a/z.jpg", "a-b/1.jpg", "a.jpg", "b.jpg", "c/1.jpg",
        ]  # fmt: skip

    async def test_a_tree_deeper_than_the_interpreters_stack(self, root):
        plant(root, "keep.txt")
        deep = "d"
        os.mkdir(root / deep)
        for _ in range(1200):
            deep += "/d"
            os.mkdir(root / deep)
        (root / deep / "a.jpg").write_bytes(b"x")
        assert await names(source(root)) == [f"{deep}/a.jpg"]
        os.unlink(root / deep / "a.jpg")
        os.removedirs(root / deep)  # pytest's own removal is recursive

    async def test_batches_are_bounded(self, root):
        plant(root, *(f"{number}.jpg" for number in range(7)))
        async with source(root, batch_size=3).open() as batches:
            assert [len(batch) async for batch in batches] == [3, 3, 1]

    async def test_few_images_among_many_files_do_not_wait_for_a_full_batch(self, root):
        plant(root, "1.jpg", *(f"2{number}.txt" for number in range(9)), "3.jpg")
        async with source(root, look_size=4).open() as batches:
            assert [len(batch) async for batch in batches] == [1, 1]


class TestWhatIsDiscovered:
    async def test_by_ending_or_else_by_content(self, root):
        plant(root, "a.JPG", "b.svg", "c.mov", "d.mov", "e.txt", "f.jpg~", "g.part", "text")
        plant(root, "scan", data=b"IMAGE...")
        it = source(root)
        assert await names(it) == ["a.JPG", "b.svg", "scan"]
        assert it.report.ignored == {".mov": 2, ".txt": 1, ".jpg~": 1, ".part": 1, "": 1}

    async def test_hidden_and_foreign_directories_are_never_entered(self, root):
        plant(root, ".hidden.jpg", ".git/a.jpg", "@eaDir/a.jpg", "x.photoslibrary/a.jpg", "__MACOSX/a.jpg", "b/a.jpg")
        it = source(root)
        assert await names(it) == ["b/a.jpg"]
        assert it.report == SourceReport()

    async def test_a_hidden_root_is_meant(self, tmp_path):
        plant(tmp_path, ".photos/a.jpg")
        assert await names(source(tmp_path / ".photos")) == ["a.jpg"]

    async def test_include_and_exclude(self, root):
        plant(root, "a.dat", "b.jpg", "old/c.dat", "keep/d.dat", "keep/bad.dat")
        it = source(root, include=["*.dat"], exclude=["old", "bad*"])
        assert await names(it) == ["a.dat", "keep/d.dat"]
        assert it.report.ignored == {"(excluded)": 3}

    async def test_special_files(self, root):
        os.mkfifo(root / "pipe.jpg")
        it = source(root)
        assert await names(it) == []
        assert it.report.ignored == {"(special file)": 1}

    async def test_kinds_in_the_report_are_bounded(self, root):
        plant(root, *(f"log.{number}" for number in range(150)))
        it = source(root)
        assert await names(it) == []
        assert len(it.report.ignored) == 101
        assert sum(it.report.ignored.values()) == 150

    async def test_the_count_goes_by_name_and_reports_nothing(self, root):
        plant(root, "a.jpg", "b/c.png", "d.txt")
        plant(root, "scan", data=b"IMAGE")
        it = source(root)
        assert await it.count() == 2
        assert it.report == SourceReport()
        assert await source(root / "none").count() == 0


class TestDeliveries:
    async def test_job_and_stamp(self, root):
        plant(root, "a/b.jpg", data=b"12345")
        [delivery] = await drained(source(root))
        assert delivery.job.image == str(root / "a/b.jpg")
        assert delivery.job.file_name == "b.jpg"
        assert delivery.job.pack is None
        assert delivery.stamp == FileStamp(size_bytes=5, mtime_ns=os.stat(root / "a/b.jpg").st_mtime_ns)

    @pytest.mark.parametrize(
        "raw", [b" two  spaces .jpg", b"two\nlines.jpg", b"\xff\xfe.jpg", b"\x1b[2J.jpg", b"-.jpg"]
    )
    async def test_any_name_that_the_system_allows(self, root, raw):
        path = os.path.join(os.fsencode(root), raw)
        with open(path, "wb") as file:
            file.write(b"x")
        [delivery] = await drained(source(root))
        assert os.fsencode(delivery.job.image) == path
        delivery.job.file_name.encode()

    async def test_a_relative_root_gives_absolute_paths(self, root, monkeypatch):
        plant(root, "a.jpg")
        monkeypatch.chdir(root.parent)
        [delivery] = await drained(source("root"))
        assert delivery.job.image == str(root / "a.jpg")
        [delivery] = await drained(source("root/../root"))
        assert delivery.job.image == str(root / "a.jpg")


class TestLinks:
    async def test_links_to_files_inside_are_followed(self, root):
        plant(root, "a/1.jpg", ".store/2.jpg", data=b"123")
        (root / "one.jpg").symlink_to("a/1.jpg")
        (root / "two.jpg").symlink_to(root / ".store/2.jpg")
        deliveries = await drained(source(root))
        assert [os.path.relpath(delivery.job.image, root) for delivery in deliveries] == [
            "a/1.jpg",
            "one.jpg",
            "two.jpg",
        ]
        assert {delivery.stamp.size_bytes for delivery in deliveries} == {3}

    async def test_links_that_lead_outside_are_ignored(self, root, tmp_path):
        plant(tmp_path, "rooted/1.jpg", "2.jpg")
        (root / "a").symlink_to(tmp_path / "rooted")
        (root / "b.jpg").symlink_to("../2.jpg")
        (root / "up").symlink_to("..")
        it = source(root)
        assert await names(it) == []
        assert it.report.ignored == {"(link outside)": 3}

    async def test_a_linked_directory_is_found_by_its_own_name_alone(self, root):
        plant(root, "real/1.jpg")
        (root / "also").symlink_to("real")
        (root / "real/loop").symlink_to("..")
        (root / "self").symlink_to(".")
        it = source(root)
        assert await names(it) == ["real/1.jpg"]
        assert it.report == SourceReport()

    async def test_a_hidden_directory_is_entered_once_by_a_link(self, root):
        plant(root, ".2024/1.jpg", ".2024/below/2.jpg")
        (root / "data").symlink_to(".2024")
        (root / "more").symlink_to(".2024")
        (root / ".2024/back").symlink_to(".")
        assert await names(source(root)) == ["data/1.jpg", "data/below/2.jpg"]

    async def test_a_root_that_is_a_link(self, root, tmp_path):
        plant(root, "a.jpg")
        (root / "b.jpg").symlink_to("a.jpg")
        (tmp_path / "link").symlink_to("root")
        it = source(tmp_path / "link")
        assert it.root == str(tmp_path / "link")
        assert await names(it) == ["a.jpg", "b.jpg"]

    async def test_links_that_lead_nowhere_are_told(self, root):
        (root / "a.jpg").symlink_to("nowhere.jpg")
        (root / "b.jpg").symlink_to("b.jpg")
        it = source(root)
        assert await names(it) == []
        assert it.report.ignored == {"(broken link)": 2}
        assert it.report.unreadable_count == 0


class TestUnreadable:
    @pytest.mark.parametrize(("number", "word"), [(13, "Permission denied"), (2, "No such file"), (5, "Input/output")])
    async def test_a_directory_is_reported_and_the_rest_goes_on(self, root, monkeypatch, number, word):
        plant(root, "a/1.jpg", "b\nc/2.jpg", "d/3.jpg")
        scandir = os.scandir

        def fail_for_b(path):
            if os.fsencode(path).endswith(b"b\nc"):
                raise OSError(number, os.strerror(number))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", fail_for_b)
        it = source(root)
        assert await names(it) == ["a/1.jpg", "d/3.jpg"]
        assert it.report.unreadable_count == 1
        assert word in it.report.unreadable[0]
        assert r"b\nc" in it.report.unreadable[0]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    async def test_permissions(self, root):
        plant(root, "a/1.jpg", "b.jpg")
        os.chmod(root / "a", 0)
        it = source(root)
        assert await names(it) == ["b.jpg"]
        assert it.report.unreadable_count == 1
        os.chmod(root / "a", 0o700)

    async def test_a_file_that_vanishes_during_the_walk(self, root):
        plant(root, *(f"{number}.jpg" for number in range(4)))
        it = source(root, look_size=1)
        async with it.open() as batches:
            await anext(batches)
            os.unlink(root / "2.jpg")
            rest = [delivery.job.file_name async for batch in batches for delivery in batch]
        assert rest == ["1.jpg", "3.jpg"]
        assert it.report.unreadable_count == 1

    async def test_a_tree_that_goes_away_is_reported(self, root):
        plant(root, *(f"{number}/a.jpg" for number in range(4)))
        it = source(root, look_size=1)
        async with it.open() as batches:
            await anext(batches)
            os.rename(root, str(root) + ".gone")
            assert [batch async for batch in batches] == []
        assert it.report.unreadable_count == 3

    async def test_the_report_is_bounded_and_the_count_is_not(self):
        report = SourceReport()
        for _ in range(MAX_UNREADABLE + 5):
            walk.note_unreadable(report, "/x", OSError(5, "no"))
        assert len(report.unreadable) == MAX_UNREADABLE
        assert report.unreadable_count == MAX_UNREADABLE + 5


class TestCancellation:
    @pytest.fixture
    def stalled(self, root, monkeypatch):
        """A source whose look into `scan` does not come back until `go_on` is set."""
        plant(root, "a.jpg", "scan", "z.jpg", data=b"IMAGE")
        it = source(root, batch_size=2)
        it.began, it.go_on, it.ended = anyio.Event(), threading.Event(), threading.Event()
        first_bytes = directory._first_bytes

        def stall(path: str) -> bytes:
            anyio.from_thread.run_sync(it.began.set)
            it.go_on.wait()
            return first_bytes(path)

        def looks(stop: threading.Event, below: str):
            try:
                yield from DirectorySource.looks(it, stop, below)
            finally:
                it.ended.set()

        monkeypatch.setattr(directory, "_first_bytes", stall)
        it.looks = looks
        return it

    async def test_leaving_while_a_thread_still_looks_frees_everything_in_the_end(self, stalled):
        async with anyio.create_task_group() as group:
            group.start_soon(drained, stalled)
            await stalled.began.wait()
            group.cancel_scope.cancel()
        assert not stalled.ended.is_set()
        stalled.go_on.set()
        await anyio.to_thread.run_sync(stalled.ended.wait)

    async def test_nothing_is_lost_when_one_read_is_given_up(self, stalled):
        async with stalled.open() as batches:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:

                    async def cancel() -> None:
                        await stalled.began.wait()
                        scope.cancel()

                    group.start_soon(cancel)
                    await anext(batches)
            stalled.go_on.set()
            found = [delivery.job.file_name async for batch in batches for delivery in batch]
        assert found == ["a.jpg", "scan", "z.jpg"]

    async def test_left_early_the_walk_is_closed(self, stalled):
        stalled.go_on.set()
        async with stalled.open() as batches:
            await anext(batches)
        assert stalled.ended.is_set()

    async def test_a_count_can_be_given_up(self, root, monkeypatch):
        plant(root, "a.jpg", "b.jpg")
        began, go_on, ended = anyio.Event(), threading.Event(), threading.Event()
        scandir = os.scandir

        def stall(path):
            anyio.from_thread.run_sync(began.set)
            go_on.wait()
            ended.set()
            return scandir(path)

        monkeypatch.setattr(os, "scandir", stall)
        async with anyio.create_task_group() as group:
            group.start_soon(source(root).count)
            await began.wait()
            group.cancel_scope.cancel()
        go_on.set()
        await anyio.to_thread.run_sync(ended.wait)


class TestFiles:
    @pytest.mark.parametrize("name", ["a.jpg", "notes.txt", ".hidden", "x.part"])
    async def test_a_file_named_is_meant(self, root, name):
        plant(root, name, data=b"12")
        [delivery] = await drained(FileSource(str(root / name)))
        assert delivery.job.image == str(root / name)
        assert delivery.job.file_name == name
        assert delivery.stamp.size_bytes == 2


@pytest.mark.parametrize("make", [source, lambda path: FileSource(str(path))])
async def test_a_source_that_is_not_there(make, root):
    with pytest.raises(UsageError, match="none") as caught:
        await drained(make(root / "none"))
    assert caught.value.code == "no_such_source"
    assert caught.value.hint


async def test_a_file_is_no_directory(root):
    plant(root, "a.jpg")
    with pytest.raises(UsageError, match="not a directory"):
        await drained(source(root / "a.jpg"))
