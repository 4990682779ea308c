"""Lookups and audits: what is owed for adds whose effect is unknown."""

from __future__ import annotations

import itertools
import signal
from collections import Counter
from dataclasses import replace

import anyio
import pytest
from pipeline_model import (
    FLOW,
    Late,
    ListSource,
    Stall,
    envelope,
    named,
    page,
    picture,
    pictures,
    refused,
    silence,
    until,
)

from ingest.journal.changes import AuditClosed, Condemned
from ingest.model import Operation
from ingest.policy.lifecycle import State
from ingest.settings import RunSettings

ADD, READ, DELETE = Operation.ADD_IMAGE, Operation.GET_PACK, Operation.DELETE_IMAGE
UPLOAD = Operation.UPLOAD_FILE


def urls(model) -> list[str]:
    return model.packs["pack-1"].urls


async def parked(system, paths, *, effect: bool = False) -> None:
    """Leave these jobs parked by a run that ends at once."""
    system.model.always(ADD, page(200, effect=effect))
    async with (
        system.assembled(flow=replace(FLOW, settle_delay_s=3600.0)) as pipeline,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(pipeline.run, [ListSource(named(*paths))])
        await until(lambda: pipeline.snapshot().parked == len(paths))
        system.stop.signalled(signal.SIGTERM)
    system.model.always(ADD, None)


async def test_one_read_resolves_all_that_are_due(system, model, tmp_path):
    await parked(system, pictures(tmp_path, 500), effect=True)
    reads = model.count(READ)
    summary = await system.run()
    assert (summary.added, summary.exit_code) == (500, 0)
    assert model.count(READ) == reads + 1
    assert len(urls(model)) == len(set(urls(model))) == 500


async def test_thousands_that_are_absent_are_added_once(system, model, tmp_path):
    paths = pictures(tmp_path, 2000)
    await parked(system, paths)
    summary = await system.run(ListSource(named(*paths)))
    assert summary.added + summary.duplicate == 2000  # what was found before its source named it is a duplicate
    assert len(urls(model)) == len(set(urls(model))) == 2000
    assert not any(record.audit_is_open for record in system.journal.records())


async def test_it_is_added_again_only_after_a_read_that_began_a_settle_delay_later(system, model, tmp_path):
    model.next(ADD, silence())
    await system.run(ListSource(named(*pictures(tmp_path, 1))))
    first, again = (nth for nth, operation in enumerate(model.log) if operation is ADD)
    assert READ in model.log[first:again]


async def test_an_early_read_that_finds_nothing_tells_nothing(system, model, tmp_path):
    """Two jobs, one due long before the other: the read for the first must not have the second added again."""
    paths = pictures(tmp_path, 2)
    late = Late()
    model.next(ADD, silence(), late)
    model.next(READ, None, None)
    flow = replace(FLOW, settle_delay_s=0.4, concurrency=1)
    async with system.assembled(flow=flow) as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*paths))])
        await until(lambda: pipeline.snapshot().parked == 2)
        late.land()
    assert sorted(model.adds.values()) == [1, 2]
    assert len(urls(model)) == len(set(urls(model))) == 2


async def test_a_read_that_had_to_wait_tells_nothing_of_what_was_parked_meanwhile(system, model, tmp_path):
    """A read may wait at its gate for longer than a settle delay; what it was to look for was said before that."""
    unavailable = refused(503, retry_after="0.3", effect=True)  # pauses the lane, and its own effect is unknown
    model.next(ADD, silence(effect=True), stall := Stall(unavailable))
    flow = replace(FLOW, settle_delay_s=0.05, concurrency=1)
    async with system.assembled(flow=flow) as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 2)))])
        await stall.came.wait()
        await until(lambda: any(gate._waiting for gate in pipeline._account.gates.values()))
        stall.go.set()
    assert set(model.adds.values()) == {1}
    assert len(urls(model)) == len(set(urls(model))) == 2


