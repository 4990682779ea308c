"""Jobs whose image is a URL that is added as it is: what the pack holds, uncertainty, copies, and what is withheld."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import replace

import anyio
import pytest
from pipeline_model import FETCH, ListSource, Stall, Tracked, linked, named, pictures, refused, silence

from ingest.model import Job, Operation, Outcome
from ingest.policy.lifecycle import State
from ingest.policy.urls import MAX_URL_CHARACTERS
from ingest.settings import RunSettings

ADD, READ, RESERVE, DELETE = Operation.ADD_IMAGE, Operation.GET_PACK, Operation.UPLOAD_FILE, Operation.DELETE_IMAGE

A, B = "https://pics.test/a.jpg", "https://pics.test/b.jpg"
ALLOW = RunSettings(duplicates="allow")


def urls(model, pack: str = "pack-1") -> list[str]:
    return sorted(model.packs[pack].urls)


def hold(model, *held: str) -> None:
    """The pack had these before."""
    model.packs["pack-1"].images += [(f"earlier-{number}", url) for number, url in enumerate(held)]


@contextlib.asynccontextmanager
async def background(system, source):
    """A run beside the block; its summary, once the block is left."""
    summaries = []

    async def whole() -> None:
        summaries.append(await system.run(ListSource(source)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(whole)
        yield summaries


async def test_a_url_is_added_as_it_is_and_nothing_is_uploaded(system, model):
    summary = await system.run(ListSource(linked(A, B)))
    assert (summary.added, summary.exit_code, summary.bytes_uploaded) == (2, 0, 0)
    assert urls(model) == [A, B]
    assert model.count(RESERVE) == model.count(Operation.PUT_FILE) == 0
    assert {record.url for record in system.journal.records()} == {None}
    # The pack was read once for both, beside the look that found it.
    assert system.journal.kinds().count("Stored") == 2


async def test_a_second_run_knows_it_by_its_key_and_asks_for_nothing(system, model):
    await system.run(ListSource(linked(A, B)))
    before = len(model.log)
    summary = await system.run(ListSource(linked(A, B)))
    assert (summary.duplicate, summary.added, summary.unchanged) == (2, 0, 0)
    assert not set(model.log[before:]) & {ADD, RESERVE}


async def test_what_the_pack_held_before_is_a_duplicate_in_any_spelling_and_is_read_once(system, model):
    hold(model, "https://pics.test/a%20%28b%29.jpg", A)
    first = len(model.reads)
    source = linked("https://pics.test/a%20(b).jpg", A, B, *(f"https://pics.test/{number}.jpg" for number in range(20)))
    summary = await system.run(ListSource(source))
    assert (summary.duplicate, summary.added) == (2, 21)
    assert {one.reason for one in system.settled if one.outcome is Outcome.DUPLICATE} == {"in_pack"}
    resolving = 1  # by which the pack was found
    assert len(model.reads) - first - resolving == 1
    assert len(urls(model)) == 23


async def test_each_pack_is_read_for_itself(system, model):
    model.add_pack("Second")
    hold(model, A)
    summary = await system.run(ListSource(linked(A)), ListSource(linked(A, pack="pack-2")))
    assert (summary.duplicate, summary.added) == (1, 1)
    assert urls(model, "pack-2") == [A]


async def test_a_read_that_fails_is_waited_for(system, model):
    hold(model, A)
    async with system.assembled() as pipeline:
        model.next(READ, None, refused(500, "pack_get_failed"), silence(), refused(503))
        summary = await pipeline.run([ListSource(linked(A, B))])
    assert (summary.duplicate, summary.added, summary.failed) == (1, 1, 0)


async def test_two_jobs_of_one_url_are_one_image(system, model):
    source = [Tracked(job=Job(image=A, id=str(number))) for number in range(5)]
    source += [Tracked(job=Job(image=f"{A}?x=1", id="other"))]
    summary = await system.run(ListSource(source))
    assert (summary.added, summary.duplicate) == (2, 4)
    assert urls(model) == [A, f"{A}?x=1"]
    again = [Tracked(job=Job(image=A, id="late"))]
    summary = await system.run(ListSource(again))
    assert (summary.duplicate, system.settled[-1].reason.partition(":")[0]) == (1, "equal_to")


async def test_a_url_and_a_file_have_nothing_in_common(system, model, tmp_path):
    summary = await system.run(ListSource([*linked(A), *named(*pictures(tmp_path, 2))]))
    assert summary.added == 3
    assert model.count(RESERVE) == 2


# Uncertainty.


@pytest.mark.parametrize("effect", [True, False])
async def test_an_add_without_an_answer_is_looked_up_by_the_url(system, model, effect):
    model.next(ADD, silence(effect=effect))
    summary = await system.run(ListSource(linked(A)))
    assert (summary.added, urls(model)) == (1, [A])
    assert model.adds[A] == (1 if effect else 2)
    (record,) = system.journal.records()
    assert (record.adds_sent, record.audit_is_open) == (1 if effect else 2, False)


async def test_it_is_found_under_the_name_that_the_server_gives_it(system, model):
    model.normalised = lambda url: url.replace("(", "%28")
    model.next(ADD, silence(effect=True))
    summary = await system.run(ListSource(linked("https://pics.test/(.jpg")))
    assert (summary.added, len(urls(model))) == (1, 1)


async def test_of_copies_of_a_url_none_is_deleted_and_they_are_told(system, model, caplog):
    caplog.set_level(logging.DEBUG)
    late = []

    async def lands_late(_call, do):
        late.append(do)
        return await silence()(_call, do)

    stall = Stall()
    model.next(ADD, lands_late, stall)
    async with background(system, linked(f"{A}?signed=secret")) as summaries:
        await stall.came.wait()
        late.pop()()  # the first add takes effect after the look that did not find it
        stall.go.set()
    (summary,) = summaries
    assert (summary.added, summary.exit_code, len(urls(model)), model.count(DELETE)) == (1, 0, 2, 0)
    (told,) = [line for line in caplog.records if "copy.reported" in line.getMessage()]
    assert told.levelname == "WARNING"
    assert "copies=2" in told.getMessage()
    assert "secret" not in caplog.text
    (record,) = system.journal.records()
    assert (record.adds_sent, record.audit_is_open, record.condemned) == (2, False, ())


async def test_one_that_was_given_up_and_whose_equal_was_added_is_no_second_image(system, model):
    model.always(ADD, refused(500))
    one, other = ([Tracked(job=Job(image=A, id=name))] for name in "12")
    assert (await system.run(ListSource(one))).failed == 1
    model.always(ADD, None)
    assert (await system.run(ListSource(other))).added == 1
    summary = await system.run(ListSource(one))
    assert (summary.duplicate, system.settled[-1].reason) == (1, "equal_to:2")
    assert urls(model) == [A]


async def test_a_process_that_died_after_stored_looks_before_it_adds(system, model):
    hold(model, B)
    await killed_at_an_add(system, model)
    model.packs["pack-1"].images.append(("landed", A))
    summary = await system.run(ListSource(linked(A)))
    # The pack holds it, by this very job: it is no duplicate.
    assert (summary.added, summary.duplicate, model.adds[A]) == (1, 0, 1)


async def killed_at_an_add(system, model) -> None:
    stall = Stall()
    model.next(ADD, stall)
    async with anyio.create_task_group() as tasks, system.assembled() as pipeline:
        tasks.start_soon(pipeline.run, [ListSource(linked(A))])
        await stall.came.wait()
        tasks.cancel_scope.cancel()
    (record,) = system.journal.records()
    assert (record.state, record.adds_sent) == (State.STORED, 1)


# Where duplicates are allowed.


async def test_where_duplicates_are_allowed_nothing_is_compared(system, model):
    hold(model, A)
    source = [Tracked(job=Job(image=A, id=str(number))) for number in range(3)]
    reads = len(model.reads)
    summary = await system.run(ListSource(source), run=ALLOW)
    assert (summary.added, urls(model)) == (3, [A] * 4)
    assert len(model.reads) - reads == 1  # by which the pack was found


async def test_where_duplicates_are_allowed_what_stays_uncertain_is_failed(system, model):
    hold(model, A)
    model.next(ADD, silence())
    for run in (ALLOW, RunSettings(), ALLOW):  # how it was sent counts, and not how the next run is told to send
        summary = await system.run(ListSource(linked(A)), run=run)
        assert (summary.failed, system.settled[-1].reason) == (1, "unverifiable")
    assert (model.adds[A], urls(model)) == (1, [A])


async def test_where_duplicates_are_allowed_what_is_not_there_is_added_again(system, model):
    model.next(ADD, silence())
    summary = await system.run(ListSource(linked(A)), run=ALLOW)
    assert (summary.added, model.adds[A], urls(model)) == (1, 2, [A])


async def test_what_was_sent_where_duplicates_count_stays_verifiable(system, model):
    await killed_at_an_add(system, model)
    model.packs["pack-1"].images.append(("landed", A))
    summary = await system.run(ListSource(linked(A)), run=ALLOW)
    assert (summary.added, urls(model)) == (1, [A])


# What can't be added.


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://pics.test/a.jpg", "bad_url"),
        ("https://user:secret@pics.test/a.jpg", "bad_url"),
        ("https://pics.test/a.jpg#top", "bad_url"),
        ("https://pics.test/" + "a" * MAX_URL_CHARACTERS, "bad_url"),
        ("https://bücher.test/a.jpg", "bad_url"),
        ("https://pics.test/ä.jpg", "bad_url"),
        ("http://127.0.0.1/a.jpg", "private_host"),
        ("http://localhost/a.jpg", "private_host"),
        ("http://169.254.169.254/latest/meta-data", "private_host"),
    ],
)
@pytest.mark.parametrize("rehost", [False, True])
async def test_a_url_that_can_not_be_added_is_rejected_for_good(system, model, url, reason, rehost):
    for _ in range(2):
        summary = await system.run(ListSource(linked(url)), fetch=replace(FETCH, rehost=rehost))
        assert (summary.rejected, summary.exit_code) == (1, 1)
    (record,) = system.journal.records()
    assert record.reason == reason
    assert "secret" not in repr(record)
    assert ADD not in model.log


async def test_private_hosts_can_be_allowed(system, model):
    summary = await system.run(
        ListSource(linked("http://10.0.0.1/a.jpg")), fetch=replace(FETCH, allow_private_hosts=True)
    )
    assert (summary.added, urls(model)) == (1, ["http://10.0.0.1/a.jpg"])


async def test_no_query_is_logged_and_none_becomes_a_file_name(system, caplog):
    caplog.set_level(logging.DEBUG)
    await system.run(ListSource(linked("https://pics.test/a%20b.jpg?X-Signature=secret", "https://pics.test/?secret")))
    assert "job.settled" in caplog.text
    assert "secret" not in caplog.text
    assert sorted(record.file_name for record in system.journal.records()) == ["a b.jpg", "image"]


async def test_a_pack_that_is_gone_rejects_them(system, model):
    stall = Stall(refused(404, "not_found"))
    model.next(READ, None, stall)  # the first finds the pack
    async with background(system, linked(A, B)) as summaries:
        await stall.came.wait()
        model.packs.clear()
        stall.go.set()
    assert (summaries[0].rejected, {one.reason for one in system.settled}) == (2, {"pack_gone"})


@pytest.mark.parametrize("quoted", ["token=sEcReT&w=1", "sEcReTsEcReTsEcReT"])
async def test_no_query_that_the_api_quotes_is_kept(system, model, caplog, quoted):
    caplog.set_level(logging.DEBUG)

    async def quoting(_call, _do):
        answer = refused(422, "invalid_payload")
        body = {"ok": False, "code": 422, "message": f"bad image_url: ...{quoted}", "error_code": "invalid_payload"}
        return replace(await answer(_call, _do), body=json.dumps(body).encode())

    model.always(ADD, quoting)
    url = f"{A}?{quoted}" if "=" in quoted else f"{A}?w=1&token={quoted}"
    summary = await system.run(ListSource(linked(url)))
    (record,) = system.journal.records()
    assert (summary.rejected, record.reason) == (1, "invalid_payload")
    assert "sEcReT" not in f"{record.detail} {caplog.text}"


@pytest.mark.parametrize("lands", [0, 1])
async def test_the_same_url_is_looked_for_in_each_spelling_where_duplicates_are_allowed(system, model, lands):
    """Two spellings are wanted at once, and the server has one: neither may pass for absent."""
    model.next(ADD, silence(effect=lands == 0), silence(effect=lands == 1))
    source = linked("https://pics.test/(a).jpg", "https://pics.test/%28a%29.jpg")
    summary = await system.run(ListSource(source), run=ALLOW)
    assert summary.failed == 2
    assert len(urls(model)) == 1
