"""What every source keeps, as `ingest.sources.base.Source` promises it.

A source joins by a `Case` in `CASES`: how to make one that hands over so many jobs, and one that isn't there.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from ingest.errors import UsageError
from ingest.model import Occasion, Outcome
from ingest.settings import WatchSettings
from ingest.sources.base import SkimmingSource, SourceReport
from ingest.sources.directory import DirectorySource, FileSource
from ingest.sources.manifest import ManifestSource, StdinSource
from ingest.sources.shard import Shard, sharded
from ingest.sources.watch import WatchSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from ingest.sources.base import Delivery, Source


@dataclass(frozen=True, kw_only=True)
class Case:
    """How to make sources of one kind; `most` is how many jobs one of them can have, endless ones wait for more."""

    name: str
    make: Callable[[Path, int], Source]
    make_missing: Callable[[Path], Source]
    most: int = 1000
    is_endless: bool = False


def directory(tmp_path: Path, count: int) -> Source:
    for number in range(count):
        path = tmp_path / "photos" / f"{number % 7}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "photos").mkdir(exist_ok=True)
    return DirectorySource(str(tmp_path / "photos"), sniff=lambda _: False, batch_size=16)


def single_file(tmp_path: Path, count: int) -> Source:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    return FileSource(str(tmp_path / "photo.jpg"))


def manifest(tmp_path: Path, count: int) -> Source:
    path = tmp_path / "list.csv"
    path.write_text("image,id\n" + "".join(f"{number}.jpg,{number}\n" for number in range(count)))
    return ManifestSource(str(path), batch_size=16)


def standard_input(tmp_path: Path, count: int) -> Source:
    reading, writing = os.pipe()
    os.write(writing, b"".join(b'{"image": "%d.jpg"}\n' % number for number in range(count)))
    os.close(writing)
    return _Piped(descriptor=reading, batch_size=16)


class _Piped(StdinSource):
    """Can be drained twice, as a file that was redirected to standard input can't."""

    def __init__(self, *, descriptor: int, batch_size: int) -> None:
        self._content = os.read(descriptor, 65536)
        os.close(descriptor)
        super().__init__(batch_size=batch_size)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        reading, writing = os.pipe()
        os.write(writing, self._content)
        os.close(writing)
        self._descriptor = reading
        try:
            async with super().open() as batches:
                yield batches
        finally:
            os.close(reading)


def watched(tmp_path: Path, count: int) -> Source:
    directory(tmp_path, count)
    return watching(tmp_path / "photos")


def watching(path: Path) -> Source:
    settings = WatchSettings(settle_s=0.01, poll_s=0.01)
    return WatchSource(str(path), settings, sniff=lambda _: False, sends_events=lambda _: False)


