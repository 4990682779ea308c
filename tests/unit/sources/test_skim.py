"""A directory leaves out what is recognised, and asks in a way that an index can answer."""

from __future__ import annotations

import os

import anyio
import anyio.lowlevel
import pytest

from ingest.model import FileStamp
from ingest.sources.base import SkimmingSource, SourceReport
from ingest.sources.directory import DirectorySource, FileSource


class Recogniser:
    """Knows some files by path and stamp, and remembers what it was asked."""

    def __init__(self, *known) -> None:
        self.known = {
            str(path): (seen.st_size, seen.st_mtime_ns) for path, seen in ((path, os.stat(path)) for path in known)
        }
        self.asked = []
        self.told = []

    async def __call__(self, stretches):
        await anyio.lowlevel.checkpoint()
        self.asked.extend(stretches)
        answer = [
            {name for name, stamp in it.stamps.items() if self.known.get(it.directory + name) == stamp}
            for it in stretches
        ]
        self.told.extend(it.directory + name for it, names in zip(stretches, answer, strict=True) for name in names)
        return answer


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def plant(root, *names: str, data: bytes = b"x"):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return [root / name for name in names]


def source(root, **options) -> DirectorySource:
    return DirectorySource(str(root), sniff=lambda head: head.startswith(b"IMAGE"), **options)


async def skimmed(it: DirectorySource, recogniser: Recogniser) -> list[str]:
    """Paths below the root that were handed over, in their order."""
    async with it.skim(recogniser) as batches:
        found = [delivery async for batch in batches for delivery in batch]
    assert not {delivery.job.image for delivery in found} & set(recogniser.told)
    return [os.path.relpath(delivery.job.image, it.root) for delivery in found]


def test_a_directory_can_and_a_file_need_not(root):
    assert isinstance(source(root), SkimmingSource)
    assert not isinstance(FileSource(str(root / "a.jpg")), SkimmingSource)


async def test_with_nothing_known_it_is_as_if_it_were_opened(root):
    plant(root, "b.jpg", "a/z.jpg", "a/b/c.jpg", "a.jpg", "c.txt", "B.jpg")
    plant(root, "scan", data=b"IMAGE")
    opened, skimming = source(root, look_size=2), source(root, look_size=2)
    async with opened.open() as batches:
        found = [delivery async for batch in batches for delivery in batch]
    async with skimming.skim(Recogniser()) as batches:
        assert [delivery async for batch in batches for delivery in batch] == found
    assert len(found) == 6
    assert skimming.report == opened.report


@pytest.mark.parametrize("look_size", [1, 2, 3, 2048])
async def test_what_is_known_is_not_handed_over_and_the_rest_is_in_order(root, look_size):
    paths = plant(root, "0.jpg", "1.jpg", "2.jpg", "b/1.jpg", "b/2.jpg", "b/c/1.jpg", "b.jpg", "c.jpg")
    recogniser = Recogniser(*paths[1::2])
    assert await skimmed(source(root, look_size=look_size), recogniser) == ["0.jpg", "2.jpg", "b/2.jpg", "b.jpg"]
    assert len(recogniser.told) == 4


async def test_with_all_known_no_batch_comes(root):
    paths = plant(root, *(f"{number}.jpg" for number in range(40)))
    async with source(root, look_size=8).skim(Recogniser(*paths)) as batches:
        assert [batch async for batch in batches] == []


@pytest.mark.parametrize("change", [b"xy", b"x"])
async def test_other_size_or_time_is_handed_over_with_the_stamp_it_was_asked_by(root, change):
    first, changed, last = plant(root, "a.jpg", "b.jpg", "c.jpg")
    recogniser = Recogniser(first, changed, last)
    changed.write_bytes(change)
    os.utime(changed, ns=(5, 5 if len(change) == 1 else os.stat(first).st_mtime_ns))
    async with source(root).skim(recogniser) as batches:
        [[delivery]] = [batch async for batch in batches]
    assert delivery.job.image == str(changed)
    assert delivery.stamp == FileStamp(size_bytes=len(change), mtime_ns=os.stat(changed).st_mtime_ns)


