"""One job's way to its pack, line by line, and where it fails."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest
from pipeline_model import (
    FLOW,
    ListSource,
    Stall,
    System,
    named,
    page,
    picture,
    pictures,
    refused,
    silence,
    until,
)

from ingest.api.transport import Answer
from ingest.errors import ImageChanged
from ingest.journal.changes import Resent, Stored
from ingest.journal.records import Candidate
from ingest.model import Locator, Operation, PackId, RunId
from ingest.pipeline import deliver
from ingest.policy.lifecycle import State
from ingest.settings import RunSettings

ADD, PUT, RESERVE, READ = Operation.ADD_IMAGE, Operation.PUT_FILE, Operation.UPLOAD_FILE, Operation.GET_PACK


def held(model) -> list[bytes]:
    """The bytes of every image of the pack."""
    return sorted(model.objects[url] for url in model.packs["pack-1"].urls)


async def test_every_image_is_added_once_and_equal_ones_once_a_pack(system, model, tmp_path):
    source = ListSource(named(*pictures(tmp_path, 40, kinds=10)))
    summary = await system.run(source)
    assert (summary.added, summary.duplicate, summary.unchanged, summary.exit_code) == (10, 30, 0, 0)
    assert held(model) == sorted(picture(number) for number in range(10))
    assert model.count(RESERVE) == model.count(PUT) == model.count(ADD) == 10
    assert summary.bytes_uploaded == sum(map(len, held(model)))
    assert sorted(delivery.told[0] for delivery in source.deliveries) == ["added"] * 10 + ["duplicate"] * 30
    assert all(len(delivery.told) == 1 for delivery in source.deliveries)


async def test_equal_images_go_into_two_packs(system, model, tmp_path):
    model.add_pack("Second")
    paths = pictures(tmp_path, 3)
    summary = await system.run(ListSource(named(*paths)), ListSource(named(*paths, pack="pack-2")))
    assert summary.added == 6
    assert len(model.packs["pack-2"].images) == 3


async def test_where_duplicates_are_allowed_each_is_added(system, model, tmp_path):
    summary = await system.run(ListSource(named(*pictures(tmp_path, 6, kinds=1))), run=RunSettings(duplicates="allow"))
    assert summary.added == 6
    assert len(set(model.packs["pack-1"].urls)) == 6


async def test_a_hundred_copies_of_a_known_image_are_each_read_once(system, model, tmp_path, monkeypatch):
    paths = pictures(tmp_path, 101, kinds=1)
    await system.run(ListSource(named(paths[0])))
    opened = 0
    inspect = deliver.inspect

    async def counted(*arguments):
        nonlocal opened
        opened += 1
        return await inspect(*arguments)

    monkeypatch.setattr(deliver, "inspect", counted)
    summary = await system.run(ListSource(named(*paths[1:])))
    assert (summary.added, summary.duplicate) == (0, 100)
    assert opened == 100
    assert {settlement.reason for settlement in system.settled[1:]} == {"equal_to:1"}


@pytest.mark.parametrize(
    "step", [refused(422, "invalid_payload"), refused(400, "invalid_json"), refused(413)], ids=["422", "400", "413"]
)
async def test_the_second_of_two_equals_goes_ahead_when_the_first_was_not_added(system, model, tmp_path, step):
    model.next(ADD, step)
    summary = await system.run(ListSource(named(*pictures(tmp_path, 5, kinds=1))))
    assert (summary.added, summary.duplicate, summary.rejected) == (1, 3, 1)
    assert len(model.packs["pack-1"].images) == 1


@pytest.mark.parametrize("effect", [True, False])
async def test_equals_wait_for_one_that_is_parked(system, model, tmp_path, effect):
    model.next(ADD, silence(effect=effect))
    summary = await system.run(ListSource(named(*pictures(tmp_path, 5, kinds=1))))
    assert (summary.added, summary.duplicate) == (1, 4)
    assert len(model.packs["pack-1"].images) == 1


async def test_equals_of_one_that_is_used_up_go_ahead_in_turn(system, model, tmp_path):
    model.always(ADD, refused(500))
    summary = await system.run(ListSource(named(*pictures(tmp_path, 3, kinds=1))))
    assert (summary.failed, summary.exit_code) == (3, 1)
    assert len({settlement.record.url for settlement in system.settled}) == 3


# Inspection.


async def test_what_is_no_image_is_rejected_and_known_as_that(system, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"no image at all")
    for _ in range(2):
        source = ListSource(named(path))
        summary = await system.run(source)
        assert (summary.rejected, summary.exit_code) == (1, 1)
        assert source.deliveries[0].told == ["rejected"]
    assert [settlement.reason for settlement in system.settled] == ["not_an_image"]
    assert not system.model.count(RESERVE)


async def test_a_file_that_is_gone_is_failed_and_tried_again(system, tmp_path):
    (path,) = pictures(tmp_path, 1)
    source = ListSource(named(path))
    path.unlink()
    assert (await system.run(source)).failed == 1
    path.write_bytes(picture(0))
    assert (await system.run(ListSource(named(path)))).added == 1


async def test_a_file_that_changes_as_it_is_sent_is_inspected_again(system, model, tmp_path):
    (path,) = pictures(tmp_path, 1)

    async def rewritten(_call, _do):
        path.write_bytes(picture(7))
        raise ImageChanged("changed", reason="changed")

    model.next(PUT, rewritten)
    assert (await system.run(ListSource(named(path)))).added == 1
    assert held(model) == [picture(7)]


async def test_who_waits_for_one_that_changes_goes_ahead_itself(system, model, tmp_path):
    first, *others = pictures(tmp_path, 4, kinds=1)

    async def rewritten(_call, _do):
        first.write_bytes(picture(7))
        raise ImageChanged("changed", reason="changed")

    model.next(RESERVE, stall := Stall(rewritten))
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        summaries = []

        async def run() -> None:
            summaries.append(await pipeline.run([ListSource(named(first, *others))]))

        tasks.start_soon(run)
        await stall.came.wait()
        await until(lambda: pipeline._account.workers.busy == 1)  # the others are on the shelf
        stall.go.set()
    assert (summaries[0].added, summaries[0].duplicate) == (2, 2)
    assert held(model) == sorted([picture(0), picture(7)])


async def test_a_file_that_changes_at_every_look_is_failed(system, model, tmp_path, monkeypatch):
    monkeypatch.setattr("ingest.pipeline.deliver.backoff_s", lambda *_, **__: 0.0)

    async def changed(_call, _do):
        raise ImageChanged("changed", reason="changed")

    model.always(RESERVE, changed)
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert summary.failed == 1
    assert model.count(RESERVE) == 6


# Reserve and put.


async def test_a_ticket_that_the_storage_refuses_is_reserved_again(system, model, tmp_path):
    model.next(PUT, refused(403), refused(403))
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).added == 1
    assert model.count(RESERVE) == model.count(PUT) == 3


async def test_a_ticket_that_is_always_refused_uses_the_attempts_up(system, model, tmp_path):
    model.always(PUT, refused(403))
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).failed == 1
    assert model.count(PUT) == FLOW.max_attempts


async def test_a_storage_that_names_its_refusal_uses_the_attempts_up_too(system, model, tmp_path):
    """A clock that is wrong, or a bucket's policy: no new ticket mends it."""

    async def expired(_call, _do):
        body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
        return Answer(status=403, headers={"Content-Type": "application/xml"}, body=body)

    model.always(PUT, expired)
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).failed == 1
    assert model.count(PUT) == FLOW.max_attempts
    assert system.journal.records()[0].reason == "AccessDenied"


