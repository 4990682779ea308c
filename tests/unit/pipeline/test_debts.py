"""What a run does that takes nothing but the debts of earlier ones, and how a command sees packs outside a run."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from pipeline_model import BASE, FLOW, ListSource, Stall, envelope, named, page, pictures, refused, silence, until

from ingest import assemble
from ingest.errors import GaveUp, Refused
from ingest.journal.changes import Condemned, Doubted, Missed, Sighted
from ingest.journal.memory import MemoryJournal
from ingest.model import Operation, PackId
from ingest.policy.lifecycle import State
from ingest.settings import ApiSettings, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ADD, READ, DELETE, UPLOAD = (
    Operation.ADD_IMAGE,
    Operation.GET_PACK,
    Operation.DELETE_IMAGE,
    Operation.UPLOAD_FILE,
)
PACK = PackId("pack-1")


async def pay(system):
    async with system.assembled() as pipeline:
        return await pipeline.pay_debts()


async def test_debts_are_paid_and_nothing_that_is_pending_is_taken(system, model, tmp_path):
    waiting, uncertain = pictures(tmp_path, 2)
    model.next(UPLOAD, stall := Stall())
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(waiting))])
        await stall.came.wait()
        system.stop.signalled(signal.SIGTERM)
        system.stop.signalled(signal.SIGTERM)
    model.next(ADD, silence(effect=True))
    flow = replace(FLOW, settle_delay_s=3600.0)
    async with system.assembled(flow=flow) as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [ListSource(named(uncertain))])
        await until(lambda pipeline=pipeline: pipeline.snapshot().parked == 1)
        system.stop.signalled(signal.SIGTERM)
    assert [record.state for record in system.journal.records()] == [State.PENDING, State.PARKED]

    summary = await pay(system)

    assert (summary.discovered, summary.exit_code, summary.error) == (0, 0, None)
    assert [record.state for record in system.journal.records()] == [State.PENDING, State.ADDED]
    assert len(model.packs["pack-1"].urls) == 1


async def test_what_is_missed_is_looked_for_added_again_and_audited(system, model, tmp_path):
    await system.run(ListSource(named(*pictures(tmp_path, 2))))
    kept, taken = model.packs["pack-1"].images
    model.packs["pack-1"].images = [kept]
    for record in system.journal.records():  # one of them is there after all
        await system.journal.submit(Missed(job_id=record.job_id))
    reads = model.count(READ)

    summary = await pay(system)

    assert summary.exit_code == 0
    assert model.packs["pack-1"].urls == [kept[1], taken[1]]
    assert sorted(model.adds.values()) == [1, 2]
    assert model.count(READ) == reads + 2  # the lookup and the audit
    assert [(record.state, record.audit_is_open) for record in system.journal.records()] == [(State.ADDED, False)] * 2


async def test_a_stray_is_found_and_not_added_again(system, model, tmp_path):
    model.next(ADD, refused(422, effect=True))
    assert (await system.run(ListSource(named(*pictures(tmp_path, 1))))).rejected == 1
    (record,) = system.journal.records()
    await system.journal.submit(Sighted(job_id=record.job_id))

    await pay(system)

    assert (system.journal.records()[0].state, model.count(ADD)) == (State.ADDED, 1)


async def test_what_was_answered_with_another_jobs_image_is_added_again(system, model, tmp_path):
    """The lookup of what a comparison missed does not take the other job's image for it."""

    async def lie(_call, _do):
        image_id, url = model.packs["pack-1"].images[0]
        return envelope(201, {"id": image_id, "url": url})

    first, second = pictures(tmp_path, 2)
    await system.run(ListSource(named(first)))
    model.next(ADD, lie)
    assert (await system.run(ListSource(named(second)))).added == 1
    missed = system.journal.records()[1]
    assert (len(model.packs["pack-1"].urls), missed.answered_url) == (1, model.packs["pack-1"].urls[0])
    await system.journal.submit(Missed(job_id=missed.job_id))

    assert (await pay(system)).exit_code == 0

    assert sorted(model.packs["pack-1"].urls) == sorted(record.url for record in system.journal.records())
    assert [(record.state, record.audit_is_open) for record in system.journal.records()] == [(State.ADDED, False)] * 2


