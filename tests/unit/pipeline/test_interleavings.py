"""What happens between two steps that look as if nothing could: equals, second namings, ends that are being told."""

from __future__ import annotations

import contextlib
import errno
import signal

import anyio
import pytest
from pipeline_model import (
    FLOW,
    ListSource,
    Stall,
    System,
    Tracked,
    named,
    picture,
    pictures,
    refused,
    until,
)

from ingest.errors import UsageError
from ingest.images import inspect
from ingest.journal.base import Candidate, Settled
from ingest.journal.sqlite import SqliteJournal
from ingest.model import Job, Locator, Operation, PackId, RunId, Target
from ingest.pipeline import work
from ingest.policy.lifecycle import OUTCOMES, State
from ingest.settings import RunSettings

ADD, PUT = Operation.ADD_IMAGE, Operation.PUT_FILE


def urls(model) -> list[str]:
    return model.packs["pack-1"].urls


class Held(Tracked):
    """A delivery whose acknowledgement takes until the test says `go`."""

    came = anyio.Event()
    go = anyio.Event()

    async def acknowledge(self, outcome, reason):
        self.came.set()
        await self.go.wait()
        await Tracked.acknowledge(self, outcome, reason)


@pytest.fixture
def held(tmp_path):
    Held.came, Held.go = anyio.Event(), anyio.Event()
    (tmp_path / "held").mkdir()
    (first,) = named(*pictures(tmp_path / "held", 1, start=1000))
    return Held(job=first.job, stamp=first.stamp)


class Broken(ListSource):
    """A source that can't be opened."""

    @contextlib.asynccontextmanager
    async def open(self):
        raise UsageError("It may not be listed.", code="no_such_source", hint="Look at its permissions.")
        yield


# Equal images.


@pytest.mark.parametrize("is_durable", [False, True])
async def test_equals_that_failed_with_their_urls_become_one_image(system, model, tmp_path, is_durable):
    async with contextlib.AsyncExitStack() as stack:
        if is_durable:
            opening = SqliteJournal.open(tmp_path / "journal.db", Target("http://api.test/v1"))
            system = System(model, await stack.enter_async_context(opening))
        paths = pictures(tmp_path, 3, kinds=1)
        model.always(ADD, refused(500))
        assert (await system.run(ListSource(named(*paths)))).failed == 3
        model.always(ADD, None)
        summary = await system.run(ListSource(named(*paths)))
        assert (summary.added, summary.duplicate) == (1, 2)
        assert len(urls(model)) == 1
        assert (await system.run()).exit_code == 0  # and nothing is owed


async def test_one_that_failed_is_not_added_beside_its_equal(system, model, tmp_path):
    paths = pictures(tmp_path, 2, kinds=1)
    model.next(ADD, *[refused(500)] * FLOW.max_attempts)
    summary = await system.run(ListSource(named(*paths)))
    assert (summary.failed, summary.added) == (1, 1)
    summary = await system.run(ListSource(named(*paths)))
    assert (summary.duplicate, summary.exit_code) == (2, 0)
    assert len(urls(model)) == 1


# A job that is named again.


async def test_named_again_while_its_failure_is_being_told(system, held, tmp_path):
    missing = [Tracked(job=Job(image=str(tmp_path / "gone.png"))) for _ in range(2)]

    class Source(ListSource):
        async def _batches(self):
            yield [held]
            await held.came.wait()
            yield [missing[0]]
            await until(lambda: any(record.state is State.FAILED for record in system.journal.records()))
            yield [missing[1]]
            held.go.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(release_when_waited_for, system, held)
        summary = await system.run(Source([held, *missing]))
    assert (summary.added, summary.failed, summary.exit_code) == (1, 2, 1)
    assert [delivery.told for delivery in missing] == [["failed"], ["failed"]]


async def test_named_again_with_a_url_while_its_failure_is_being_told(system, model, held, tmp_path):
    (path,) = pictures(tmp_path, 1)
    (first,), (again,) = named(path), named(path)
    model.next(ADD, None, *[refused(500)] * FLOW.max_attempts)

    class Source(ListSource):
        async def _batches(self):
            yield [held]
            await held.came.wait()
            yield [first]
            await until(lambda: any(record.state is State.FAILED for record in system.journal.records()))
            yield [again]
            held.go.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(release_when_waited_for, system, held)
        await system.run(Source([held, first, again]))
    assert all(record.state in OUTCOMES for record in system.journal.records())
    assert (first.told, again.told) == (["failed"], ["added"])
    assert len(urls(model)) == 2


async def release_when_waited_for(system, held) -> None:
    """The second naming has come to the journal, and waits for the end of the first."""
    await until(lambda: len(system.journal.records()) == 2)
    await until(lambda: system.journal.records()[1].state in {State.CLAIMED, State.PARKED, State.FAILED})
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    held.go.set()


@pytest.mark.parametrize("batch_size", [1, 3, 7])
async def test_missing_files_that_are_named_thrice(system, tmp_path, batch_size):
    names = [str(tmp_path / f"{number}.png") for number in range(100)]
    deliveries = [
        Tracked(job=Job(image=name))
        for start in range(0, 100, batch_size)
        for name in names[start : start + batch_size] * 3
    ]
    assert (await system.run(ListSource(deliveries, batch_size=batch_size))).exit_code == 1
    assert all(delivery.told == ["failed"] for delivery in deliveries)