async def test_a_ticket_near_its_end_is_not_used(system, model, tmp_path):
    async def at_its_end(call, do):
        model.expires_in_s = 0.0
        answer = do()
        model.expires_in_s = 600.0
        return answer

    model.next(RESERVE, at_its_end)
    model.next(PUT, refused(500))
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).added == 1
    assert (model.count(RESERVE), model.count(PUT)) == (2, 2)


async def test_tickets_that_are_never_good_end_the_job_and_no_sooner(system, model, tmp_path):
    model.expires_in_s = 0.0
    model.always(PUT, refused(403, "AccessDenied"))
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))))
    assert (summary.failed, model.count(PUT)) == (1, FLOW.max_attempts)
    assert system.journal.records()[0].attempts == FLOW.max_attempts


@pytest.mark.parametrize("step", [page(200), refused(500), refused(503), silence(), silence(effect=True)])
async def test_a_put_that_fails_is_sent_again(system, model, tmp_path, step):
    model.next(PUT, step)
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).added == 1
    assert held(model) == [picture(0)]


@pytest.mark.parametrize("operation", [RESERVE, PUT])
@pytest.mark.parametrize(
    "step",
    [refused(429, retry_after="0"), refused(503, retry_after="0"), silence(), silence(was_sent=False)],
    ids=["429", "503 with Retry-After", "silence", "no connection"],
)
async def test_what_says_nothing_of_a_job_spends_no_attempt(system, model, tmp_path, operation, step):
    model.next(operation, *[step] * 5)
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).added == 1
    assert "Spent" not in system.journal.kinds()


