"""What happens between two steps that look as if nothing could: equals, second namings, ends that are being told."""

from __future__ import annotations

import contextlib
import errno
import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from pipeline_model import (
    FLOW,
    Late,
    ListSource,
    Stall,
    System,
    Tracked,
    named,
    picture,
    pictures,
    refused,
    silence,
    until,
)

from ingest.errors import UsageError
from ingest.images import inspect
from ingest.journal.changes import Settled
from ingest.journal.records import Candidate
from ingest.journal.sqlite import SqliteJournal
from ingest.model import Job, Locator, Operation, PackId, RunId, Target
from ingest.pipeline import work
from ingest.policy.lifecycle import OUTCOMES, State
from ingest.settings import RunSettings

ADD, PUT, DELETE = Operation.ADD_IMAGE, Operation.PUT_FILE, Operation.DELETE_IMAGE
RESERVE = Operation.UPLOAD_FILE


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


async def killed_thrice(system, paths) -> None:
    """Runs that had these in hand, and were killed."""
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


async def test_suspects_as_many_as_may_be_open(system, tmp_path):
    paths = pictures(tmp_path, 3)
    await killed_thrice(system, paths)
    summary = await system.run(ListSource(named(*paths), batch_size=1), run=RunSettings(max_open_jobs=2))
    assert summary.added == 3


async def test_suspects_of_a_queue_that_gives_no_more_while_it_waits_for_them(system, tmp_path):
    class Queue(ListSource):
        name = "redis"

        async def _batches(self):
            for delivery in self.deliveries:
                yield [delivery]
                while not delivery.told:
                    await anyio.sleep(0.001)

    paths = pictures(tmp_path, 3)
    await killed_thrice(system, paths)
    with anyio.fail_after(10):
        summary = await system.run(Queue(named(*paths)))
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


# Lookups and audits beside each other.


class Scripted:
    """What becomes of each add of an image, by its file's name and the number of the add."""

    def __init__(self, **fates) -> None:
        self.fates = fates
        self.adds = Counter()

    async def __call__(self, call, do):
        name = Path(json.loads(call.body)["file_name"]).stem
        self.adds[name] += 1
        fates = self.fates[f"image_{name}"]
        fate = fates[min(self.adds[name], len(fates)) - 1]
        return do() if fate is None else await fate(call, do)


async def test_an_audit_is_not_closed_by_a_read_that_began_before_its_last_add(system, model, tmp_path):
    """While another job's surplus copy is being deleted, this one is added again: the read says nothing of that."""
    first, second = pictures(tmp_path, 2)
    late_first, late_second = Late(), Late()
    adds = Scripted(image_00000=[late_first, None], image_00001=[late_second, silence(), None])
    model.always(ADD, adds)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(first, second))])
        await until(lambda: adds.adds.total() == 4)
        system.stop.signalled(signal.SIGTERM)
    assert all(record.audit_is_open for record in system.journal.records())
    late_first.land()
    model.next(DELETE, stall := Stall())
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [])
        await stall.came.wait()
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        stall.go.set()
        await until(lambda: adds.adds["00001"] == 3)
        late_second.land()
    assert len(urls(model)) == len(set(urls(model))) == 2


@pytest.mark.parametrize("failure", [refused(500), refused(500, effect=True), silence(effect=True)])
async def test_no_more_copies_are_deleted_than_were_added_whatever_became_of_a_delete(system, model, tmp_path, failure):
    late = Late()
    model.next(ADD, late, late, None)
    model.next(DELETE, None, failure)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 1)))])
        await until(lambda: bool(system.settled))
        late.land()
        model.packs["pack-1"].images.append(("by-a-person", urls(model)[0]))
    (record,) = system.journal.records()
    assert record.adds_sent == 3
    assert len(urls(model)) == 2  # of four copies two may go