async def test_reads_of_a_pack_lie_ten_times_their_duration_apart(system, model, tmp_path):
    model.read_takes_s = 0.02
    model.always(ADD, silence())
    flow = replace(FLOW, settle_delay_s=0.001, max_attempts=3)
    async with system.assembled(flow=flow) as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 5)))])
        await until(lambda: len(model.reads) >= 5)
        system.stop.signalled(signal.SIGTERM)
    gaps = [then[0] - before[1] for before, then in itertools.pairwise(model.reads[1:])]  # the first found the pack
    assert min(gaps) >= 10 * model.read_takes_s


@pytest.mark.parametrize("step", [refused(500), page(502), silence(), refused(429, retry_after="0"), page(200)])
async def test_a_read_that_fails_is_made_again(system, model, tmp_path, step):
    await parked(system, pictures(tmp_path, 3), effect=True)
    model.next(READ, step, step)
    assert (await system.run()).added == 3
    assert len(urls(model)) == 3


# Audits.


async def test_an_effect_that_lands_after_the_second_add_is_taken_back(system, model, tmp_path):
    late = Late()

    async def again(_call, do):
        answer = do()
        late.land()
        return answer

    model.next(ADD, late, again)
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert (summary.added, summary.exit_code) == (1, 0)
    assert len(urls(model)) == 1
    assert model.count(DELETE) == 1


@pytest.mark.parametrize("copies", [1, 2, 3, 5])
async def test_no_more_is_deleted_than_was_sent_beyond_the_first_in_pack_order(system, model, tmp_path, copies):
    """Others may have put copies of the url there as well: they are not ours to take."""
    pack = model.packs["pack-1"]
    pack.images.append(("foreign", "http://elsewhere.test/1"))

    async def many(_call, do):
        for _ in range(copies):
            answer = do()
        return answer

    model.next(ADD, silence(), many)
    await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert model.count(DELETE) == min(copies - 1, 1)
    assert [image_id for image_id, _ in pack.images][:2] == ["foreign", "image-2"]
    assert len(pack.images) == 1 + max(1, copies - 1)


async def test_an_audit_that_may_not_delete_leaves_the_run_unfinished_and_asks_once(system, model, tmp_path):
    async def twice(_call, do):
        do()
        return do()

    model.next(ADD, silence(), twice)
    model.next(DELETE, refused(422))
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert (summary.added, summary.exit_code, model.count(DELETE)) == (1, 75, 1)
    assert system.journal.records()[0].audit_is_open
    # The debt stays in the journal, and the next run pays it.
    assert (await system.run()).exit_code == 0
    assert len(urls(model)) == 1


async def test_a_delete_that_fails_is_tried_again_after_a_pause(system, model, tmp_path):
    async def twice(_call, do):
        do()
        return do()

    model.next(ADD, silence(), twice)
    model.next(DELETE, refused(500), silence())
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert (summary.added, summary.exit_code, model.count(DELETE)) == (1, 0, 3)
    assert len(urls(model)) == 1


def lying(times: int):
    """Deletes that are answered with success and do nothing, so often."""

    async def step(_call, _do):
        return envelope(200, {"id": "image-2", "deleted": True})

    return [step] * times


@pytest.mark.parametrize("lies", [1, 2])
async def test_a_delete_that_lies_is_sent_again(system, model, tmp_path, lies):
    async def twice(_call, do):
        do()
        return do()

    model.next(ADD, silence(), twice)
    model.next(DELETE, *lying(lies))
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert (summary.added, summary.exit_code, model.count(DELETE)) == (1, 0, lies + 1)
    assert len(urls(model)) == 1
    assert not system.journal.records()[0].audit_is_open
    # Between two of them, and before the end, lies a read that began a settle delay after the last one had ended.
    deletes = [nth for nth, operation in enumerate(model.log) if operation is DELETE]
    assert all(READ in model.log[one + 1 : other] for one, other in itertools.pairwise([*deletes, len(model.log)]))
    assert system.journal.kinds().count("Condemned") == 1


async def test_deletes_that_go_on_lying_leave_the_run_unfinished(system, model, tmp_path):
    async def twice(_call, do):
        do()
        return do()

    model.next(ADD, silence(), twice)
    model.next(DELETE, *lying(3))
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert (summary.added, summary.exit_code, model.count(DELETE)) == (1, 75, 3)
    assert system.journal.records()[0].audit_is_open
    assert len(urls(model)) == 2
    assert (await system.run()).exit_code == 0
    assert len(urls(model)) == 1