async def test_other_bytes_under_a_name_that_is_in_hand_are_another_image(system, model, tmp_path):
    (path,) = pictures(tmp_path, 1)
    model.next(PUT, stall := Stall())

    class Source(ListSource):
        async def _batches(self):
            yield self.deliveries[:1]
            await stall.came.wait()
            path.write_bytes(picture(77))
            self.deliveries += named(path)
            yield self.deliveries[1:]
            stall.go.set()

    summary = await system.run(Source(named(path)))
    assert summary.added == 2
    assert picture(77) in [model.objects[url] for url in urls(model)]


# Intake that stops.


async def test_a_delivery_that_is_asked_about_once_more_as_the_run_stops_is_released(system, model, tmp_path):
    paths = pictures(tmp_path, 2)
    model.always(ADD, refused(500))
    await system.run(ListSource(named(*paths)))
    model.always(ADD, None)
    admit, calls = system.journal.admit, []

    async def admitted(run_id, candidates):
        calls.append(candidates)
        admissions = await admit(run_id, candidates)
        if len(calls) == 2:
            system.stop.signalled(signal.SIGTERM)
            await anyio.lowlevel.checkpoint()
        return admissions

    system.journal.admit = admitted
    source = ListSource(named(*paths))
    await system.run(source)
    assert [len(delivery.told) for delivery in source.deliveries] == [1, 1]


async def test_a_source_that_can_not_be_opened_is_found_before_anything_is_sent(system, model, tmp_path):
    summary = await system.run(ListSource(named(*pictures(tmp_path, 3))), Broken([]))
    assert (summary.exit_code, summary.discovered) == (2, 0)
    assert not model.objects


async def test_a_source_that_fails_lets_what_is_in_hand_end(system, model, tmp_path):
    model.next(ADD, stall := Stall())
    durable = system.journal.hold(Settled)

    class Fails(ListSource):
        async def _batches(self):
            yield self.deliveries
            await stall.came.wait()
            raise UsageError("It can't be read any more.", code="no_such_source", hint="Look at it.")

    source = Fails(named(*pictures(tmp_path, 3)))
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        summaries = []

        async def run() -> None:
            summaries.append(await pipeline.run([source]))

        tasks.start_soon(run)
        await until(lambda: pipeline.stop.is_requested)
        stall.go.set()
        durable.set()
    assert not stall.gone.is_set()
    assert summaries[0].added == len(urls(model)) == sum(delivery.told == ["added"] for delivery in source.deliveries)


async def test_a_limit_that_is_reached_waits_for_no_other_source(system, tmp_path):
    class Empty(ListSource):
        async def _batches(self):
            await anyio.sleep_forever()
            yield []

    summary = await system.run(ListSource(named(*pictures(tmp_path, 3))), Empty([]), run=RunSettings(limit=2))
    assert summary.added == 2


async def test_suspects_as_many_as_may_be_open(system, tmp_path):
    paths = pictures(tmp_path, 3)
    for number in range(3):
        await system.journal.begin(RunId(f"killed-{number}"), key_id="tester", pid=1)
        for path, delivery in zip(paths, named(*paths), strict=True):
            candidate = Candidate(
                key=str(path),
                pack_id=PackId("pack-1"),
                locator=Locator(str(path)),
                file_name=path.name,
                stamp=delivery.stamp,
            )
            await system.journal.admit(RunId(f"killed-{number}"), [candidate])
    summary = await system.run(ListSource(named(*paths), batch_size=1), run=RunSettings(max_open_jobs=2))
    assert summary.added == 3


# Ends that are hard to tell.


@pytest.mark.parametrize("is_known", [False, True])
async def test_an_acknowledgement_that_fails_or_hangs_stops_nobody(system, tmp_path, monkeypatch, is_known):
    monkeypatch.setattr(work, "ACKNOWLEDGE_TIMEOUT_S", 0.05)

    class Fails(Tracked):
        async def acknowledge(self, outcome, reason):
            raise OSError("the broker is gone")

    class Hangs(Tracked):
        async def acknowledge(self, outcome, reason):
            await anyio.sleep_forever()

    paths = pictures(tmp_path, 4)
    if is_known:
        await system.run(ListSource(named(*paths)))
    first, second, *rest = named(*paths)
    deliveries = [Fails(job=first.job, stamp=first.stamp), Hangs(job=second.job, stamp=second.stamp), *rest]
    summary = await system.run(ListSource(deliveries))
    assert (summary.added + summary.duplicate, summary.exit_code) == (4, 0)
    assert all(delivery.told for delivery in rest)


async def test_what_the_machine_lacks_is_no_fault_of_an_image(system, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(inspect, "open_regular", refuse)
    summary = await system.run(ListSource(named(*pictures(tmp_path, 5))))
    assert (summary.failed, summary.pending, summary.exit_code) == (0, 5, 74)


async def test_what_an_earlier_run_rejected_does_not_count_against_this_one(system, tmp_path):
    bad = [tmp_path / f"bad{number}.png" for number in range(2)]
    for path in bad:
        path.write_bytes(b"no image")
    assert (await system.run(ListSource(named(*bad)))).rejected == 2
    good = pictures(tmp_path, 20)
    summary = await system.run(ListSource(named(*bad, *good), batch_size=2), run=RunSettings(max_rejected=2))
    assert (summary.added, summary.rejected) == (20, 2)
