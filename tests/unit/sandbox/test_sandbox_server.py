"""The sandbox as a whole, in this process: uploads, ledger, control, what survives a restart, how it ends."""

from __future__ import annotations

import asyncio
import hashlib
from urllib.parse import urlsplit

import msgspec
import pytest
from sandbox_client import KEY, picture, until

from ingest.sandbox import ApiKey, LedgerView, Sandbox, SandboxSettings, control

URL = "https://example.com/a.jpg"


async def half_a_put(url: str) -> asyncio.StreamWriter:
    """An upload of 1000 bytes of which 500 were sent."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: image/jpeg\r\n"
    writer.write(head.encode() + b"Content-Length: 1000\r\n\r\n" + b"x" * 500)
    await writer.drain()
    return writer


@pytest.mark.parametrize("on_disk", [True, False])
async def test_an_upload_that_is_cut_leaves_nothing(serving, tmp_path, on_disk):
    async with serving(data=tmp_path if on_disk else None) as client:
        upload = await client.reserve()
        writer = await half_a_put(upload["uploadUrl"])
        await until(lambda: client.running.ledger().max_concurrency["storage"] == 1)
        writer.close()
        await writer.wait_closed()
        await until(lambda: client.running.ledger().requests.get("put") == {"gone": 1})
        async with client.session.get(upload["url"]) as answer:
            assert answer.status == 404
        assert client.running.ledger().files[0].sha256 is None
        assert list(tmp_path.glob("incoming/*")) == []
        assert await client.put(upload, picture()) == 200


async def test_a_second_upload_takes_the_place_of_the_first(serving):
    async with serving() as client:
        upload = await client.reserve()
        for body in (b"first", b"second"):
            assert await client.put(upload, body) == 200
        async with client.session.get(upload["url"]) as answer:
            assert await answer.read() == b"second"
        (file,) = client.running.ledger().files
        assert (file.puts, file.sha256, file.stored_bytes) == (2, hashlib.sha256(b"second").hexdigest(), 6)


async def test_large_bodies_and_their_limit(serving, tmp_path):
    async with serving(data=tmp_path, max_upload_bytes=3_000_000) as client:
        body = bytes(range(256)) * 10_000
        url = await client.upload(body)
        async with client.session.get(url) as answer:
            assert await answer.read() == body
        async with client.session.head(url) as answer:
            assert (answer.content_length, answer.content_type) == (len(body), "image/jpeg")
        assert await client.put(await client.reserve(), bytes(3_000_001)) == 400
        assert client.running.ledger().recent[-1].error_code == "EntityTooLarge"
        assert client.running.ledger().bytes_served == len(body)


async def test_the_ledger_is_the_same_inside_and_outside(serving):
    async with serving() as client:
        pack_id = await client.make_pack()
        url = await client.upload(picture())
        for _ in range(2):
            await client.add(pack_id, url)
        await client.add(pack_id, URL)
        await client.add("no such pack", URL)
        async with client.session.get(client.running.url + "/sandbox/ledger") as answer:
            body = await answer.read()
        inside = client.running.ledger()
        assert msgspec.json.decode(body, type=LedgerView) == inside
        (pack,) = inside.packs
        assert [(image.url, image.sha256) for image in pack.images] == [
            (url, hashlib.sha256(picture()).hexdigest()),
            (url, hashlib.sha256(picture()).hexdigest()),
            (URL, None),
        ]
        assert (pack.name, pack.scope) == ("Motivation", KEY.scope)
        assert inside.adds[url] == msgspec.convert({"received": 2, "applied": 2}, type(inside.adds[url]))
        assert (inside.adds[URL].received, inside.adds[URL].applied) == (2, 1)
        assert inside.requests["add_image"] == {"201": 3, "404": 1}
        assert inside.effects == {"create_pack": 1, "upload_file": 1, "put": 1, "add_image": 3}
        assert inside.bytes_stored == len(picture())
        assert [record.operation for record in inside.recent][:3] == ["create_pack", "upload_file", "put"]
        assert b"secret" not in body
        async with client.session.post(client.running.url + "/sandbox/reset-ledger") as answer:
            assert answer.status == 204
        assert client.running.ledger().requests == {}
        assert len(client.running.ledger().packs) == 1


async def test_a_key_is_revoked_restored_and_added_while_it_runs(serving):
    async with serving() as client:

        async def change(**wanted) -> int:
            async with client.session.post(client.running.url + "/sandbox/keys", json=wanted) as answer:
                assert KEY.key not in await answer.text()
                return answer.status

        assert (await client.call("GET", "/packs"))[0] == 200
        assert await change(key=KEY.key, revoked=True) == 200
        assert (await client.call("GET", "/packs"))[0] == 401
        assert (await client.call("GET", "/packs"))[0] == 401
        assert client.running.ledger().after_refusal == 1
        assert await change(key=KEY.key, revoked=False, tier="scheduler") == 200
        assert (await client.call("GET", "/packs"))[0] == 403
        assert await change(key="other.secret", kind="personal", owner_id="me") == 200
        assert (await client.call("POST", "/packs", {"name": "mine"}, key="other.secret"))[0] == 201
        assert client.running.ledger().packs[0].scope == "users/me"
        assert await change(key="no key") == 422
        assert await change(key="a.b", tier="gold") == 422


async def test_control_is_for_this_machine_only(serving, monkeypatch):
    async with serving() as client:
        monkeypatch.setattr(control, "_is_loopback", lambda remote: False)
        async with client.session.get(client.running.url + "/sandbox/ledger") as answer:
            assert answer.status == 403


@pytest.mark.parametrize(
    ("remote", "is_loopback"),
    [
        *((remote, True) for remote in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")),
        *((remote, False) for remote in ("10.0.0.1", "::ffff:10.0.0.1", "", None)),
    ],
)
def test_what_this_machine_is(remote, is_loopback):
    assert control._is_loopback(remote) is is_loopback


async def test_what_was_done_survives_a_restart(serving, tmp_path):
    async with serving(data=tmp_path) as client:
        pack_id = await client.make_pack()
        url = await client.upload(picture())
        await client.add(pack_id, url)
        before = client.running.ledger()
    async with serving(data=tmp_path) as client:
        after = client.running.ledger()
        assert (after.packs, after.files) == (before.packs, before.files)
        async with client.session.get(client.running.url + urlsplit(url).path) as answer:
            assert await answer.read() == picture()


async def test_memory_is_gone_at_the_end(serving):
    sandbox = Sandbox(SandboxSettings(keys=(KEY,)))
    async with sandbox.serve() as running:
        assert running.base_url == running.url + "/api/partner/v1"
    async with sandbox.serve() as running:
        assert running.ledger().packs == []


async def test_an_exception_of_the_block_leaves_it_as_it_is(serving):
    with pytest.raises(LookupError, match="mine"):
        async with serving(enrich=True):
            raise LookupError("mine")


async def test_a_taken_address_is_an_oserror(serving):
    async with serving() as client:
        port = urlsplit(client.running.url).port
        with pytest.raises(OSError, match="address already in use"):
            async with serving(port=port):
                pass


async def test_a_folder_that_cannot_be_used_is_an_oserror(serving, tmp_path):
    (tmp_path / "sandbox.db").write_bytes(b"this is no database, and long enough to be sure of that" * 20)
    with pytest.raises(OSError, match=r"sandbox\.db"):
        async with serving(data=tmp_path):
            pass


async def test_scopes_never_meet(serving):
    keys = (
        KEY,
        ApiKey(key="same.secret"),
        ApiKey(key="other.secret", workspace_id="other"),
        ApiKey(key="person.secret", kind="personal", owner_id="me"),
    )
    async with serving(keys=keys) as client:
        pack_id = await client.make_pack()
        assert (await client.call("GET", f"/packs/{pack_id}", key="same.secret"))[0] == 200
        for key in ("other.secret", "person.secret"):
            for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
                status, answer = await client.call(method, f"/packs/{pack_id}", body, key=key)
                assert (status, answer["error_code"]) == (404, "not_found")
            assert (await client.call("GET", "/packs", key=key))[1]["data"]["total"] == 0
        await client.upload(picture())
        assert (await client.call("GET", "/files", key="other.secret"))[1]["data"]["total"] == 0