async def test_an_image_that_is_listed_twice_is_no_copy(system, model, tmp_path):
    pack = model.packs["pack-1"]

    async def listed_twice(_call, do):
        pack.images *= 2
        answer = do()
        pack.images = pack.images[: len(pack.images) // 2]
        return answer

    model.next(ADD, silence(), None)
    model.next(READ, None, None, listed_twice)  # which finds the pack, looks the job up, and audits it
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).exit_code == 0
    assert (model.count(DELETE), len(urls(model))) == (0, 1)


async def test_each_add_that_was_sent_allows_one_deletion(system, model, tmp_path):
    late = Late()

    async def all_at_once(_call, do):
        answer = do()
        late.land()
        return answer

    model.next(ADD, late, late, late, all_at_once)
    await system.run(ListSource(named(*pictures(tmp_path, 1))), flow=replace(FLOW, max_attempts=9))
    assert len(urls(model)) == 1
    assert model.count(DELETE) == 3


@pytest.mark.parametrize(
    ("step", "deletes"),
    [
        (refused(404, "image_not_found", effect=True), 1),
        (refused(500, effect=True), 1),
        (refused(500), 2),
        (silence(effect=True), 1),
        (silence(), 2),
        (refused(429, retry_after="0"), 2),
    ],
)
async def test_a_delete_that_fails_is_looked_into_by_another_read(system, model, tmp_path, step, deletes):
    async def twice(_call, do):
        do()
        return do()

    model.next(ADD, silence(), twice)
    model.next(DELETE, step)
    await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert len(urls(model)) == 1
    assert model.count(DELETE) == deletes
    assert not system.journal.records()[0].audit_is_open


async def test_an_audit_survives_the_process(system, model, tmp_path):
    late = Late()
    model.next(ADD, late, None)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 1)))])
        await until(lambda: bool(system.settled))
        system.stop.signalled(signal.SIGTERM)
    assert system.journal.records()[0].audit_is_open
    late.land()
    assert len(urls(model)) == 2
    assert (await system.run()).exit_code == 0
    assert len(urls(model)) == 1
    assert not system.journal.records()[0].audit_is_open


async def test_a_run_ends_only_when_its_audits_are_durable(system, model, tmp_path):
    durable = system.journal.hold(AuditClosed)
    model.next(ADD, silence())
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        done = []

        async def run() -> None:
            done.append(await pipeline.run([ListSource(named(*pictures(tmp_path, 1)))]))

        tasks.start_soon(run)
        await until(lambda: "AuditClosed" in system.journal.kinds())
        assert not done
        durable.set()


async def test_copies_are_condemned_durably_before_the_first_of_them_is_deleted(system, model, tmp_path):
    async def thrice(_call, do):
        do()
        do()
        return do()

    durable = system.journal.hold(Condemned)
    model.next(ADD, silence(), silence(), thrice)
    async with system.assembled(flow=replace(FLOW, max_attempts=9)) as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 1)))])
        await until(lambda: "Condemned" in system.journal.kinds())
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        assert model.count(DELETE) == 0
        assert len(urls(model)) == 3
        kept, *surplus = [image_id for image_id, _ in model.packs["pack-1"].images]
        durable.set()
    assert [image_id for image_id, _ in model.packs["pack-1"].images] == [kept]
    (record,) = system.journal.records()
    assert (record.condemned, record.image_id) == (tuple(surplus), kept)
    assert system.journal.kinds().count("Condemned") == 1