@pytest.mark.parametrize("operation", [RESERVE, PUT])
async def test_attempts_used_up_are_failed_and_survive_the_process(system, model, tmp_path, operation):
    paths = pictures(tmp_path, 1)
    model.next(operation, refused(500), refused(500), stall := Stall())
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*paths))])
        await stall.came.wait()
        system.stop.signalled(signal.SIGTERM)
        system.stop.signalled(signal.SIGTERM)
    assert system.journal.records()[0].attempts == 2
    model.next(operation, refused(500))
    assert (await system.run(ListSource(named(*paths)))).failed == 1
    model.next(operation, refused(500), refused(500))
    assert (await system.run(ListSource(named(*paths)))).added == 1  # the next run begins to count anew


# Stored and add.


async def test_nothing_is_added_before_its_url_is_durable(system, model, tmp_path):
    durable = system.journal.hold(Stored)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 3)))])
        await until(lambda: system.journal.kinds().count("Stored") == 3)
        assert model.count(ADD) == 0
        durable.set()
    assert len(model.packs["pack-1"].images) == 3


async def test_nothing_is_added_again_before_that_is_durable(system, model, tmp_path):
    model.next(ADD, silence())
    durable = system.journal.hold(Resent)
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(*pictures(tmp_path, 1)))])
        await until(lambda: "Resent" in system.journal.kinds())
        assert model.count(ADD) == 1
        record = system.journal.records()[0]
        assert (record.adds_sent, record.audit_is_open) == (2, True)
        durable.set()
    assert len(model.packs["pack-1"].images) == 1


@pytest.mark.parametrize(
    "step",
    [
        refused(500, effect=True),
        refused(409, effect=True),
        refused(408, effect=True),
        page(200, effect=True),
        page(403, effect=True),
        page(404, effect=True),
        silence(effect=True),
    ],
    ids=["500", "409", "408", "html 200", "html 403", "html 404", "silence"],
)
@pytest.mark.parametrize("is_done", [True, False])
async def test_an_add_of_unknown_effect_is_looked_up(system, model, tmp_path, step, is_done):
    async def either(call, do):
        return await step(call, do if is_done else lambda: None)

    model.next(ADD, either)
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).added == 1
    assert held(model) == [picture(0)]
    assert model.count(ADD) == (1 if is_done else 2)


@pytest.mark.parametrize(
    ("step", "reason"),
    [(refused(422, "invalid_payload"), "invalid_payload"), (refused(400, "invalid_json"), "invalid_json")],
)
async def test_an_add_that_can_never_work_is_rejected(system, model, tmp_path, step, reason):
    model.next(ADD, step)
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).rejected == 1
    assert system.settled[0].reason == reason


async def test_an_add_that_was_refused_or_never_sent_is_sent_again_without_a_lookup(system, model, tmp_path):
    model.next(ADD, refused(429, retry_after="0"), silence(was_sent=False), refused(429, retry_after="0"))
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).added == 1
    assert model.count(ADD) == 4
    assert system.journal.records()[0].adds_sent == 1
    assert "Parked" not in system.journal.kinds()


async def test_a_404_in_passing_is_one_attempt(system, model, tmp_path):
    model.next(ADD, refused(404, "not_found"))
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).added == 1
    assert system.journal.records()[0].attempts == 1


async def test_a_pack_deleted_in_the_middle_rejects_the_rest_without_asking(system, model, tmp_path):
    async def deleted(call, do):
        del model.packs["pack-1"]
        return do()

    model.next(ADD, None, None, deleted)
    summary = await system.run(ListSource(named(*pictures(tmp_path, 200))), flow=replace(FLOW, concurrency=1))
    assert (summary.added, summary.rejected, summary.exit_code) == (2, 198, 1)
    assert {settlement.reason for settlement in system.settled} == {None, "pack_gone"}
    assert model.count(ADD) <= 5  # two more were given a place before it was known; the others waited there in vain


async def test_an_uncertain_add_is_never_failed_before_a_settled_lookup(system, model, tmp_path):
    model.always(ADD, refused(500, effect=True))
    paths = pictures(tmp_path, 10)
    summary = await system.run(ListSource(named(*paths)), flow=replace(FLOW, max_attempts=1))
    assert (summary.added, summary.failed) == (10, 0)
    assert len(set(model.packs["pack-1"].urls)) == len(model.packs["pack-1"].urls) == 10


async def test_attempts_used_up_by_adds_are_failed_and_the_next_run_looks_first(system, model, tmp_path):
    paths = pictures(tmp_path, 1)
    model.always(ADD, refused(500))
    assert (await system.run(ListSource(named(*paths)))).failed == 1
    assert model.count(ADD) == FLOW.max_attempts
    record = system.journal.records()[0]
    assert (record.state, record.attempts) == (State.FAILED, FLOW.max_attempts)
    model.always(ADD, None)
    model.packs["pack-1"].images.append(("late", record.url or ""))  # the effect of one of them after all
    requests = len(model.log)
    assert (await system.run(ListSource(named(*paths)))).added == 1
    assert ADD not in model.log[requests:]
    assert RESERVE not in model.log[requests:]


