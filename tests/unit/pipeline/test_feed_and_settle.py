"""From deliveries to claims, and from outcomes to acknowledgements."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import anyio
import pytest
from pipeline_model import (
    FLOW,
    ListSource,
    Stall,
    Tracked,
    check,
    named,
    picture,
    pictures,
    refused,
    silence,
    until,
)

from ingest.errors import MachineError, UsageError
from ingest.journal.changes import Settled, Stored
from ingest.model import Job, Operation
from ingest.policy.lifecycle import OUTCOMES, State
from ingest.settings import RunSettings
from ingest.sources.directory import DirectorySource

ADD, PUT, RESERVE = Operation.ADD_IMAGE, Operation.PUT_FILE, Operation.UPLOAD_FILE

TINY = replace(FLOW, concurrency=1)


def urls(model) -> list[str]:
    return model.packs["pack-1"].urls


async def test_a_second_run_opens_and_sends_nothing(system, model, tmp_path, monkeypatch):
    paths = pictures(tmp_path, 20)
    await system.run(ListSource(named(*paths)))
    requests = len(model.log)
    monkeypatch.setattr("ingest.pipeline.deliver.inspect", None)
    source = ListSource(named(*paths))
    summary = await system.run(source)
    assert (summary.added, summary.duplicate, summary.unchanged, summary.exit_code) == (0, 20, 20, 0)
    assert set(model.log[requests:]) <= {Operation.LIST_PACKS, Operation.GET_PACK}
    assert all(delivery.told == ["duplicate"] for delivery in source.deliveries)


async def test_other_bytes_under_a_known_name_are_added_and_the_old_image_stays(system, model, tmp_path):
    (path,) = pictures(tmp_path, 1)
    await system.run(ListSource(named(path)))
    path.write_bytes(picture(9))
    os.utime(path, ns=(1, 1))
    assert (await system.run(ListSource(named(path)))).added == 1
    assert [model.objects[url] for url in urls(model)] == [picture(0), picture(9)]
    assert [record.revision for record in system.journal.records()] == [1, 2]


async def test_the_same_bytes_with_another_stamp_are_a_duplicate(system, model, tmp_path):
    (path,) = pictures(tmp_path, 1)
    await system.run(ListSource(named(path)))
    for nanoseconds in (1, 2):
        os.utime(path, ns=(nanoseconds, nanoseconds))
        summary = await system.run(ListSource(named(path)))
        assert (summary.duplicate, summary.unchanged) == (1, 0)
    assert (await system.run(ListSource(named(path)))).unchanged == 1
    assert len(urls(model)) == 1


async def test_without_a_stamp_a_known_job_is_not_opened(system, tmp_path):
    (path,) = pictures(tmp_path, 1)
    await system.run(ListSource([Tracked(job=Job(image=str(path)))]))
    summary = await system.run(ListSource([Tracked(job=Job(image=str(path)))]))
    assert (summary.duplicate, summary.unchanged) == (1, 0)


async def test_a_callers_id_makes_it_the_same_job_wherever_it_lies(system, model, tmp_path):
    first, second = pictures(tmp_path, 2, kinds=1)
    await system.run(ListSource([Tracked(job=Job(image=str(first), id="a"))]))
    assert (await system.run(ListSource([Tracked(job=Job(image=str(second), id="a"))]))).duplicate == 1
    assert len(system.journal.records()) == 1


@pytest.mark.parametrize("limit", [1, 2, 7, 300])
async def test_the_limit_is_of_jobs_that_are_not_done_yet(system, model, tmp_path, limit):
    paths = pictures(tmp_path, 20)
    await system.run(ListSource(named(*paths[:5])))
    summary = await system.run(ListSource(named(*paths), batch_size=4), run=RunSettings(limit=limit))
    assert summary.added == min(limit, 15)
    assert summary.exit_code == 0
    summary = await system.run(run=RunSettings(limit=limit))
    assert summary.discovered == 0  # what the limit left out was not admitted


async def test_the_limit_counts_what_is_tried_again_from_its_lookup_on(system, model, tmp_path):
    paths = pictures(tmp_path, 10)
    model.always(ADD, refused(500))
    assert (await system.run(ListSource(named(*paths)))).failed == 10
    model.always(ADD, None)
    summary = await system.run(ListSource(named(*paths)), run=RunSettings(limit=3))
    assert (summary.discovered, summary.added) == (3, 3)


@pytest.mark.parametrize("limit", [None, 4])
async def test_without_a_source_what_is_pending_is_continued(system, model, tmp_path, limit):
    paths = pictures(tmp_path, 300)
    model.next(RESERVE, stall := Stall())
    async with (
        system.assembled(flow=replace(TINY, drain_timeout_s=0.01)) as pipeline,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(pipeline.run, [ListSource(named(*paths), batch_size=300)])
        await stall.came.wait()
        system.stop.signalled(signal.SIGINT)
    assert {record.state for record in system.journal.records()} == {State.PENDING}
    summary = await system.run(run=RunSettings(limit=limit))
    assert (summary.discovered, summary.added) == ((limit or 300), (limit or 300))


async def test_one_file_named_by_many_deliveries_is_one_job(system, model, tmp_path):
    (path,) = pictures(tmp_path, 1)
    sources = [ListSource(named(path, path)), ListSource(named(path))]
    summary = await system.run(*sources)
    assert (summary.discovered, summary.added, summary.duplicate) == (3, 1, 2)
    assert len(urls(model)) == 1
    assert all(len(delivery.told) == 1 for source in sources for delivery in source.deliveries)


async def test_a_job_that_settles_while_its_second_naming_waits_its_turn(system, model, tmp_path):
    """It was in hand when the journal told so, and is done when the feed comes to it."""
    first, *others = pictures(tmp_path, 60)
    model.next(ADD, stall := Stall())
    async with system.assembled(flow=TINY) as pipeline, anyio.create_task_group() as tasks:
        summaries = []

        async def run() -> None:
            summaries.append(await pipeline.run([ListSource(named(first)), ListSource(named(*others, first))]))

        tasks.start_soon(run)
        await stall.came.wait()
        # The workers and the stream before them are full: the feed waits within its batch.
        await until(lambda: pipeline._account.workers._send.statistics().tasks_waiting_send == 1)
        stall.go.set()
    (summary,) = summaries
    check(pipeline, summary)
    assert (summary.added, summary.duplicate, summary.exit_code) == (60, 1, 0)
    assert len(urls(model)) == 60


@pytest.mark.parametrize("capacity", [1, 2, 10])
@pytest.mark.parametrize("kinds", [1, 7, 300])
async def test_with_the_least_of_everything_nothing_stands_still(system, model, tmp_path, capacity, kinds):
    model.next(ADD, *[refused(500), None, refused(422), refused(500, effect=True)] * 3)
    source = ListSource(named(*pictures(tmp_path, 300, kinds=kinds)), batch_size=16)
    flow = replace(TINY, settle_delay_s=0.001, max_attempts=20)
    summary = await system.run(source, flow=flow, run=RunSettings(max_open_jobs=capacity))
    assert summary.added + summary.rejected == min(kinds + (summary.rejected if kinds < 300 else 0), 300)
    assert len(urls(model)) == len(set(urls(model))) == summary.added
    assert all(len(delivery.told) == 1 for delivery in source.deliveries)


async def test_a_run_that_stops_within_a_batch_counts_all_of_it(system, model, tmp_path):
    """What the journal was given is pending there: the summary must not know less."""
    model.always(ADD, stall := Stall())
    summaries = []
    flow = replace(TINY, drain_timeout_s=0.0)
    async with system.assembled(flow=flow) as pipeline, anyio.create_task_group() as tasks:

        async def run() -> None:
            summaries.append(await pipeline.run([ListSource(named(*pictures(tmp_path, 60)))]))

        tasks.start_soon(run)
        await stall.came.wait()
        await until(lambda: pipeline._account.workers._send.statistics().tasks_waiting_send == 1)
        system.stop.signalled(signal.SIGTERM)
    (summary,) = summaries
    check(pipeline, summary)
    assert (summary.discovered, summary.pending) == (60, 60) == (len(system.journal.records()),) * 2


async def test_what_waits_at_a_gate_when_the_drain_ends_was_never_sent(system, model, tmp_path):
    """Only the add that was under way has to be looked for; the rest starts again at once."""
    model.always(PUT, uploads := Stall())
    model.always(ADD, stall := Stall())
    flow = replace(FLOW, concurrency=1, drain_timeout_s=3600.0)
    async with system.assembled(flow=flow) as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 30)))])
        await until(lambda: model.count(RESERVE) > 2)
        uploads.go.set()
        await stall.came.wait()
        stored = lambda: sum(record.state is State.STORED for record in system.journal.records())  # noqa: E731
        await until(lambda: stored() > 2)
        system.stop.signalled(signal.SIGINT)
        system.stop.signalled(signal.SIGINT)
    assert stored() == 1
    assert {record.adds_sent for record in system.journal.records() if record.state is State.PENDING} == {0}
    model.always(ADD, None)
    summary = await system.run()
    assert (summary.added, summary.exit_code) == (30, 0)
    assert len(urls(model)) == 30


async def test_a_job_without_a_pack_is_wrong_usage(system, tmp_path):
    (path,) = pictures(tmp_path, 1)
    system.model.packs.clear()
    for image in (str(path), "https://cdn.test/a.jpg?secret=1"):
        summary = await system.run(ListSource([Tracked(job=Job(image=image))]))
        assert (summary.exit_code, summary.discovered) == (2, 0)
        assert summary.error is not None
        assert summary.error.code == "no_pack"
        assert "secret" not in summary.error.message


async def test_an_unknown_pack_ends_the_run_with_nothing_admitted(system, tmp_path):
    summary = await system.run(ListSource(named(*pictures(tmp_path, 3), pack="No such")))
    assert (summary.exit_code, summary.discovered) == (2, 0)
    assert system.journal.records() == []


async def test_a_source_that_fails_ends_the_run(system, tmp_path):
    class Broken(ListSource):
        async def _batches(self):
            yield self.deliveries
            raise UsageError("gone", code="no_such_source", hint="mount it")

    summary = await system.run(Broken(named(*pictures(tmp_path, 3))))
    assert summary.exit_code == 2


async def test_no_image_is_wrong_usage_unless_that_is_allowed(system):
    assert (await system.run(ListSource([]))).exit_code == 2
    assert (await system.run(ListSource([]), run=RunSettings(allow_empty=True))).exit_code == 0
    assert (await system.run()).exit_code == 0


@pytest.mark.parametrize("number", [1, 3])
async def test_as_many_rejections_as_allowed_stop_the_run(system, model, tmp_path, number):
    paths = [tmp_path / f"{nth}.png" for nth in range(200)]
    for path in paths:
        path.write_bytes(b"no image")
    summary = await system.run(ListSource(named(*paths), batch_size=1), flow=TINY, run=RunSettings(max_rejected=number))
    assert summary.exit_code == 1
    assert summary.error is not None
    assert summary.error.code == "max_rejected"
    assert number <= summary.rejected < 60


@pytest.mark.parametrize(("signals", "counted"), [(1, 30), (2, 0)], ids=["the first waits", "the second does not"])
async def test_stopped_while_it_admits_the_next_run_continues(system, model, tmp_path, signals, counted):
    """What the journal has admitted the run counts, unless it must end at once."""
    paths = pictures(tmp_path, 30)
    admitted = system.journal.admit
    asked, go = anyio.Event(), anyio.Event()

    async def slow(*arguments):
        admissions = await admitted(*arguments)
        asked.set()
        await go.wait()
        return admissions

    system.journal.admit = slow
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        done = []

        async def run() -> None:
            done.append(await pipeline.run([ListSource(named(*paths))]))

        tasks.start_soon(run)
        await asked.wait()
        for _ in range(signals):
            system.stop.signalled(signal.SIGINT)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert (done[0].exit_code, done[0].discovered, done[0].pending) == (130, counted, counted)
    assert {record.state for record in system.journal.records()} == {State.PENDING}
    system.journal.admit = admitted
    assert (await system.run(ListSource(named(*paths)))).added == 30
    assert {record.deaths for record in system.journal.records()} == {0}


# What a source skims.


def folder(path, **options) -> DirectorySource:
    return DirectorySource(str(path), sniff=lambda _: True, **options)


@pytest.mark.parametrize("look_size", [7, 2048])
async def test_unchanged_files_are_told_in_bulk(system, model, tmp_path, monkeypatch, look_size):
    paths = pictures(tmp_path, 40, kinds=20)
    assert (await system.run(folder(tmp_path))).added == 20
    requests, admit = len(model.log), system.journal.admit
    monkeypatch.setattr("ingest.pipeline.deliver.inspect", None)
    system.journal.admit = None
    async with system.assembled() as pipeline:
        summary = await pipeline.run([folder(tmp_path, look_size=look_size)])
        check(pipeline, summary)
    assert (summary.discovered, summary.duplicate, summary.unchanged, summary.exit_code) == (40, 40, 40, 0)
    assert set(model.log[requests:]) <= {Operation.LIST_PACKS, Operation.GET_PACK}
    monkeypatch.undo()
    system.journal.admit = admit
    paths[3].write_bytes(picture(99))
    os.utime(paths[5], ns=(5, 5))
    pictures(tmp_path, 1, start=50)
    summary = await system.run(folder(tmp_path, look_size=look_size))
    assert (summary.discovered, summary.added, summary.duplicate, summary.unchanged) == (41, 2, 39, 38)
    assert len(urls(model)) == len(set(urls(model))) == 22


async def test_metrics_count_what_is_told_in_bulk(system, tmp_path, monkeypatch):
    pictures(tmp_path, 30)
    await system.run(folder(tmp_path))
    async with system.assembled() as pipeline:
        recorder = pipeline._feed._deliveries
        await pipeline.run([folder(tmp_path)])
    text = recorder.render()[0].decode()
    assert "ingest_jobs_discovered_total 30.0" in text
    assert 'ingest_jobs_total{outcome="duplicate"} 30.0' in text
    assert 'ingest_deliveries_total{result="acknowledged",source="directory"} 30.0' in text


async def test_what_was_rejected_or_failed_takes_the_ordinary_way(system, model, tmp_path):
    pictures(tmp_path, 10)
    (tmp_path / "00000.png").write_bytes(b"no image")
    model.next(RESERVE, refused(422))
    first = await system.run(folder(tmp_path))
    assert (first.added, first.rejected) == (8, 2)
    again = await system.run(folder(tmp_path))
    assert (again.discovered, again.duplicate, again.unchanged, again.rejected) == (10, 8, 8, 2)
    assert again.exit_code == 1


async def test_what_failed_is_tried_again(system, model, tmp_path):
    pictures(tmp_path, 10)
    model.always(ADD, refused(500))
    assert (await system.run(folder(tmp_path))).failed == 10
    model.always(ADD, None)
    summary = await system.run(folder(tmp_path))
    assert (summary.discovered, summary.added, summary.unchanged) == (10, 10, 0)


async def test_another_pack_has_none_of_them(system, model, tmp_path):
    pictures(tmp_path, 10)
    await system.run(folder(tmp_path))
    run = RunSettings(pack="Other", create_pack=True)
    assert (await system.run(folder(tmp_path), run=run)).added == 10
    assert (await system.run(folder(tmp_path), run=run)).unchanged == 10


async def test_the_same_directory_twice_in_one_run(system, model, tmp_path):
    pictures(tmp_path, 60)
    summary = await system.run(folder(tmp_path), folder(tmp_path))
    assert (summary.discovered, summary.added, summary.duplicate) == (120, 60, 60)
    assert len(urls(model)) == 60


async def test_the_limit_is_not_spent_on_what_is_told_in_bulk(system, model, tmp_path):
    pictures(tmp_path, 10)
    await system.run(folder(tmp_path))
    pictures(tmp_path, 10, start=20)
    summary = await system.run(folder(tmp_path, look_size=4), run=RunSettings(limit=3))
    assert (summary.added, summary.duplicate, summary.exit_code) == (3, 10, 0)


async def test_without_a_pack_of_the_run_nothing_is_skimmed(system, tmp_path):
    pictures(tmp_path, 1)
    system.model.packs.clear()
    summary = await system.run(folder(tmp_path))
    assert (summary.exit_code, summary.error.code) == (2, "no_pack")


# The end of a job.


async def test_a_delivery_is_acknowledged_only_when_its_outcome_is_durable(system, tmp_path):
    durable = system.journal.hold(Settled)
    source = ListSource(named(*pictures(tmp_path, 6, kinds=3)))
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [source])
        await until(lambda: system.journal.kinds().count("Settled") == 3)
        assert [delivery.told for delivery in source.deliveries] == [[]] * 6
        assert system.settled == []
        durable.set()
    assert sorted(delivery.told[0] for delivery in source.deliveries) == ["added"] * 3 + ["duplicate"] * 3


async def test_outcomes_are_told_in_the_order_of_their_commits(system, tmp_path):
    await system.run(ListSource(named(*pictures(tmp_path, 60, kinds=30))))
    committed = [change.job_id for change in system.journal.changes if isinstance(change, Settled)]
    assert [settlement.record.job_id for settlement in system.settled] == committed


async def test_an_error_of_who_is_told_is_a_bug_and_the_journal_is_closed(system, model, tmp_path):
    def broken(_settlement) -> None:
        raise RuntimeError("the caller's own")

    system.settled = type("Broken", (), {"append": staticmethod(broken)})()
    paths = pictures(tmp_path, 5)
    with pytest.raises(BaseExceptionGroup) as raised:
        await system.run(ListSource(named(*paths)))
    assert raised.group_contains(RuntimeError, match="own")
    assert system.journal.ends == 1
    system.settled = []
    summary = await system.run(ListSource(named(*paths)))
    assert summary.added + summary.duplicate == 5
    assert len(urls(model)) == len(set(urls(model))) == 5


@pytest.mark.parametrize("kind", [Stored, Settled])
async def test_a_full_disk_ends_the_run_and_the_next_one_continues(system, model, tmp_path, kind):
    paths = pictures(tmp_path, 40)
    full = []

    def failure(change):
        if isinstance(change, kind):
            full.append(change)
        return MachineError("disk full", code="journal_unwritable") if len(full) > 10 else None

    system.journal.failure = failure
    source = ListSource(named(*paths))
    summary = await system.run(source)
    assert (summary.exit_code, summary.error.code) == (74, "journal_unwritable")
    assert all(len(delivery.told) <= 1 for delivery in source.deliveries)
    system.journal.failure = lambda _: None
    summary = await system.run(ListSource(named(*paths)))
    assert summary.added + summary.duplicate == 40
    assert len(urls(model)) == len(set(urls(model))) == 40


async def test_a_signal_lets_what_is_in_hand_end(system, model, tmp_path):
    paths = pictures(tmp_path, 100)
    model.next(ADD, stall := Stall())
    source = ListSource(named(*paths))
    async with system.assembled(flow=TINY) as pipeline, anyio.create_task_group() as tasks:
        done = []

        async def run() -> None:
            done.append(await pipeline.run([source]))

        tasks.start_soon(run)
        await stall.came.wait()
        system.stop.signalled(signal.SIGTERM)
        stall.go.set()
    assert done[0].exit_code == 143
    assert 1 <= done[0].added <= 10
    assert done[0].added == len(urls(model))
    states = {record.state for record in system.journal.records()}
    assert states == {State.ADDED, State.PENDING}


async def test_a_second_signal_drops_an_add_and_the_next_run_looks_it_up(system, model, tmp_path):
    paths = pictures(tmp_path, 3)

    async def done_and_silent(call, do):
        do()
        return await stall(call, do)

    stall = Stall()
    model.next(ADD, done_and_silent)
    async with (
        system.assembled(flow=replace(FLOW, drain_timeout_s=3600.0)) as pipeline,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(pipeline.run, [ListSource(named(*paths))])
        await stall.came.wait()
        system.stop.signalled(signal.SIGINT)
        system.stop.signalled(signal.SIGINT)
    assert State.STORED in {record.state for record in system.journal.records()}
    summary = await system.run(ListSource(named(*paths)))
    assert summary.exit_code == 0
    assert len(urls(model)) == len(set(urls(model))) == 3


async def test_a_stop_while_a_pack_is_made_is_not_made_twice(system, model, tmp_path):
    model.packs.clear()
    paths = pictures(tmp_path, 1)
    stall = Stall()

    async def done_and_silent(call, do):
        do()
        return await stall(call, do)

    model.next(Operation.CREATE_PACK, done_and_silent)
    run = RunSettings(pack="New", create_pack=True)
    async with system.assembled(run=run) as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*paths))])
        await stall.came.wait()
        system.stop.signalled(signal.SIGINT)
    assert (await system.run(ListSource(named(*paths)), run=run)).added == 1
    assert len(model.packs) == 1


async def test_a_silent_api_is_given_up(system, model, tmp_path):
    model.always(RESERVE, silence(was_sent=False))
    summary = await system.run(ListSource(named(*pictures(tmp_path, 20))), flow=replace(FLOW, give_up_after_s=0.2))
    assert (summary.exit_code, summary.pending, summary.error.code) == (75, 20, "unreachable")


async def test_a_key_of_another_scope_rejects_nothing(system, model, tmp_path):
    paths = pictures(tmp_path, 10)
    await system.run(ListSource(named(paths[0])))
    model.next(RESERVE, stall := Stall())
    async with (
        system.assembled(flow=replace(FLOW, drain_timeout_s=0.01)) as pipeline,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(pipeline.run, [ListSource(named(*paths))])
        await stall.came.wait()
        system.stop.signalled(signal.SIGINT)
    # What was cut off between `stored` and its answer is pending too: it waits for a lookup.
    pending = [record for record in system.journal.records() if record.state not in OUTCOMES]
    assert pending
    model.packs["pack-1"].is_ours = False
    system.api = replace(system.api, key="other.secret")
    summary = await system.run()
    assert (summary.exit_code, summary.rejected, summary.error.code) == (3, 0, "wrong_scope")
    assert summary.pending == len(pending)


async def test_a_key_of_another_scope_rejects_nothing_the_second_time_either(system, model, tmp_path):
    await test_a_key_of_another_scope_rejects_nothing(system, model, tmp_path)
    summary = await system.run()
    assert (summary.exit_code, summary.rejected) == (3, 0)