@pytest.mark.parametrize(
    "step",
    [
        *(refused(500, effect=effect) for effect in (False, True)),
        *(silence(effect=effect) for effect in (False, True)),
        refused(404, "pack_not_found"),  # in passing: the image is there
        refused(422),
    ],
)
async def test_what_was_condemned_goes_and_nothing_in_its_place(system, model, tmp_path, step):
    """Whatever became of the requests that deleted it, and though the next one is sent by another run."""

    async def twice(_call, do):
        do()
        return do()

    async def and_stop(call, do):
        system.stop.signalled(signal.SIGTERM)
        model.always(READ, silence())  # so that no read of this run tells what became of it
        return await step(call, do)

    pack = model.packs["pack-1"]
    model.next(ADD, silence(), twice)
    model.next(DELETE, and_stop)
    await system.run(ListSource(named(*pictures(tmp_path, 1))))
    model.always(READ, None)
    (record,) = system.journal.records()
    (condemned,) = record.condemned
    kept = pack.images[0][0]
    pack.images.append(("by-a-person", record.url))
    pack.images.append(("and-another", record.url))
    pack.images.sort(key=lambda image: image[0] != condemned)  # where it stands as the first, it goes all the same
    assert record.audit_is_open
    assert (await system.run()).exit_code == 0
    assert [image_id for image_id, _ in pack.images] == [kept, "by-a-person", "and-another"]
    (record,) = system.journal.records()
    assert (record.condemned, record.audit_is_open, record.image_id) == ((condemned,), False, kept)


async def test_where_the_server_names_another_url_both_are_looked_for(system, model, tmp_path):
    """The first effect lands under the server's own url, which only the second answer tells."""
    model.normalised = lambda url: f"{url}?v=1"
    model.next(ADD, silence(effect=True))
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert summary.added == 1
    assert len(urls(model)) == 1
    assert system.journal.records()[0].answered_url == urls(model)[0]


@pytest.mark.parametrize("spelt", [("-", "%2D"), ("f", "%66")])
async def test_where_the_server_spells_the_url_in_another_way_it_is_found(system, model, tmp_path, spelt):
    model.normalised = lambda url: url.replace(*spelt)
    model.always(ADD, silence(effect=True))
    summary = await system.run(ListSource(named(*pictures(tmp_path, 3))))
    assert (summary.added, summary.exit_code) == (3, 0)
    assert len(urls(model)) == 3
    assert set(model.adds.values()) == {1}


async def test_copies_are_deleted_however_the_server_spells_them(system, model, tmp_path):
    """Also where the second add is answered, with the server's spelling."""
    late = Late()
    model.normalised = lambda url: url.replace("-", "%2D")

    async def again(_call, do):
        answer = do()
        late.land()
        return answer

    model.next(ADD, late, again)
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert (summary.added, summary.exit_code) == (1, 0)
    assert len(urls(model)) == 1


async def test_another_pack_than_the_one_that_was_asked_for_proves_no_absence(system, model, tmp_path):
    await parked(system, pictures(tmp_path, 3), effect=True)
    other = model.add_pack("Second")

    async def mixed_up(call, do):
        images, other.images = other.images, [("image-x", "http://elsewhere.test/1")]
        call = replace(call, url=call.url.replace("pack-1", "pack-2"))
        try:
            return model._do(call, b"")
        finally:
            other.images = images

    model.next(READ, mixed_up, mixed_up)
    assert (await system.run()).added == 3
    assert len(urls(model)) == 3


async def test_a_read_that_goes_on_while_a_second_add_ends_closes_no_audit(system, model, tmp_path):
    """The audit of the first job must not close by a read that began before its second add had ended."""
    first, second = pictures(tmp_path, 2)
    late, slow = Late(), Stall()

    model.next(ADD, late, silence(effect=True), slow)
    async with system.assembled(flow=replace(FLOW, concurrency=2)) as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(first, second))])
        await slow.came.wait()  # the second add of the first job is under way
        reads = len(model.reads)
        late.land()
        await pipeline._reconciler._read("pack-1", pipeline._reconciler._debts["pack-1"])
        assert len(model.reads) > reads
        slow.go.set()
    assert len(urls(model)) == len(set(urls(model))) == 2


# Packs out of sight.


async def test_parked_jobs_of_a_pack_that_is_gone_are_rejected(system, model, tmp_path):
    paths = pictures(tmp_path, 5)
    await parked(system, paths, effect=True)
    del model.packs["pack-1"]
    summary = await system.run()
    assert (summary.rejected, summary.exit_code) == (5, 1)
    assert {settlement.reason for settlement in system.settled} == {"pack_gone"}