async def test_a_stretch_ends_where_a_directory_is_entered_and_goes_by_the_bytes_of_its_names(root):
    plant(root, "a.jpg", "b/1.jpg", "b.jpg", "c.jpg", ".d/1.jpg", "e.jpg", "日.jpg", "\udcff.jpg", "\U0001f600.jpg")
    recogniser = Recogniser()
    await skimmed(source(root), recogniser)
    assert [(os.path.relpath(it.directory, root), list(it.stamps)) for it in recogniser.asked] == [
        (".", ["a.jpg"]),
        ("b", ["1.jpg"]),
        (".", ["b.jpg", "c.jpg", "e.jpg", "日.jpg", "\U0001f600.jpg", "\udcff.jpg"]),
    ]
    assert all(
        it.directory.endswith("/") and it.directory == os.path.abspath(it.directory) + "/" for it in recogniser.asked
    )


async def test_a_look_is_bounded(root):
    plant(root, *(f"{number:02}.jpg" for number in range(25)))
    recogniser = Recogniser()
    await skimmed(source(root, look_size=10), recogniser)
    assert [len(it.stamps) for it in recogniser.asked] == [10, 10, 5]


async def test_by_name_alone_where_that_does_not_tell(root, monkeypatch):
    [known] = plant(root, "known", data=b"IMAGE")
    plant(root, "new", data=b"IMAGE")
    plant(root, "text")
    opened = []
    open_ = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(os.path.basename(path)) or open_(path, *rest))
    it = source(root)
    recogniser = Recogniser(known)
    assert await skimmed(it, recogniser) == ["new"]
    assert recogniser.told == [str(known)]
    assert {"new", "text"} <= set(opened)
    assert "known" not in opened
    assert it.report.ignored == {"": 1}


async def test_what_is_not_selected_is_not_asked_about(root):
    paths = plant(root, "a.jpg", "b.jpg", "c.txt", "old/a.jpg", "d.jpg.part")
    recogniser = Recogniser(*paths)
    it = source(root, exclude=["old", "b*"])
    assert await skimmed(it, recogniser) == []
    assert recogniser.told == [str(root / "a.jpg")]
    assert it.report.ignored == {"(excluded)": 2, ".txt": 1, ".part": 1}
    included = Recogniser(*paths)
    await skimmed(source(root, include=["*.txt", "old/*"]), included)
    assert sorted(included.told) == [str(root / "c.txt"), str(root / "old/a.jpg")]


async def test_a_link_has_the_stamp_of_its_file(root):
    [stored] = plant(root, ".store/1.jpg", data=b"12345")
    (root / "link.jpg").symlink_to(stored)
    recogniser = Recogniser(root / "link.jpg")
    assert await skimmed(source(root), recogniser) == []
    assert recogniser.told == [str(root / "link.jpg")]


async def test_nothing_is_asked_where_nothing_may_be_an_image(root):
    plant(root, "a.txt", "b/c.mov")
    recogniser = Recogniser()
    assert await skimmed(source(root), recogniser) == []
    assert recogniser.asked == []


async def test_what_vanishes_is_reported_once(root, monkeypatch):
    plant(root, "a.jpg", "b.jpg", "c.jpg")
    stat = os.stat

    def vanish(path, **options):
        if str(path).endswith("b.jpg"):
            raise FileNotFoundError(2, "No such file or directory")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", vanish)
    it = source(root)
    assert await skimmed(it, Recogniser()) == ["a.jpg", "c.jpg"]
    assert it.report.unreadable_count == 1


async def test_given_up_while_it_asks_nothing_is_lost_or_told_twice(root):
    paths = plant(root, *(f"{number:02}.jpg" for number in range(20)))

    class Slow(Recogniser):
        async def __call__(self, stretches):
            if not self.asked:
                self.asked.append(None)
                began.set()
                await anyio.sleep_forever()
            return await super().__call__(stretches)

    began = anyio.Event()
    recogniser = Slow(*paths[::2])
    async with source(root, look_size=8).skim(recogniser) as batches:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def cancel() -> None:
                    await began.wait()
                    scope.cancel()

                group.start_soon(cancel)
                await anext(batches)
        found = [delivery.job.image async for batch in batches for delivery in batch]
    assert found == [str(path) for path in paths[1::2]]
    assert recogniser.told == sorted(set(recogniser.told), key=recogniser.told.index)
    assert sorted(recogniser.told) == [str(path) for path in paths[::2]]


async def test_an_error_of_the_answer_comes_through(root):
    plant(root, "a.jpg")

    class BrokenError(Exception):
        pass

    async def broken(_stretches):
        raise BrokenError

    async with source(root).skim(broken) as batches:
        with pytest.raises(BrokenError):
            await anext(batches)


async def test_it_reports_nothing_of_what_is_known(root):
    paths = plant(root, *(f"{number}.jpg" for number in range(10)))
    it = source(root)
    await skimmed(it, Recogniser(*paths))
    assert it.report == SourceReport()