async def test_the_journal_names_the_copy_that_an_audit_left(system, model, tmp_path):
    late = Late()
    model.next(ADD, late, None)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 1)))])
        await until(lambda: bool(system.settled))
        late.land()
        model.packs["pack-1"].images.reverse()  # the late one is the older one
    assert [system.journal.records()[0].image_id] == [image_id for image_id, _ in model.packs["pack-1"].images]


async def test_an_equal_image_that_may_yet_be_found_goes_before(system, model, tmp_path):
    """Two equal jobs, parked one after the other: what is absent waits for what may have been added."""
    paths = pictures(tmp_path, 2, kinds=1)
    model.always(ADD, refused(500))
    assert (await system.run(ListSource(named(*paths)))).failed == 2
    model.always(ADD, None)
    model.packs["pack-1"].images.append(("late", system.journal.records()[1].url))  # later than anybody looked
    summary = await system.run(ListSource(named(*paths)))
    assert (summary.added, summary.duplicate) == (1, 1)
    assert len(urls(model)) == 1


# Keys and packs.


def another_workspace(system, model, *, is_public: bool = False):
    """From here on the key is one of another workspace, which has a pack of its own."""
    model.packs["pack-1"].is_ours = False
    model.packs["pack-1"].is_public = is_public
    system.api = replace(system.api, key="other.secret")
    return model.add_pack("Second")


def back_to_the_first(system, model, theirs) -> None:
    model.packs["pack-1"].is_ours, theirs.is_ours = True, False
    system.api = replace(system.api, key="tester.secret")


async def test_what_another_key_left_parked_waits_for_that_key(system, model, tmp_path):
    first, parked = pictures(tmp_path, 2)
    await system.run(ListSource(named(first)))
    model.next(ADD, silence())
    async with (
        system.assembled(flow=replace(FLOW, settle_delay_s=3600.0)) as pipeline,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(pipeline.run, [ListSource(named(parked))])
        await until(lambda: pipeline.snapshot().parked == 1)
        system.stop.signalled(signal.SIGTERM)
    theirs = another_workspace(system, model)
    (tmp_path / "new").mkdir()
    new = pictures(tmp_path / "new", 2, start=100)
    for _ in range(2):
        summary = await system.run(ListSource(named(*new)), run=RunSettings(pack="Second"))
        assert summary.exit_code == 75
    back_to_the_first(system, model, theirs)
    summary = await system.run(ListSource(named(first, parked)), run=RunSettings(pack="pack-1"))
    assert (summary.added + summary.duplicate, summary.exit_code) == (2, 0)
    assert len(urls(model)) == 2


async def test_what_another_key_left_pending_waits_for_that_key(system, model, tmp_path):
    paths = pictures(tmp_path, 6)
    model.next(RESERVE, None, stall := Stall())
    async with (
        system.assembled(flow=replace(FLOW, drain_timeout_s=0.0)) as pipeline,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(pipeline.run, [ListSource(named(*paths))])
        await stall.came.wait()
        await until(lambda: len(urls(model)) >= 1)
        system.stop.signalled(signal.SIGINT)
    pending = sum(record.state is State.PENDING for record in system.journal.records())
    assert pending
    theirs = another_workspace(system, model)
    (tmp_path / "new").mkdir()
    new = pictures(tmp_path / "new", 2, start=100)
    assert (await system.run(ListSource(named(*new)), run=RunSettings(pack="Second"))).added == 2
    uploads = model.count(PUT)
    summary = await system.run()
    assert (summary.rejected, summary.pending, summary.exit_code) == (0, pending, 75)
    assert model.count(PUT) <= uploads + FLOW.concurrency  # those that came before the first answer
    back_to_the_first(system, model, theirs)
    assert (await system.run(run=RunSettings(pack="pack-1"))).exit_code == 0
    assert len(urls(model)) == 6


async def test_a_copy_that_this_key_may_not_delete_stays_owed(system, model, tmp_path):
    late = Late()
    model.next(ADD, late, None)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 1)))])
        await until(lambda: bool(system.settled))
        system.stop.signalled(signal.SIGTERM)
    late.land()
    theirs = another_workspace(system, model, is_public=True)
    (tmp_path / "new").mkdir()
    new = pictures(tmp_path / "new", 2, start=100)
    assert (await system.run(ListSource(named(*new)), run=RunSettings(pack="Second"))).exit_code == 75
    assert system.journal.records()[0].audit_is_open
    back_to_the_first(system, model, theirs)
    assert (await system.run(run=RunSettings(pack="pack-1"))).exit_code == 0
    assert len(urls(model)) == 1