def another_scope(system, model) -> None:
    """From here on the key is one that sees none of the packs so far, but a pack of its own."""
    for pack in model.packs.values():
        pack.is_ours = False
    model.add_pack("Second")
    system.api = replace(system.api, key="other.secret")


def first_scope(system, model) -> None:
    model.packs["pack-1"].is_ours, model.packs["pack-2"].is_ours = True, False
    system.api = replace(system.api, key="tester.secret")


async def owed_an_audit(system, model, path) -> Late:
    """Leave the audit of this job open, whose first add is still on its way."""
    late = Late()
    model.next(ADD, late, None)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        settled = len(system.settled)
        tasks.start_soon(pipeline.run, [ListSource(named(path))])
        await until(lambda: len(system.settled) > settled)
        system.stop.signalled(signal.SIGTERM)
    return late


@pytest.mark.parametrize("count", [0, 5])
async def test_debts_to_a_pack_in_another_scope_are_left_unpaid(system, model, tmp_path, count):
    """An audit, and so many lookups."""
    audited, *paths = pictures(tmp_path, 1 + count)
    late = await owed_an_audit(system, model, audited)
    await parked(system, paths)
    late.land()
    another_scope(system, model)
    (tmp_path / "new").mkdir()
    new = pictures(tmp_path / "new", 2, start=100)
    for added in (2, 0):  # however often
        summary = await system.run(ListSource(named(*new)), run=RunSettings(pack="Second"))
        assert (summary.discovered, summary.added, summary.exit_code) == (2, added, 75)
        records = system.journal.records()
        assert [record.state for record in records] == [State.ADDED] + [State.PARKED] * count + [State.ADDED] * 2
        assert [record.audit_is_open for record in records] == [True] + [False] * (count + 2)
    first_scope(system, model)
    summary = await system.run(ListSource(named(audited, *paths)), run=RunSettings(pack="pack-1"))
    assert (summary.rejected, summary.failed, summary.exit_code) == (0, 0, 0)
    assert len(urls(model)) == len(set(urls(model))) == 1 + count
    assert not any(record.audit_is_open for record in system.journal.records())


async def test_debts_to_a_pack_that_its_own_key_sees_no_more_are_settled(system, model, tmp_path):
    audited, *paths = pictures(tmp_path, 6)
    await owed_an_audit(system, model, audited)
    await parked(system, paths)
    del model.packs["pack-1"]
    model.add_pack("Second")
    (tmp_path / "new").mkdir()
    new = pictures(tmp_path / "new", 2, start=100)
    summary = await system.run(ListSource(named(*new)))
    assert (summary.discovered, summary.added, summary.exit_code) == (2, 2, 0)
    records = system.journal.records()
    assert [record.state for record in records] == [State.ADDED] + [State.REJECTED] * 5 + [State.ADDED] * 2
    assert not any(record.audit_is_open for record in records)


async def test_a_pack_of_which_the_api_does_not_tell_is_read_again(system, model, tmp_path):
    await parked(system, pictures(tmp_path, 3), effect=True)
    model.next(READ, refused(404, "not_found"), *[refused(409)] * 8)  # as many as a look has patience for
    summary = await system.run()
    assert (summary.added, summary.exit_code) == (3, 0)
    assert len(urls(model)) == 3


