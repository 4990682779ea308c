"""A run whose sources have no end: they are read in turns, nothing is counted twice, and a signal is a good end."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest
from pipeline_model import FLOW, ListSource, Stall, Tracked, check, named, picture, pictures, refused, until

from ingest.errors import MachineError
from ingest.model import Occasion, Operation
from ingest.pipeline import feed
from ingest.policy.lifecycle import State
from ingest.settings import RunSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ingest.model import Summary
    from ingest.pipeline.run import Pipeline
    from ingest.sources.base import Delivery

RESERVE, ADD = Operation.UPLOAD_FILE, Operation.ADD_IMAGE
FIRST, CHANGED, AGAIN = Occasion
SERVE = RunSettings(is_endless=True)


class EndlessSource(ListSource):
    """Hands over what it was given, and then what it is told to; never ends by itself."""

    name = "watch"

    def __init__(self, *deliveries: Tracked, batch_size: int = 256, problem: Exception | None = None) -> None:
        super().__init__(deliveries, batch_size=batch_size)
        self._send, self._receive = anyio.create_memory_object_stream[list[Tracked]](100)
        self._problem = problem

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        with self._send, self._receive:
            yield self._batches()

    async def _batches(self) -> AsyncIterator[Sequence[Delivery]]:
        async for batch in super()._batches():
            yield batch
        if self._problem is not None:
            raise self._problem
        async for batch in self._receive:
            self.deliveries += batch
            yield batch

    def name_again(self, *paths: Path, occasion: Occasion = AGAIN) -> None:
        self._send.send_nowait(on(occasion, *paths))


def on(occasion: Occasion, *paths: Path) -> list[Tracked]:
    return [replace(delivery, occasion=occasion, told=[]) for delivery in named(*paths)]


@dataclass
class Serving:
    pipeline: Pipeline
    system: object
    summary: Summary | None = None

    def done(self) -> int:
        return sum(self.pipeline.snapshot().outcomes.values())

    async def stop(self) -> Summary:
        self.system.stop.signalled(signal.SIGTERM)
        await until(lambda: self.summary is not None)
        check(self.pipeline, self.summary)
        return self.summary


@contextlib.asynccontextmanager
async def serving(system, *sources, run: RunSettings = SERVE, flow=FLOW):
    async with system.assembled(flow=flow, run=run) as pipeline, anyio.create_task_group() as tasks:
        it = Serving(pipeline, system)

        async def serve() -> None:
            it.summary = await pipeline.run(sources)

        tasks.start_soon(serve)
        yield it
        system.stop.signalled(signal.SIGTERM)


async def test_a_signal_is_a_good_end_and_a_second_one_is_not(system, model, tmp_path):
    async with serving(system, EndlessSource(*named(*pictures(tmp_path, 3)))) as it:
        await until(lambda: it.done() == 3)
        summary = await it.stop()
    assert (summary.added, summary.exit_code, summary.error) == (3, 0, None)

    (path,) = pictures(tmp_path, 1, start=10)
    model.next(RESERVE, stall := Stall())
    async with serving(system, EndlessSource(*named(path))) as it:
        await stall.came.wait()
        system.stop.signalled(signal.SIGTERM)
        summary = await it.stop()
    assert (summary.pending, summary.exit_code, summary.error.code) == (1, 143, "sigterm")


async def test_what_could_not_be_looked_into_spoils_no_good_end(system, tmp_path):
    source = EndlessSource(*named(*pictures(tmp_path, 1)))
    source.report.unreadable_count = 1
    async with serving(system, source) as it:
        await until(lambda: it.done() == 1)
        summary = await it.stop()
    assert (summary.exit_code, summary.error) == (0, None)


async def test_what_else_ends_it_is_told_as_ever(system, tmp_path):
    error = MachineError("the disk is full", code="disk", hint="")
    sources = [EndlessSource(*named(*pictures(tmp_path, 1))), EndlessSource(problem=error)]
    async with serving(system, *sources) as it:
        await until(lambda: it.summary is not None)
    assert (it.summary.exit_code, it.summary.error.code) == (74, "disk")


async def test_sources_are_read_in_turns_each_in_its_order(system, model, tmp_path):
    paths = pictures(tmp_path, 400)
    sources = [EndlessSource(*named(*paths[:300])), EndlessSource(*named(*paths[300:]))]
    async with serving(system, *sources, flow=replace(FLOW, concurrency=1)) as it:
        await until(lambda: it.done() == 400)
        await it.stop()
    numbers = [paths.index(type(paths[0])(record.locator)) for record in system.journal.records()]
    one = [number for number in numbers if number < 300]
    assert one == sorted(one)
    # The shorter one is through long before the other: a turn of each, and again.
    assert numbers[: 2 * feed.TURN] == [*range(feed.TURN), *range(300, 300 + feed.TURN)]
    assert numbers.index(399) < numbers.index(200)


async def test_all_together_admit_no_more_than_the_limit(system, tmp_path):
    paths = pictures(tmp_path, 40)
    sources = [EndlessSource(*named(*paths[:20]), batch_size=3), EndlessSource(*named(*paths[20:]), batch_size=3)]
    async with serving(system, *sources, run=replace(SERVE, limit=10)) as it:
        await until(lambda: it.summary is not None)
    assert (it.summary.added, it.summary.discovered) == (10, 10)


async def test_several_that_come_to_their_end_end_the_run(system, tmp_path):
    paths = pictures(tmp_path, 20)
    summary = await system.run(ListSource(named(*paths[:10])), ListSource(named(*paths[10:])), run=SERVE)
    assert (summary.added, summary.exit_code) == (20, 0)


@pytest.mark.parametrize("occasion", [CHANGED, AGAIN])
async def test_what_is_met_again_is_counted_once(system, model, tmp_path, occasion):
    (done, broken, slow, other) = pictures(tmp_path, 4)
    broken.write_bytes(b"no image")
    source = EndlessSource(*named(done, broken))
    async with serving(system, source) as it:
        await until(lambda: it.done() == 2)
        model.next(ADD, stall := Stall())
        source.name_again(slow, occasion=occasion)  # new all the same
        await stall.came.wait()
        for _ in range(3):
            source.name_again(done, broken, slow, occasion=occasion)
        source.name_again(other)
        await until(lambda: it.done() == 3)
        assert it.pipeline.snapshot().discovered == 4
        stall.go.set()
        await until(lambda: it.done() == 4)
        summary = await it.stop()
    assert (summary.discovered, summary.added, summary.rejected, summary.duplicate) == (4, 3, 1, 0)


async def test_other_bytes_that_are_met_again_are_added(system, model, tmp_path):
    (path,) = pictures(tmp_path, 1)
    source = EndlessSource(*named(path))
    async with serving(system, source) as it:
        await until(lambda: it.done() == 1)
        path.write_bytes(picture(9))
        os.utime(path, ns=(1, 1))
        source.name_again(path)
        await until(lambda: it.done() == 2)
    assert [model.objects[url] for url in model.packs["pack-1"].urls] == [picture(0), picture(9)]


async def test_what_failed_is_tried_again_at_once_for_a_reason_and_in_its_time_without(system, model, tmp_path):
    failed, other = pictures(tmp_path, 2)
    model.always(RESERVE, refused(500))
    source = EndlessSource(*named(failed))
    async with serving(system, source) as it:
        await until(lambda: it.done() == 1)
        model.always(RESERVE, None)
        source.name_again(failed)
        source.name_again(other)
        await until(lambda: it.done() == 2)
        assert [record.state for record in system.journal.records()] == [State.FAILED, State.ADDED]
        record = system.journal.records()[0]
        system.journal._put(msgspec.structs.replace(record, settled_at=record.settled_at - 61.0))
        source.name_again(failed)
        await until(lambda: it.done() == 3)
        summary = await it.stop()
    assert (summary.discovered, summary.added, summary.failed) == (3, 2, 1)

    (third,) = pictures(tmp_path, 1, start=5)
    model.always(RESERVE, refused(500))
    source = EndlessSource(*named(third))
    async with serving(system, source) as it:
        await until(lambda: it.done() == 1)
        model.always(RESERVE, None)
        source.name_again(third, occasion=CHANGED)
        await until(lambda: it.done() == 2)
        assert (await it.stop()).added == 1


@dataclass(slots=True, kw_only=True)
class Away(Tracked):
    """A delivery of a source that is gone while it says so."""

    is_away: bool = True

    async def is_out_of_reach(self) -> bool:
        return self.is_away


async def test_what_is_out_of_reach_waits_until_it_is_named_again(system, model, tmp_path):
    path, twin = pictures(tmp_path, 2, kinds=1)
    (delivery,) = named(path)
    away = Away(job=delivery.job, stamp=delivery.stamp)
    path.unlink()
    source = EndlessSource(away, *named(twin))
    async with serving(system, source) as it:
        await until(lambda: it.done() == 1)
        await until(lambda: not it.pipeline.snapshot().in_hand)
        assert it.pipeline.snapshot().pending == 1
        path.write_bytes(picture(7))
        os.utime(path, ns=(delivery.stamp.mtime_ns,) * 2)
        source.name_again(path)
        await until(lambda: it.done() == 2)
        summary = await it.stop()
    assert (summary.discovered, summary.added, summary.failed) == (2, 2, 0)
    assert away.told == ["added"]


async def test_what_may_kill_the_process_goes_last_and_still_goes(system, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "SUSPECTS_WAIT_S", 0.05)
    suspect, *others = pictures(tmp_path, 20)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        system.model.next(RESERVE, stall := Stall())
        tasks.start_soon(pipeline.run, [ListSource(named(suspect))])
        await stall.came.wait()
        system.stop.signalled(signal.SIGINT)
    (record,) = system.journal.records()
    system.journal._put(msgspec.structs.replace(record, state=State.PENDING, deaths=3))
    async with serving(system, EndlessSource(*named(suspect, *others))) as it:
        await until(lambda: it.done() == 20)
        assert (await it.stop()).added == 20
    assert "Tested" in system.journal.kinds()