async def test_an_outage_fails_no_job(system, model, tmp_path):
    model.next(RESERVE, *[refused(500)] * 60)
    summary = await system.run(ListSource(named(*pictures(tmp_path, 30))))
    assert (summary.added, summary.failed) == (30, 0)


async def test_a_revoked_key_leaves_everything_pending(system, model, tmp_path):
    paths = pictures(tmp_path, 60)
    keyless = refused(401, "invalid_token")
    model.next(ADD, *[None] * 5)
    model.always(ADD, keyless)
    model.next(Operation.LIST_PACKS, None, None)  # for finding the pack
    model.always(Operation.LIST_PACKS, keyless)
    source = ListSource(named(*paths))
    summary = await system.run(source)
    assert (summary.exit_code, summary.added, summary.pending) == (3, 5, summary.discovered - 5)
    assert model.count(ADD) <= 5 + FLOW.concurrency
    assert all(delivery.told in (["added"], ["released"], []) for delivery in source.deliveries)
    assert {record.state for record in system.journal.records()} <= {State.ADDED, State.PENDING}
    model.always(ADD, None)
    model.always(Operation.LIST_PACKS, None)
    assert (await system.run(ListSource(named(*paths)))).added == 55
    assert held(model) == sorted(picture(number) for number in range(60))
    assert model.count(PUT) == 60  # what was stored is not uploaded again


# Alone.


async def died(system: System, path, times: int) -> None:
    (delivery,) = named(path)
    candidate = Candidate(
        key=str(path), pack_id=PackId("pack-1"), locator=Locator(str(path)), file_name="a.png", stamp=delivery.stamp
    )
    for number in range(times):
        await system.journal.begin(RunId(f"run-{number}"), key_id="tester", pid=1)
        await system.journal.admit(RunId(f"run-{number}"), [candidate])


async def test_a_suspect_job_runs_alone(system, model, tmp_path):
    suspect, *others = pictures(tmp_path, 20)
    await died(system, suspect, 3)
    together = []
    model.next(RESERVE, *[None] * 20)

    async def looked(call, do):
        together.append((model.in_flight, system.journal.kinds().count("Tested")))
        return do()

    model.next(PUT, *[looked] * 20)
    summary = await system.run(ListSource(named(suspect, *others)))
    assert (summary.added, summary.exit_code) == (20, 0)
    assert [tested for _, tested in together] == [0] * 19 + [1]  # it comes last
    assert together[-1] == (1, 1)


async def test_a_suspect_job_whose_add_is_uncertain_is_sent_again(system, model, tmp_path):
    (suspect,) = pictures(tmp_path, 1)
    await died(system, suspect, 3)
    model.next(ADD, silence())
    assert (await system.run(ListSource(named(suspect)))).added == 1
    assert system.journal.kinds().count("Tested") == 1


async def test_a_suspect_job_that_waits_for_its_equal_is_not_alone(system, model, tmp_path):
    paths = pictures(tmp_path, 2, kinds=1)
    for path in paths:
        await died(system, path, 3)
    for record in system.journal.records():
        system.journal._put(msgspec.structs.replace(record, deaths=3))
    model.next(ADD, silence(effect=True))
    async with (
        system.assembled(flow=replace(FLOW, settle_delay_s=3600.0)) as pipeline,
        anyio.create_task_group() as tasks,
    ):
        model.next(READ, None)
        tasks.start_soon(pipeline.run, [ListSource(named(*paths))])
        await until(lambda: bool(pipeline._twins._shelves))
        await until(lambda: pipeline.snapshot().in_hand == 0)
        alone = [record.is_alone for record in system.journal.records()]
        system.stop.signalled(signal.SIGINT)
    assert alone == [False, False]


async def test_a_job_that_dies_alone_is_quarantined(system, tmp_path):
    (suspect,) = pictures(tmp_path, 1)
    await died(system, suspect, 3)
    for record in system.journal.records():
        system.journal._put(msgspec.structs.replace(record, is_alone=True))
    summary = await system.run(ListSource(named(suspect)))
    assert (summary.failed, summary.exit_code) == (1, 1)
    assert system.journal.records()[0].reason == "quarantined"


@pytest.mark.skipif(os.name == "nt", reason="paths of bytes")
async def test_a_file_name_of_any_bytes_is_sent_as_text(system, model, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(path, "wb") as file:
        file.write(picture(0))
    assert (await system.run(ListSource(named(Path(os.fsdecode(path)))))).added == 1
    assert len(model.packs["pack-1"].images) == 1
