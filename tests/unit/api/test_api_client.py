"""What each method sends, and what it makes of the examples of the documentation."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rude import BASE_URL, KEY, SECRET, Canned, answer, client_of, ok, run
from yarl import URL

from ingest.api.client import PacksClient
from ingest.api.credentials import Credentials
from ingest.api.messages import AddedImage, Credits, ImageMetadata, Pack, PackImage, PackSummary, UploadTicket
from ingest.api.transport import Call
from ingest.errors import ImageChanged, Rejected, RequestError, UsageError
from ingest.model import Operation
from ingest.settings import ApiSettings

PACK = (
    '{"id":"p","name":"n","image_count":2,"is_public":true,"created_at":"2026-02-17T11:02:00.000Z","images":[],"new":1}'
)
TICKET = (
    '{"uploadUrl":"https://storage.example.com/a%2Fb/c?X-Amz-Credential=k%2F1&X-Amz-Signature=0123abcd",'
    '"url":"https://cdn.example/abc.jpg","contentType":"image/jpeg","expiresIn":600}'
)


def sent(client: PacksClient) -> Call:
    transport = client._transport
    assert isinstance(transport, Canned)
    (call,) = transport.calls
    return call


def body_of(call: Call) -> Any:
    assert isinstance(call.body, bytes)
    assert call.headers["Content-Type"] == "application/json"
    return json.loads(call.body)


def test_list_packs() -> None:
    summary = '{"id":"p","name":"n","image_count":1,"preview_image_url":null,"is_public":false}'
    page = f'{{"packs":[{summary}],"total":9,"limit":1,"offset":2}}'
    client = client_of(answer(200, ok(page)))
    result = run(client.list_packs(search="gym & café", limit=1, offset=2, include_public=False))
    assert result.packs == (PackSummary(id="p", name="n", image_count=1, is_public=False),)
    assert (result.total, result.limit, result.offset) == (9, 1, 2)
    call = sent(client)
    assert call.operation is Operation.LIST_PACKS
    assert call.url == f"{BASE_URL}/packs?search=gym+%26+caf%C3%A9&limit=1&offset=2&include_public=false"
    assert (call.method, call.body, call.headers) == ("GET", None, {"Authorization": f"Bearer {KEY}"})


def test_list_packs_asks_for_nothing_that_it_was_not_given() -> None:
    client = client_of(answer(200, ok('{"packs":[],"total":0,"limit":20,"offset":0}')))
    assert run(client.list_packs()).packs == ()
    assert sent(client).url == f"{BASE_URL}/packs"


def test_get_pack() -> None:
    images = (
        '[{"id":"i","url":"u","metadata":{"status":"completed","description":"A gym.","keywords":["gym"],'
        '"model":"m","generated_at":"t","error":null}},{"id":"j","url":"v","metadata":null}]'
    )
    client = client_of(answer(200, ok(PACK.replace("[]", images))))
    pack = run(client.get_pack("p"))
    metadata = ImageMetadata(status="completed", description="A gym.", keywords=("gym",), model="m", generated_at="t")
    assert pack.images == (PackImage(id="i", url="u", metadata=metadata), PackImage(id="j", url="v"))
    assert (sent(client).method, sent(client).url) == ("GET", f"{BASE_URL}/packs/p")


def test_scan_pack() -> None:
    client = client_of(answer(200, ok('{"id":"p","name":"n","images":[{"id":"i","url":"u"},{"id":"j","url":"v"}]}')))
    scan = run(client.scan_pack("p", {"v"}))
    assert (scan.name, scan.image_count, [image.image_id for image in scan.found]) == ("n", 2, ["j"])
    assert (sent(client).operation, sent(client).url) == (Operation.GET_PACK, f"{BASE_URL}/packs/p")


def test_create_pack() -> None:
    client = client_of(answer(201, ok(PACK, code=201)))
    pack = run(client.create_pack("n", is_public=True))
    assert pack == Pack(
        id="p", name="n", image_count=2, is_public=True, images=(), created_at="2026-02-17T11:02:00.000Z"
    )
    assert (sent(client).method, sent(client).url) == ("POST", f"{BASE_URL}/packs")
    assert body_of(sent(client)) == {"name": "n", "is_public": True}


@pytest.mark.parametrize(
    ("changes", "body"),
    [({"name": "m"}, {"name": "m"}), ({"is_public": False}, {"is_public": False}), ({}, {})],
)
def test_update_pack_sends_what_changes(changes: dict[str, Any], body: dict[str, Any]) -> None:
    client = client_of(answer(200, ok(PACK)))
    run(client.update_pack("p", **changes))
    assert (sent(client).method, sent(client).url) == ("PATCH", f"{BASE_URL}/packs/p")
    assert body_of(sent(client)) == body


@pytest.mark.parametrize("data", ['{"id":"p","deleted":true}', "{}"])
def test_delete_pack(data: str) -> None:
    client = client_of(answer(200, ok(data)))
    run(client.delete_pack("p"))
    assert (sent(client).method, sent(client).url, sent(client).body) == ("DELETE", f"{BASE_URL}/packs/p", None)


@pytest.mark.parametrize(
    ("file_name", "body"), [(None, {"image_url": "u"}), ("03.jpg", {"image_url": "u", "file_name": "03.jpg"})]
)
def test_add_image(file_name: str | None, body: dict[str, str]) -> None:
    data = '{"id":"i","url":"u2","file_name":"03.jpg","content_type":"image/jpeg"}'
    client = client_of(answer(201, ok(data, code=201)))
    image = run(client.add_image("p", "u", file_name))
    assert image == AddedImage(id="i", url="u2", file_name="03.jpg", content_type="image/jpeg")
    assert (sent(client).method, sent(client).url) == ("POST", f"{BASE_URL}/packs/p/images")
    assert body_of(sent(client)) == body


def test_delete_image() -> None:
    client = client_of(answer(200, ok('{"id":"i","deleted":true}')))
    run(client.delete_image("p", "i"))
    assert (sent(client).method, sent(client).url) == ("DELETE", f"{BASE_URL}/packs/p/images/i")


def test_upload_file() -> None:
    client = client_of(answer(201, ok(TICKET, code=201)))
    ticket = run(client.upload_file("image/jpeg", filename="a.jpg", size_bytes=7))
    assert ticket == UploadTicket(
        upload_url="https://storage.example.com/a%2Fb/c?X-Amz-Credential=k%2F1&X-Amz-Signature=0123abcd",
        url="https://cdn.example/abc.jpg",
        content_type="image/jpeg",
        expires_in_s=600,
    )
    assert (sent(client).method, sent(client).url) == ("POST", f"{BASE_URL}/files")
    assert body_of(sent(client)) == {"contentType": "image/jpeg", "filename": "a.jpg", "size": 7}


def test_put_file_sends_the_bytes_that_were_meant() -> None:
    client = client_of(answer(200))
    ticket = run(client_of(answer(201, ok(TICKET, code=201))).upload_file("image/jpeg"))
    with pytest.raises(ImageChanged):
        run(client.put_file(ticket, b"bytes", content_type="image/jpeg", content_length=6))
    assert client._transport.calls == []  # type: ignore[attr-defined]


def test_put_file_takes_no_key_along() -> None:
    client = client_of(answer(200))
    ticket = run(client_of(answer(201, ok(TICKET, code=201))).upload_file("image/jpeg"))
    run(client.put_file(ticket, b"bytes", content_type="image/jpeg", content_length=5))
    call = sent(client)
    assert (call.method, call.url, call.body, call.content_length) == ("PUT", ticket.upload_url, b"bytes", 5)
    assert call.headers == {"Content-Type": "image/jpeg"}


def test_list_files() -> None:
    entry = '{"id":"f","url":"u","contentType":"image/png","filename":null,"size":7,"createdAt":"t"}'
    data = f'{{"files":[{entry}],"total":1,"limit":50,"offset":0,"context":{{"any":"thing"}}}}'
    client = client_of(answer(200, ok(data)))
    page = run(client.list_files(limit=50, offset=0, file_type="image", context="pack"))
    (file,) = page.files
    assert (file.id, file.content_type, file.size_bytes, file.created_at) == ("f", "image/png", 7, "t")
    assert sent(client).url == f"{BASE_URL}/files?limit=50&offset=0&type=image&context=pack"


def test_get_subscription() -> None:
    data = (
        '{"scope":"workspace","workspace_id":"w","subscription":{"status":"active","tier":"creator","is_paused":false,'
        '"credits":{"limit":1000,"used_this_period":1.5,"remaining":998.5,"reset_at":"t"}}}'
    )
    client = client_of(answer(200, ok(data)))
    subscription = run(client.get_subscription())
    assert (subscription.scope, subscription.workspace_id) == ("workspace", "w")
    assert subscription.plan is not None
    assert (subscription.plan.status, subscription.plan.tier) == ("active", "creator")
    assert subscription.plan.credits == Credits(limit=1000, used_this_period=1.5, remaining=998.5, reset_at="t")
    assert sent(client).url == f"{BASE_URL}/subscription"


@pytest.mark.parametrize("pack_id", ["", ".", "..", "\udcff"])
def test_an_id_that_would_name_another_endpoint_is_not_sent(pack_id: str) -> None:
    client = client_of(answer(200))
    calls = (client.get_pack, client.delete_pack, lambda i: client.scan_pack(i, ()), lambda i: client.add_image(i, "u"))
    for call in calls:
        with pytest.raises(Rejected) as caught:
            run(call(pack_id))
        assert caught.value.error_code == "missing_pack_id"
        assert not caught.value.is_answer
    with pytest.raises(Rejected) as caught:
        run(client.delete_image("p", pack_id))
    assert caught.value.error_code == "missing_image_id"
    assert client._transport.calls == []  # type: ignore[attr-defined]


@given(st.text(min_size=1))
def test_an_id_stays_one_part_of_the_path(pack_id: str) -> None:
    client = client_of(answer(200, ok("{}")))
    try:
        run(client.delete_image(pack_id, "i"))
    except RequestError:
        assert pack_id in {".", ".."}
        return
    url = URL(sent(client).url, encoded=True)
    assert url.parts == ("/", "v1", "packs", pack_id, "images", "i")
    assert sent(client).url.isascii()
    assert not url.query_string
    assert not url.fragment


def test_text_that_json_can_not_carry_is_rejected() -> None:
    client = client_of(answer(201))
    with pytest.raises(Rejected, match="UTF-8") as caught:
        run(client.add_image("p", "u", "caf\udce9.jpg"))
    assert caught.value.error_code == "invalid_json"
    assert client._transport.calls == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "url",
    ["", "www.genviral.io", "ftp://x", "https://", "https://x?a=1", "https://x#a", "https://u:p@x", "https://x/ y",
     "https://[x", "https://x\n"],
)  # fmt: skip
def test_a_base_url_that_is_none(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        PacksClient(Canned(answer(200)), Credentials(ApiSettings(key=KEY)), url)
    assert "GENVIRAL_BASE_URL" in caught.value.hint
    assert "u:p" not in str(caught.value)


def test_a_base_url_may_end_with_a_slash() -> None:
    transport = Canned(answer(200, ok(PACK)))
    run(PacksClient(transport, Credentials(ApiSettings(key=KEY)), "http://x/v1/").get_pack("p"))
    assert transport.calls[0].url == "http://x/v1/packs/p"


async def test_a_rotated_key_is_used_at_once(tmp_path: Any) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    credentials = Credentials(ApiSettings(key_file=str(file)))
    transport = Canned(answer(200, ok(PACK)))
    client = PacksClient(transport, credentials, BASE_URL)
    await client.get_pack("p")
    file.write_text("pk_second.other")
    await credentials.refresh()
    await client.get_pack("p")
    assert [call.headers["Authorization"] for call in transport.calls] == [f"Bearer {KEY}", "Bearer pk_second.other"]


def test_nothing_that_is_printed_holds_a_secret() -> None:
    from rich.pretty import pretty_repr

    client = client_of(answer(201, ok(TICKET, code=201)))
    ticket = run(client.upload_file("image/jpeg"))
    put = client_of(answer(200))
    run(put.put_file(ticket, b"x", content_type="image/jpeg", content_length=1))
    for thing in (ticket, sent(client), sent(put), client._transport.end, client._credentials):  # type: ignore[attr-defined]
        for text in (repr(thing), str(thing), f"{thing}", pretty_repr(thing)):
            assert "Signature" not in text
            assert "0123abcd" not in text
            assert SECRET not in text