CASES = [
    Case(
        name="manifest",
        make=manifest,
        make_missing=lambda tmp_path: ManifestSource(str(tmp_path / "none.csv")),
    ),
    Case(
        name="stdin",
        make=standard_input,
        make_missing=lambda _: StdinSource(descriptor=999_999),
    ),
    Case(
        name="the only shard of a directory",
        make=lambda tmp_path, count: sharded(directory(tmp_path, count), Shard(0, 1)),
        make_missing=lambda tmp_path: sharded(DirectorySource(str(tmp_path / "none"), sniff=bool), Shard(0, 1)),
    ),
    Case(
        name="the only shard of a manifest",
        make=lambda tmp_path, count: sharded(manifest(tmp_path, count), Shard(0, 1)),
        make_missing=lambda tmp_path: sharded(ManifestSource(str(tmp_path / "none.csv")), Shard(0, 1)),
    ),
    Case(
        name="directory",
        make=directory,
        make_missing=lambda tmp_path: DirectorySource(str(tmp_path / "none"), sniff=lambda _: False),
    ),
    Case(
        name="file",
        make=single_file,
        make_missing=lambda tmp_path: FileSource(str(tmp_path / "none.jpg")),
        most=1,
    ),
    Case(
        name="watch",
        make=watched,
        make_missing=lambda tmp_path: watching(tmp_path / "none"),
        is_endless=True,
    ),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


async def drained(case: Case, source: Source, count: int) -> list[list]:
    """The batches up to the end; where there is none, up to so many jobs."""
    read: list[list] = []
    async with source.open() as batches:
        async for batch in batches:
            read.append(list(batch))
            if case.is_endless and sum(map(len, read)) >= count:
                break
    return read


async def test_it_hands_over_every_job_once(case, tmp_path):
    count = min(100, case.most)
    batches = await drained(case, case.make(tmp_path, count), count)
    images = [delivery.job.image for batch in batches for delivery in batch]
    assert len(images) == len(set(images)) == count


async def test_no_batch_is_empty(case, tmp_path):
    count = min(100, case.most)
    batches = await drained(case, case.make(tmp_path, count), count)
    assert all(batches)


async def test_the_order_is_stable(case, tmp_path):
    def images(batches):
        return [delivery.job.image for batch in batches for delivery in batch]

    count = min(100, case.most)
    first = await drained(case, case.make(tmp_path, count), count)
    second = await drained(case, case.make(tmp_path, count), count)
    assert images(first) == images(second)


async def test_its_end_stays_the_end(case, tmp_path):
    if case.is_endless:
        pytest.skip("it has none")
    async with case.make(tmp_path, 1).open() as batches:
        assert [len(batch) async for batch in batches] == [1]
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


async def test_its_name_is_a_word_for_a_label(case, tmp_path):
    assert case.make(tmp_path, 1).name.isidentifier()


async def test_a_fresh_report_is_empty_and_nothing_is_passed_over(case, tmp_path):
    count = min(10, case.most)
    source = case.make(tmp_path, count)
    assert source.report == SourceReport()
    await drained(case, source, count)
    assert source.report == SourceReport()


async def test_deliveries_may_be_acknowledged_again_and_released(case, tmp_path):
    async with case.make(tmp_path, 1).open() as batches:
        [delivery] = await anext(batches)
        await delivery.acknowledge(Outcome.ADDED, None)
        await delivery.acknowledge(Outcome.REJECTED, "too_large")
        await delivery.release()


async def test_one_that_skims_leaves_out_what_is_known_and_nothing_else(case, tmp_path):
    count = min(100, case.most)
    source = case.make(tmp_path, count)
    if not isinstance(source, SkimmingSource):
        pytest.skip("it is asked about nothing")
    asked: list[str] = []
    known = 0

    async def every_second(stretches, occasion=Occasion.FIRST):
        if occasion is not Occasion.FIRST:
            return [set(stretch.stamps) for stretch in stretches]
        nonlocal known
        answers = [set(list(stretch.stamps)[::2]) for stretch in stretches]
        known += sum(map(len, answers))
        asked.extend(stretch.directory + name for stretch in stretches for name in stretch.stamps)
        return answers

    images: list[str] = []
    async with source.skim(every_second) as batches:
        async for batch in batches:
            images += [delivery.job.image for delivery in batch]
            if case.is_endless and len(images) >= len(asked) - known:
                break
    assert 0 < len(images) < count
    assert set(images) < set(asked)
    assert len(asked) == len(set(asked)) == count


async def test_a_missing_source_is_told_on_entering(case, tmp_path):
    opened = case.make_missing(tmp_path).open()
    with pytest.raises(UsageError) as caught:
        await opened.__aenter__()
    assert caught.value.code == "no_such_source"
    assert caught.value.hint


async def test_it_may_be_left_before_its_end(case, tmp_path):
    async with case.make(tmp_path, min(100, case.most)).open() as batches:
        await anext(batches)


async def test_it_may_be_left_unread(case, tmp_path):
    async with case.make(tmp_path, 1).open():
        pass


async def test_cancelled_it_lets_go(case, tmp_path):
    with anyio.CancelScope() as scope:
        async with case.make(tmp_path, min(100, case.most)).open() as batches:
            async for _ in batches:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_the_callers_error_comes_through(case, tmp_path):
    class Boom(Exception):
        pass

    async def fail() -> None:
        async with case.make(tmp_path, 1).open() as batches:
            await anext(batches)
            raise Boom

    with pytest.raises(Boom):
        await fail()
