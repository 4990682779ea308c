"""A watched directory: what is taken, when, on which occasion, and what becomes of it when things go wrong."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from ingest.errors import UsageError
from ingest.model import Occasion
from ingest.settings import WatchSettings
from ingest.sources import following, hearing
from ingest.sources.glance import Directory, Glance
from ingest.sources.selection import Selection
from ingest.sources.watch import WatchSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ingest.sources.base import Delivery

FIRST, CHANGED, AGAIN = Occasion
HEARD = WatchSettings(settle_s=0.05, rescan_s=1000.0, poll_s=0.02)


class Reading:
    """The deliveries of a source, one at a time."""

    def __init__(self, batches: AsyncIterator[Sequence[Delivery]], root: Path) -> None:
        self._batches = batches
        self._root = root
        self._left: list[Delivery] = []

    async def next(self) -> Delivery:
        while not self._left:
            self._left = list(await anext(self._batches))
        return self._left.pop(0)

    async def names(self, count: int) -> list[tuple[str, Occasion]]:
        """So many, by name and occasion, sorted."""
        found = [await self.next() for _ in range(count)]
        return sorted((os.path.relpath(one.job.image, self._root), one.occasion) for one in found)


def source(root: Path, settings: WatchSettings = HEARD, *, sends_events: bool = True, **options) -> WatchSource:
    return WatchSource(
        str(root), settings, sniff=lambda data: data.startswith(b"img"), sends_events=lambda _: sends_events, **options
    )


@asynccontextmanager
async def reading(it: WatchSource, root: Path):
    async with it.open() as batches:
        yield Reading(batches, root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


@pytest.fixture(params=[True, False], ids=["events", "polling"])
def sends_events(request) -> bool:
    return request.param


async def test_what_is_there_comes_first_and_what_is_new_on_its_occasion(root, sends_events):
    (root / "a.jpg").write_bytes(b"1")
    it = source(root, sends_events=sends_events)
    async with reading(it, root) as read:
        assert await read.names(1) == [("a.jpg", FIRST)]
        (root / "b.jpg").write_bytes(b"2")
        found = await read.names(1 if sends_events else 2)
        assert ("b.jpg", CHANGED if sends_events else AGAIN) in found


async def test_it_takes_what_a_walk_takes(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")  # its events are heard of as well
    async with reading(source(root, exclude=["left/**", "*.gif"]), root) as read:
        (root / "first.jpg").write_bytes(b"1")
        await read.names(1)
        (tmp_path / "elsewhere" / "x.jpg").write_bytes(b"1")
        (root / "left").mkdir()
        (root / ".hidden").mkdir()
        for name in ("left/x.jpg", ".hidden/x.jpg", ".x.jpg", "x.gif", "x.txt", "x.jpg.part", "noise"):
            (root / name).write_bytes(b"no image")
        (root / "picture").write_bytes(b"img and no ending")
        (root / "inside.png").symlink_to("first.jpg")
        (root / "outside.png").symlink_to("/etc/hostname")
        os.mkfifo(root / "pipe.jpg")
        (root / "last.webp").write_bytes(b"1")
        assert await read.names(3) == [("inside.png", CHANGED), ("last.webp", CHANGED), ("picture", CHANGED)]


async def test_a_file_that_is_written_on_is_not_taken(root, sends_events):
    settings = WatchSettings(settle_s=0.5, rescan_s=1000.0, poll_s=0.02)
    async with reading(source(root, settings, sends_events=sends_events), root) as read:
        with (root / "slow.jpg").open("wb", buffering=0) as file:
            for _ in range(20):
                file.write(b"part")
                await anyio.sleep(0.05)
                assert not read._left
        one = await read.next()
    assert (one.stamp.size_bytes, os.path.basename(one.job.image)) == (80, "slow.jpg")


async def test_what_the_journal_knows_is_asked_about_and_left_out(root):
    for name in ("a.jpg", "b.jpg"):
        (root / name).write_bytes(b"1")
    asked: list[Occasion] = []

    async def recognise(stretches, occasion=FIRST):
        asked.append(occasion)
        return [set(stretch.stamps) - {"b.jpg"} for stretch in stretches]

    it = source(root, sends_events=False)
    async with it.skim(recognise) as batches:
        read = Reading(batches, root)
        assert await read.names(1) == [("b.jpg", FIRST)]
        assert await read.names(1) == [("b.jpg", AGAIN)]
    assert asked[:2] == [FIRST, AGAIN]


@pytest.mark.parametrize("error", [ValueError("it is"), UsageError("it is", code="no_pack", hint="")], ids=repr)
async def test_an_error_of_whoever_is_asked_comes_out_as_it_is(root, error):
    (root / "a.jpg").write_bytes(b"1")

    async def recognise(stretches, occasion=FIRST):
        raise error

    with pytest.raises(type(error), match="it is"):
        async with source(root).skim(recognise) as batches:
            await anext(batches)


async def test_a_name_that_is_no_text_disturbs_but_is_taken(root):
    async with reading(source(root), root) as read:
        (root / "a.jpg").write_bytes(b"1")
        await read.names(1)
        with open(os.fsencode(root) + b"/\xff.jpg", "wb") as file:
            file.write(b"1")
        while (await read.next()).job.image != os.fsdecode(os.fsencode(root) + b"/\xff.jpg"):
            pass
        (root / "b.jpg").write_bytes(b"1")
        while not (await read.next()).job.image.endswith("/b.jpg"):
            pass


async def test_more_events_than_are_remembered_end_in_a_look_over_everything(root, monkeypatch):
    monkeypatch.setattr(hearing, "MAX_NOTED", 2)
    async with reading(source(root), root) as read:
        (root / "a.jpg").write_bytes(b"1")
        await read.names(1)
        for number in range(50):
            (root / f"{number}.jpg").write_bytes(b"1")
        wanted = {f"{number}.jpg" for number in range(50)}
        while wanted:
            wanted.discard(os.path.basename((await read.next()).job.image))


async def test_what_does_not_fit_waits_for_room(root, monkeypatch):
    monkeypatch.setattr(following, "MAX_UNSETTLED", 10)
    for number in range(100):
        (root / f"{number}.jpg").write_bytes(b"1")
    async with reading(source(root), root) as read:
        assert len(await read.names(100)) == 100


async def test_that_wait_puts_off_no_later_look(root, monkeypatch):
    monkeypatch.setattr(following, "MAX_UNSETTLED", 1)
    monkeypatch.setattr(following, "SPACING", 300.0)
    for number in range(20):  # which wait for a second, and are looked at in a few milliseconds
        (root / f"{number}.jpg").write_bytes(b"1")
    async with reading(source(root, sends_events=False), root) as read:
        await read.names(20)
        assert (await read.next()).occasion is AGAIN


async def test_a_directory_that_goes_and_comes_back(root, tmp_path, monkeypatch):
    monkeypatch.setattr(following, "CHECK_S", 0.02)
    (root / "a.jpg").write_bytes(b"1")
    async with reading(source(root), root) as read:
        before = await read.next()
        assert not await before.is_out_of_reach()
        root.rename(tmp_path / "away")
        assert await before.is_out_of_reach()
        root.mkdir()
        (root / "other.jpg").write_bytes(b"2")
        assert await read.names(1) == [("other.jpg", AGAIN)]
        (root / "new.jpg").write_bytes(b"3")  # it is heard of the new one
        after = await read.next()
        assert (after.job.image, after.occasion) == (str(root / "new.jpg"), CHANGED)
        assert not await after.is_out_of_reach()
        assert await before.is_out_of_reach()


async def test_what_is_just_being_looked_for_is_out_of_reach(root, monkeypatch):
    (root / "a.jpg").write_bytes(b"1")
    async with reading(source(root), root) as read:
        before = await read.next()
        follower = before.is_gone.func.__self__

        async def found_to_be_gone_meanwhile() -> None:
            follower.stay += 1
            follower._identity = None

        monkeypatch.setattr(follower, "_seen", found_to_be_gone_meanwhile)
        assert await before.is_out_of_reach()


async def test_what_was_away_in_between_was_out_of_reach(root, tmp_path, monkeypatch, caplog):
    """An image that could not be read then says nothing, though the directory is there again."""
    monkeypatch.setattr(following, "CHECK_S", 0.02)
    (root / "a.jpg").write_bytes(b"1")
    async with reading(source(root), root) as read:
        before = await read.next()
        root.rename(tmp_path / "away")
        with anyio.fail_after(30):
            while "directory.lost" not in caplog.text:
                await anyio.sleep(0.01)
        (tmp_path / "away").rename(root)
        assert await before.is_out_of_reach()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not tell")
async def test_left_it_watches_no_more(root):
    def watchers() -> int:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        return sum(os.readlink(link) == "anon_inode:inotify" for link in links if os.path.islink(link))

    async def none() -> None:
        with anyio.fail_after(30):
            while watchers():
                await anyio.sleep(0.01)

    await none()  # but those of other tests
    async with reading(source(root), root) as read:
        (root / "a.jpg").write_bytes(b"1")
        await read.next()
        assert watchers() == 1
    await none()


class TestGlance:
    @pytest.fixture
    def glance(self, root: Path) -> Glance:
        selection = Selection(exclude=["left/**"])
        return Glance(str(root), selection, sniff=lambda data: data.startswith(b"img"))

    def test_directories_are_told_from_files(self, glance, root):
        (root / "a" / "b").mkdir(parents=True)
        assert glance.first(str(root / "a" / "b")) == Directory("a/b/")
        assert glance.first(str(root)) is None
        assert glance.first(str(root / "gone.jpg")) is None
        assert glance.first("/etc/hostname") is None

    @pytest.mark.parametrize("is_opened", [True, False])
    def test_a_second_look(self, glance, root, is_opened):
        for name, data in (("a.jpg", b"x"), ("picture", b"img"), ("noise", b"x")):
            (root / name).write_bytes(data)
        stamps = [glance.again(str(root / name), is_opened=is_opened) for name in ("a.jpg", "picture", "noise", "gone")]
        assert [stamp and stamp.size_bytes for stamp in stamps] == [1, 3, None, None]