async def test_the_audit_of_a_pack_that_was_filled_long_ago_and_is_gone_ends(system, model, tmp_path):
    paths = pictures(tmp_path, 13)
    slow = replace(FLOW, settle_delay_s=3600.0)
    model.next(ADD, silence(), None)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(paths[0]))])
        await until(lambda: bool(system.settled))
        system.stop.signalled(signal.SIGTERM)
    assert system.journal.records()[0].audit_is_open
    for number, path in enumerate(paths[1:], start=2):
        pack = model.add_pack(f"pack {number}")
        settled = len(system.settled)
        async with (
            system.assembled(flow=slow, run=RunSettings(pack=pack.pack_id)) as pipeline,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(pipeline.run, [ListSource(named(path))])
            await until(lambda before=settled: len(system.settled) > before)
            system.stop.signalled(signal.SIGTERM)
    del model.packs["pack-1"]
    assert (await system.run()).exit_code == 0
    assert not system.journal.records()[0].audit_is_open


async def test_a_pack_that_is_renamed_as_it_is_looked_for_is_not_gone(system, model, tmp_path):
    model.next(ADD, None, refused(404, "not_found"))

    async def rename(_call, do):
        if model.count(ADD) >= 2:
            model.packs["pack-1"].name = "Another"
        return do()

    model.always(Operation.LIST_PACKS, rename)
    summary = await system.run(ListSource(named(*pictures(tmp_path, 30))))
    assert (summary.added, summary.rejected) == (30, 0)


async def test_a_key_file_that_turns_to_another_known_scope_does_not_join_the_two(system, model, tmp_path):
    """The journal is told with which key a pack was seen, and not with which one the run began."""
    ours, theirs = model.packs["pack-1"], model.add_pack("Theirs")
    key_file = tmp_path / "key"
    system.api = replace(system.api, key="", key_file=str(key_file))
    first, uncertain, third, fourth = pictures(tmp_path, 4)
    patient = replace(FLOW, settle_delay_s=3600.0, concurrency=1)

    def use(key: str) -> None:
        key_file.write_text(f"{key}.secret")
        ours.is_ours, theirs.is_ours = key == "a", key == "b"

    async def turned(_call, _do):
        use("b")
        return await refused(401, "invalid_token")(_call, _do)

    async def run_until(sources, pack: str, holds) -> None:
        async with (
            system.assembled(flow=patient, run=RunSettings(pack=pack)) as pipeline,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(pipeline.run, sources)
            await until(lambda: holds(pipeline))
            system.stop.signalled(signal.SIGTERM)

    use("b")
    assert (await system.run(ListSource(named(first)), run=RunSettings(pack="Theirs"))).added == 1
    model.next(ADD, silence(effect=True))
    await run_until([ListSource(named(uncertain))], "Theirs", lambda pipeline: pipeline.snapshot().parked == 1)
    use("a")
    model.next(ADD, turned)

    class Slow(ListSource):
        async def _batches(self):
            yield self.deliveries[:1]
            await until(lambda: len(system.journal.records()) == 3 and key_file.read_text() == "b.secret")
            yield self.deliveries[1:]

    settled = len(system.settled)
    source = Slow([*named(third), *named(fourth, pack="Theirs")])
    await run_until([source], "pack-1", lambda _: len(system.settled) > settled)
    use("a")
    summary = await system.run(ListSource(named(third)), run=RunSettings(pack="pack-1"))
    assert summary.exit_code == 75
    (record,) = [record for record in system.journal.records() if record.locator == str(uncertain)]
    assert record.state is State.PARKED  # theirs, and in their pack