async def test_jobs_that_a_source_named_wait_where_their_pack_is_hidden_from_a_new_key(system, model, tmp_path):
    """The key file changes in the middle of a run, to a key that the journal knows from another scope."""
    paths = pictures(tmp_path, 8)
    key_file = tmp_path / "key"
    key_file.write_text("other.secret")
    system.api = replace(system.api, key="", key_file=str(key_file))
    theirs = model.add_pack("Second")
    (tmp_path / "new").mkdir()
    new = pictures(tmp_path / "new", 1, start=100)
    assert (await system.run(ListSource(named(*new)), run=RunSettings(pack="Second"))).added == 1
    key_file.write_text("tester.secret")

    read = Stall()

    async def change_key(_call, _do):
        key_file.write_text("other.secret")
        read.go.set()
        model.packs["pack-1"].is_ours, theirs.is_ours = False, True
        return envelope(401, error_code="invalid_token")

    theirs.is_ours = False
    model.next(ADD, silence(effect=True), silence(), None, change_key)
    model.next(READ, None, read)  # the first one finds the pack
    source = ListSource(named(*paths))
    summary = await system.run(source, flow=replace(FLOW, concurrency=2), run=RunSettings(pack="pack-1"))
    assert (summary.added, summary.rejected, summary.failed, summary.pending) == (1, 0, 0, 7)
    assert summary.exit_code == 75
    assert sorted(delivery.told for delivery in source.deliveries) == [["added"]] + [["released"]] * 7
    states = Counter(record.state for record in system.journal.records() if record.pack_id == "pack-1")
    assert states == {State.ADDED: 1, State.PARKED: 2, State.PENDING: 5}

    key_file.write_text("tester.secret")
    model.packs["pack-1"].is_ours, theirs.is_ours = True, False
    summary = await system.run(ListSource(named(*paths)), run=RunSettings(pack="pack-1"))
    assert (summary.rejected, summary.failed, summary.pending, summary.exit_code) == (0, 0, 0, 0)
    assert sorted(model.objects[url] for url in urls(model)) == sorted(picture(number) for number in range(8))


async def test_who_waits_for_a_job_whose_pack_is_gone_has_an_outcome(system, model, tmp_path):
    await parked(system, pictures(tmp_path, 1))
    (tmp_path / "new").mkdir()
    (twin,) = pictures(tmp_path / "new", 1)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        model.next(READ, None)  # for finding the pack
        model.next(READ, read := Stall())
        tasks.start_soon(pipeline.run, [ListSource(named(twin))])
        await read.came.wait()
        await until(lambda: bool(pipeline._twins._shelves))
        model.packs["pack-1"].is_ours = False
        read.go.set()
    assert [record.state for record in system.journal.records()] == [State.REJECTED, State.REJECTED]


async def test_who_waits_for_a_job_that_is_left_alone_is_left_as_well(system, model, tmp_path):
    (tmp_path / "equal").mkdir()
    (first,), (twin,) = pictures(tmp_path, 1), pictures(tmp_path / "equal", 1)
    model.next(UPLOAD, stall := Stall())
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(twin))])
        await stall.came.wait()
        system.stop.signalled(signal.SIGTERM)
        system.stop.signalled(signal.SIGTERM)
    await parked(system, [first])
    another_scope(system, model)
    async with system.assembled(run=RunSettings(pack="Second")) as pipeline:
        await pipeline._packs.resolve("Second", create=False)  # as a source's row has it done
        model.next(READ, read := Stall())
        async with anyio.create_task_group() as tasks:
            done = []

            async def run() -> None:
                done.append(await pipeline.run([]))

            tasks.start_soon(run)
            await read.came.wait()
            await until(lambda: bool(pipeline._twins._shelves))
            read.go.set()
    assert [(summary.rejected, summary.exit_code) for summary in done] == [(0, 75)]
    assert [record.state for record in system.journal.records()] == [State.PENDING, State.PARKED]


async def test_a_stop_leaves_parked_jobs_and_audits_to_the_next_run(system, model, tmp_path):
    paths = pictures(tmp_path, 8)
    model.always(ADD, silence(effect=True))
    flow = replace(FLOW, settle_delay_s=3600.0)
    async with system.assembled(flow=flow) as pipeline, anyio.create_task_group() as tasks:
        source = ListSource(named(*paths))
        tasks.start_soon(pipeline.run, [source])
        await until(lambda: pipeline.snapshot().parked == 8)
        model.always(READ, page(502))
        system.stop.signalled(signal.SIGINT)
    assert [delivery.told for delivery in source.deliveries] == [["released"]] * 8
    assert {record.state for record in system.journal.records()} == {State.PARKED}
    model.always(READ, None)
    assert (await system.run(ListSource(named(*paths)))).added == 8
    assert sorted(model.objects[url] for url in urls(model)) == sorted(picture(number) for number in range(8))
