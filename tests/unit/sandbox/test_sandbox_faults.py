"""Every kind of fault as a client meets it, and what the ledger then tells."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from sandbox_client import Client, picture, until

from ingest.sandbox import (
    Concurrency,
    CutAfter,
    CutBefore,
    CutJson,
    ErrorAnswer,
    FaultPlan,
    FixedWindow,
    Hang,
    Html,
    Late,
    Slow,
    StaleRead,
    TokenBucket,
)

URL = "https://example.com/a.jpg"


def plan(*rules, limits=()) -> FaultPlan:
    return FaultPlan(rules=rules, limits=limits)


def adds(client: Client) -> tuple[int, int]:
    count = client.running.ledger().adds[URL]
    return count.received, count.applied


async def post_add(client: Client, pack_id: str) -> aiohttp.ClientResponse:
    headers = {"Authorization": "Bearer tester.secret"}
    url = f"{client.running.base_url}/packs/{pack_id}/images"
    answer = await client.session.post(url, json={"image_url": URL}, headers=headers)
    await answer.read()
    return answer


@pytest.mark.parametrize("has_effect", [False, True])
async def test_error(serving, has_effect):
    rule = ErrorAnswer(operation="add_image", status=500, times=1, effect=has_effect)
    async with serving(faults=plan(rule)) as client:
        pack_id = await client.make_pack()
        status, answer = await client.add(pack_id, URL)
        assert (status, answer["ok"], answer["code"]) == (500, False, 500)
        assert answer["error_code"] == "pack_image_add_failed"
        assert adds(client) == (1, int(has_effect))
        assert client.running.ledger().faults == {"add_image": {"error": 1}}
        assert (await client.add(pack_id, URL))[0] == 201


async def test_error_with_its_own_code_and_retry_after(serving):
    rules = (
        ErrorAnswer(operation="add_image", status=503, error_code="busy", retry_after=1.5, times=1),
        ErrorAnswer(operation="add_image", status=429, retry_after="Wed, 21 Oct 2037 07:28:00 GMT"),
    )
    async with serving(faults=plan(*rules)) as client:
        answer = await post_add(client, "any")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1.5")
        assert (await answer.json())["error_code"] == "busy"
        answer = await post_add(client, "any")
        assert answer.headers["Retry-After"] == "Wed, 21 Oct 2037 07:28:00 GMT"
        assert (await answer.json())["error_code"] == "rate_limited"


async def test_error_from_the_storage_is_xml(serving):
    async with serving(faults=plan(ErrorAnswer(operation="put", status=503, times=1))) as client:
        upload = await client.reserve()
        headers = {"Content-Type": "image/jpeg"}
        async with client.session.put(upload["uploadUrl"], data=picture(), headers=headers) as answer:
            assert (answer.status, answer.content_type) == (503, "application/xml")
            assert "<Code>SlowDown</Code>" in await answer.text()
        assert await client.put(upload, picture()) == 200


async def test_slow(serving):
    async with serving(faults=plan(Slow(operation="add_image", delay_s=0.05))) as client:
        pack_id = await client.make_pack()
        assert (await client.add(pack_id, URL))[0] == 201
        assert client.running.ledger().recent[-1].took_s >= 0.05


@pytest.mark.parametrize(("rule", "applied"), [(CutBefore, 0), (CutAfter, 1)])
async def test_cut(serving, rule, applied):
    async with serving(faults=plan(rule(operation="add_image", times=1))) as client:
        pack_id = await client.make_pack()
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.add(pack_id, URL)
        assert adds(client) == (1, applied)
        assert len(await client.images(pack_id)) == applied
        assert client.running.ledger().requests["add_image"] == {"cut": 1}


async def test_cut_json(serving):
    async with serving(faults=plan(CutJson(operation="add_image"))) as client:
        answer = await post_add(client, await client.make_pack())
        assert answer.status == 201
        body = await answer.text()
        assert body.startswith('{"ok":true')
        assert not body.endswith("}")
        assert adds(client) == (1, 1)


@pytest.mark.parametrize(("status", "has_effect"), [(502, False), (200, True)])
async def test_html(serving, status, has_effect):
    async with serving(faults=plan(Html(operation="add_image", status=status, effect=has_effect))) as client:
        answer = await post_add(client, await client.make_pack())
        assert (answer.status, answer.content_type) == (status, "text/html")
        assert adds(client) == (1, int(has_effect))


@pytest.mark.parametrize("has_effect", [False, True])
async def test_hang_ends_with_the_client(serving, has_effect):
    async with serving(faults=plan(Hang(operation="add_image", effect=has_effect))) as client:
        pack_id = await client.make_pack()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.add(pack_id, URL)
        await until(lambda: client.running.ledger().requests.get("add_image") == {"gone": 1})
        assert adds(client) == (1, int(has_effect))


async def test_hang_is_bounded(serving):
    async with serving(faults=plan(Hang(operation="add_image")), hang_s=0.05) as client:
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.add("any", URL)


async def test_what_hangs_does_not_hold_up_the_end(serving):
    async with asyncio.TaskGroup() as tasks:
        async with serving(faults=plan(Hang(operation="add_image"))) as client:
            waiting = tasks.create_task(asyncio.wait([asyncio.ensure_future(client.add("any", URL))]))
            await until(lambda: client.running.ledger().max_concurrency["api"] == 1)
        done, _ = await waiting
        assert isinstance(done.pop().exception(), aiohttp.ClientError)


@pytest.mark.parametrize("status", [None, 504])
async def test_late(serving, status):
    async with serving(faults=plan(Late(operation="add_image", delay_s=0.2, status=status))) as client:
        pack_id = await client.make_pack()
        if status is None:
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.add(pack_id, URL)
        else:
            assert (await client.add(pack_id, URL))[0] == status
        assert adds(client) == (1, 0)
        await until(lambda: adds(client) == (1, 1))
        assert len(await client.images(pack_id)) == 1


async def test_late_put(serving):
    async with serving(faults=plan(Late(operation="put", delay_s=0.1, status=500))) as client:
        upload = await client.reserve()
        assert await client.put(upload, picture()) == 500
        await until(lambda: client.running.ledger().effects.get("put") == 1)
        async with client.session.get(upload["url"]) as answer:
            assert await answer.read() == picture()


async def test_late_effect_of_what_would_be_refused(serving):
    rules = (Late(operation="add_image", delay_s=0, status=500), Late(operation="put", delay_s=0, status=500))
    async with serving(faults=plan(*rules)) as client:
        assert (await client.add("no such pack", URL))[0] == 500
        upload = await client.reserve()
        upload["uploadUrl"] += "0"
        assert await client.put(upload, picture()) == 500
        assert (await client.call("GET", "/packs"))[0] == 200
        assert client.running.ledger().effects == {"upload_file": 1}


async def test_stale_read(serving):
    async with serving(faults=plan(StaleRead(operation="get_pack", within_s=60, times=1))) as client:
        pack_id = await client.make_pack()
        await client.add(pack_id, URL)
        assert await client.images(pack_id) == []
        assert len(await client.images(pack_id)) == 1


async def test_match_harms_one_image_only(serving):
    async with serving(faults=plan(ErrorAnswer(operation="add_image", match=URL))) as client:
        pack_id = await client.make_pack()
        assert (await client.add(pack_id, URL))[0] == 500
        assert (await client.add(pack_id, "https://example.com/b.jpg"))[0] == 201


async def test_a_limit_answers_429_with_retry_after_and_headers(serving):
    limit = FixedWindow(lane="api", requests=1, window_s=60, headers=True)
    async with serving(faults=plan(limits=(limit,))) as client:
        answer = await post_add(client, "any")
        assert answer.status == 404
        assert answer.headers["X-RateLimit-Limit"] == "1"
        assert answer.headers["X-RateLimit-Remaining"] == "0"
        answer = await post_add(client, "any")
        assert answer.status == 429
        assert 0 < int(answer.headers["Retry-After"]) <= 60
        assert (await answer.json())["error_code"] == "rate_limited"
        assert adds(client) == (2, 0)
        assert client.running.ledger().limited == {"api": 1, "storage": 0}


async def test_a_limit_may_keep_silent(serving):
    limit = TokenBucket(lane="api", rate=0.001, burst=1, retry_after=False)
    async with serving(faults=plan(limits=(limit,))) as client:
        await post_add(client, "any")
        answer = await post_add(client, "any")
        assert answer.status == 429
        assert not {"Retry-After", "X-RateLimit-Limit"} & set(answer.headers)


async def test_a_limit_of_the_storage_says_slow_down(serving):
    async with serving(faults=plan(limits=(FixedWindow(lane="storage", requests=1, window_s=60),))) as client:
        upload = await client.reserve()
        assert await client.put(upload, picture()) == 200
        assert await client.put(upload, picture()) == 503
        assert client.running.ledger().recent[-1].error_code == "SlowDown"


async def test_requests_at_once_are_limited_until_one_ends(serving):
    faults = plan(Hang(operation="get_pack"), limits=(Concurrency(lane="api", n=1),))
    async with serving(faults=faults) as client, asyncio.TaskGroup() as tasks:
        hanging = tasks.create_task(client.call("GET", "/packs/any"))
        await until(lambda: client.running.ledger().max_concurrency["api"] == 1)
        assert (await client.call("GET", "/packs"))[0] == 429
        hanging.cancel()
        await until(lambda: "get_pack" in client.running.ledger().requests)
        assert (await client.call("GET", "/packs"))[0] == 200


async def test_the_plan_is_replaced_while_it_runs(serving):
    async with serving() as client:
        url = client.running.url + "/sandbox/faults"
        wanted = {"rule": [{"operation": "list_packs", "kind": "error", "status": 503}]}
        async with client.session.put(url, json=wanted) as answer:
            assert answer.status == 200
        assert (await client.call("GET", "/packs"))[0] == 503
        async with client.session.put(url, json={"rule": [{"operation": "x", "kind": "error"}]}) as answer:
            assert answer.status == 422
            assert "operation" in (await answer.json())["error"]
        async with client.session.put(url, json={}) as answer:
            assert answer.status == 200
        assert (await client.call("GET", "/packs"))[0] == 200