async def test_a_copy_that_was_to_go_is_not_what_a_lookup_finds(system, model, tmp_path):
    model.next(ADD, silence())
    await system.run(ListSource(named(*pictures(tmp_path, 1))))
    pack = model.packs["pack-1"]
    ((kept, url),) = pack.images
    (record,) = system.journal.records()
    await system.journal.submit(Condemned(job_id=record.job_id, image_ids=("copy",)))
    await system.journal.submit(Missed(job_id=record.job_id))
    await system.journal.submit(Doubted(job_id=record.job_id))
    # Somebody deleted the one that was kept; the other was never deleted.
    pack.images = [("copy", url)]

    assert (await pay(system)).exit_code == 0

    (record,) = system.journal.records()
    ((image_id, left),) = pack.images
    assert (left, record.image_id, record.state, record.audit_is_open) == (url, image_id, State.ADDED, False)
    assert image_id not in {"copy", kept}


async def test_a_doubt_deletes_what_two_adds_account_for_and_never_more(system, model, tmp_path):
    model.next(ADD, silence())
    await system.run(ListSource(named(*pictures(tmp_path, 1))))
    pack = model.packs["pack-1"]
    ((_, url),) = pack.images
    for number, left in ((1, 1), (2, 2), (3, 3)):  # the first copy may be the first add's, the others are none of ours
        pack.images.append((f"copy-{number}", url))
        (record,) = system.journal.records()
        await system.journal.submit(Doubted(job_id=record.job_id))
        await pay(system)
        assert len(pack.images) == left
    assert model.count(DELETE) == 1
    # The surplus one, once; what the audits left is the first, which the journal names.
    assert (record.condemned, system.journal.records()[0].image_id) == (("copy-1",), pack.images[0][0])


# Packs as a command sees them.


@contextlib.asynccontextmanager
async def view(model, *, key: str = "tester.secret", give_up_after_s: float | None = None) -> AsyncIterator:
    settings = Settings(api=ApiSettings(key=key, base_url=BASE), flow=FLOW)
    journal = MemoryJournal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble.HttpTransport, "open", lambda *_: contextlib.nullcontext(model))
        patch.setattr(assemble, "opened_journal", lambda *_, **__: contextlib.nullcontext(journal))
        async with assemble.verification(settings) as comparison:
            yield comparison._packs


async def test_a_pack_is_read_again_after_a_hiccup(model):
    model.packs["pack-1"].images.append(("image-1", "http://cdn.test/1"))
    model.next(READ, refused(500), silence())
    async with view(model) as packs:
        scan = await packs.scan(PACK, {"http://cdn.test/1"})
    assert [image.url for image in scan.found] == ["http://cdn.test/1"]


async def test_no_answer_to_a_command_ends_it(model):
    model.always(READ, page(502))
    async with view(model) as packs:
        with pytest.raises(GaveUp, match="502"):
            await packs.scan(PACK, set())
    assert model.count(READ) == 4


async def test_a_pack_that_is_gone_is_asked_for_twice(model):
    del model.packs["pack-1"]
    async with view(model) as packs:
        assert await packs.scan(PACK, set()) is None
    assert model.count(READ) == 2


async def test_a_404_that_is_not_confirmed_tells_nothing(model):
    model.next(READ, refused(404, "not_found"))
    async with view(model) as packs:
        with pytest.raises(GaveUp, match="could not be read, though this key may change it"):
            await packs.scan(PACK, set())


async def test_a_key_that_sees_none_of_the_packs_is_refused(model):
    model.packs["pack-1"].is_ours = False
    async with view(model) as packs:
        packs.remember({PACK: "another"})
        with pytest.raises(Refused, match="another workspace"):
            await packs.scan(PACK, set())


@pytest.mark.parametrize("key_id", ["tester", "another"])
async def test_a_pack_that_is_gone_or_hidden_is_no_refusal_to_a_key_that_has_packs_here(model, key_id):
    del model.packs["pack-1"]
    async with view(model) as packs:
        packs.remember({PACK: key_id, PackId("pack-2"): "tester"})
        assert await packs.scan(PACK, set()) is None


async def test_where_the_api_does_not_tell_a_command_ends_and_says_nothing_of_the_pack(model):
    model.next(READ, refused(404, "not_found"))
    model.always(READ, refused(409))
    async with view(model) as packs:
        packs.remember({PACK: "tester"})
        with pytest.raises(GaveUp) as raised:
            await packs.scan(PACK, set())
    assert raised.value.hint == "Run the same command again."
