"""Plain `curl` with the documented requests gives the documented answers; and a sandbox that is killed forgets nothing.

Written from API.md, not from the sandbox's code: what stands here is what the Packs API promises.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import ingest.sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="needs curl")

ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")
URL = "https://cdn.example.com/packs/motivation/03.jpg"

KEYS = """
[[key]]
key = "workspace.secret"
workspace_id = "ws-1"

[[key]]
key = "rotated.secret"
workspace_id = "ws-1"

[[key]]
key = "elsewhere.secret"
workspace_id = "ws-2"

[[key]]
key = "person.secret"
kind = "personal"
owner_id = "owner-1"
tier = "business"

[[key]]
key = "scheduler.secret"
tier = "scheduler"

[[key]]
key = "unpaid.secret"
tier = "none"

[[key]]
key = "revoked.secret"
workspace_id = "ws-1"
revoked = true
"""

SERVER = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from ingest.sandbox import Sandbox, SandboxSettings

async def main(keys, data, port, enrich_delay_s, upload_expires_s):
    settings = replace(
        SandboxSettings.from_files(keys_file=Path(keys)), data=Path(data) if data else None, port=int(port),
        enrich_delay_s=float(enrich_delay_s), upload_expires_s=int(upload_expires_s), max_upload_bytes=2_000_000,
    )
    async with Sandbox(settings).serve() as running:
        print(running.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.contextmanager
def serving(
    folder: Path, *, data: Path | None = None, port: int = 0, enrich_delay_s: float = 0.0, upload_expires_s: int = 600
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A sandbox in a process of its own: its URL, and the process. It ends when its stdin does."""
    keys = folder / "keys.toml"
    keys.write_text(KEYS)
    arguments = [str(keys), str(data or ""), str(port), str(enrich_delay_s), str(upload_expires_s)]
    root = Path(ingest.sandbox.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    )
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, "the sandbox did not start"
        try:
            yield url, process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """What a success holds; checks the envelope on the way."""
        content = self.json
        assert set(content) == {"ok", "code", "message", "data"}
        assert content["ok"] is True
        assert content["code"] == self.status
        return content["data"]

    @property
    def error(self) -> tuple[int, str | None]:
        """Status and `error_code` of a failure; checks the envelope on the way."""
        content = self.json
        assert set(content) <= {"ok", "code", "message", "error_code"}
        assert content["ok"] is False
        assert content["code"] == self.status
        assert content["message"]
        return self.status, content.get("error_code")

    @property
    def storage_error(self) -> tuple[int, str]:
        """Status and `Code` of S3's XML."""
        assert self.content_type == "application/xml"
        code = re.search(r"<Code>(\w+)</Code>", self.body.decode())
        assert code is not None
        return self.status, code[1]


def curl(*arguments: str, send: bytes | None = None) -> Answer:
    """One request by curl; `send` is its stdin, for `--data-binary @-`."""
    marker = "\n%{http_code} %{content_type}"
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--globoff", "--write-out", marker, *arguments]
    done = subprocess.run(command, input=send, capture_output=True, check=True)
    body, _, tail = done.stdout.rpartition(b"\n")
    status, _, content_type = tail.decode().partition(" ")
    return Answer(int(status), content_type.partition(";")[0], body)


@dataclass(frozen=True)
class Api:
    """The documented requests, with curl."""

    url: str

    def __call__(
        self, method: str, path: str, body: Any = None, *, key: str = "workspace.secret", raw: bytes | None = None
    ) -> Answer:
        arguments = ["-X", method, "-H", f"Authorization: Bearer {key}"]
        send = raw if body is None else json.dumps(body).encode()
        if send is not None:
            arguments += ["-H", "Content-Type: application/json", "--data-binary", "@-"]
        return curl(*arguments, f"{self.url}/api/partner/v1{path}", send=send)

    def make_pack(self, name: str = "Motivation", *, key: str = "workspace.secret", is_public: bool = False) -> str:
        return str(self("POST", "/packs", {"name": name, "is_public": is_public}, key=key).data["id"])

    def put(self, upload_url: str, body: bytes = JPEG, content_type: str = "image/jpeg", *extra: str) -> Answer:
        headers = ["-H", f"Content-Type: {content_type}", *extra]
        return curl("-X", "PUT", *headers, "--data-binary", "@-", upload_url, send=body)

    def ledger(self) -> Any:
        return curl(f"{self.url}/sandbox/ledger").json


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("sandbox")) as (url, _):
        yield Api(url)


def test_create_pack(api):
    answer = api("POST", "/packs", {"name": "  Motivation  ", "is_public": True})
    assert (answer.status, answer.content_type) == (201, "application/json")
    assert answer.json["message"] == "Pack created"
    assert set(answer.data) == {"id", "name", "image_count", "is_public", "created_at", "images"}
    assert (answer.data["name"], answer.data["is_public"], answer.data["image_count"]) == ("Motivation", True, 0)
    assert answer.data["images"] == []
    assert ISO_TIME.fullmatch(answer.data["created_at"])
    again = api("POST", "/packs", {"name": "Motivation"})
    assert again.data["is_public"] is False
    assert again.data["id"] != answer.data["id"]


def test_create_pack_errors(api):
    assert api("POST", "/packs", raw=b"{name}").error == (400, "invalid_json")
    assert api("POST", "/packs", raw=b"").error == (400, "invalid_json")
    for body in ({}, {"name": "  "}, {"name": "x" * 121}, {"name": "x", "is_public": "yes"}, []):
        assert api("POST", "/packs", body).error == (422, "invalid_payload")


def test_list_packs(api):
    names = [f"list {number}" for number in range(3)]
    ids = [api.make_pack(name) for name in names]
    answer = api("GET", "/packs?search=LIST%20&limit=2&offset=1")
    assert answer.status == 200
    assert answer.json["message"] == "Packs retrieved"
    assert set(answer.data) == {"packs", "total", "limit", "offset"}
    assert (answer.data["total"], answer.data["limit"], answer.data["offset"]) == (3, 2, 1)
    assert len(answer.data["packs"]) == 2
    for pack in answer.data["packs"]:
        assert set(pack) == {"id", "name", "image_count", "preview_image_url", "is_public", "created_at"}
        assert pack["id"] in ids
        assert pack["preview_image_url"] is None
    assert api("GET", "/packs").data["limit"] == 20
    api("POST", f"/packs/{ids[0]}/images", {"image_url": URL})
    (pack,) = api("GET", "/packs?search=list%200").data["packs"]
    assert (pack["image_count"], pack["preview_image_url"]) == (1, URL)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=", "offset=-1", "offset=1.5"])
def test_wrong_pages(api, query):
    assert api("GET", f"/packs?{query}").error == (422, "invalid_query")
    assert api("GET", f"/files?{query}").error == (400, "invalid_query_parameter")


def test_get_pack(api):
    pack_id = api.make_pack("to get")
    urls = [f"https://cdn.example.com/{number}.jpg" for number in range(5)]
    ids = [api("POST", f"/packs/{pack_id}/images", {"image_url": url}).data["id"] for url in urls]
    answer = api("GET", f"/packs/{pack_id}")
    assert answer.status == 200
    assert answer.json["message"] == "Pack retrieved"
    assert set(answer.data) == {"id", "name", "image_count", "is_public", "created_at", "images"}
    assert answer.data["image_count"] == 5
    assert [(image["id"], image["url"]) for image in answer.data["images"]] == list(zip(ids, urls, strict=True))
    for image in answer.data["images"]:
        assert set(image) == {"id", "url", "metadata"}
        assert set(image["metadata"]) == {"status", "description", "keywords", "model", "generated_at", "error"}
        assert image["metadata"]["status"] in ("pending", "processing", "completed", "failed")
    assert api("GET", "/packs/").error == (400, "missing_pack_id")
    assert api("GET", "/packs/22222222-2222-2222-2222-222222222222").error == (404, "not_found")
    assert api("GET", "/packs/%ff%00'").error == (404, "not_found")


def test_update_pack(api):
    pack_id = api.make_pack("old")
    api("POST", f"/packs/{pack_id}/images", {"image_url": URL})
    answer = api("PATCH", f"/packs/{pack_id}", {"name": " new "})
    assert answer.status == 200
    assert answer.json["message"] == "Pack updated"
    assert (answer.data["name"], answer.data["is_public"], answer.data["images"]) == ("new", False, [])
    assert api("PATCH", f"/packs/{pack_id}", {"is_public": True}).data["name"] == "new"
    assert api("GET", f"/packs/{pack_id}").data["is_public"] is True
    assert api("PATCH", f"/packs/{pack_id}", raw=b"{").error == (400, "invalid_json")
    assert api("PATCH", f"/packs/{pack_id}", {}).error == (422, "invalid_payload")
    assert api("PATCH", f"/packs/{pack_id}", raw=b"").error == (422, "invalid_payload")
    assert api("PATCH", f"/packs/{pack_id}", {"name": ""}).error == (422, "invalid_payload")
    assert api("PATCH", "/packs/", {"name": "x"}).error == (400, "missing_pack_id")
    assert api("PATCH", "/packs/nope", {"name": "x"}).error == (404, "not_found")


def test_delete_pack(api):
    pack_id = api.make_pack()
    answer = api("DELETE", f"/packs/{pack_id}")
    assert (answer.status, answer.data) == (200, {"id": pack_id, "deleted": True})
    assert api("DELETE", f"/packs/{pack_id}").error == (404, "not_found")
    assert api("GET", f"/packs/{pack_id}").error == (404, "not_found")
    assert api("DELETE", "/packs/").error == (400, "missing_pack_id")


def test_add_image(api):
    pack_id = api.make_pack()
    answer = api("POST", f"/packs/{pack_id}/images", {"image_url": URL, "file_name": "03.jpg"})
    assert answer.status == 201
    assert answer.json["message"] == "Pack image added"
    assert set(answer.data) == {"id", "url", "file_name", "content_type"}
    assert (answer.data["url"], answer.data["file_name"]) == (URL, "03.jpg")
    assert answer.data["content_type"] == "image/jpeg"
    again = api("POST", f"/packs/{pack_id}/images", {"image_url": URL})
    assert again.data["file_name"] == "image"
    assert again.data["id"] != answer.data["id"]
    webp = api("POST", f"/packs/{pack_id}/images", {"image_url": "https://example.com/a.webp"})
    assert webp.data["content_type"] == "image/webp"
    assert api("GET", f"/packs/{pack_id}").data["image_count"] == 3


def test_add_image_errors(api):
    pack_id = api.make_pack()
    assert api("POST", "/packs//images", {"image_url": URL}).error == (400, "missing_pack_id")
    assert api("POST", f"/packs/{pack_id}/images", raw=b"[").error == (400, "invalid_json")
    for body in ({}, {"image_url": "03.jpg"}, {"image_url": URL, "file_name": "x" * 256}, {"image_url": None}):
        assert api("POST", f"/packs/{pack_id}/images", body).error == (422, "invalid_payload")
    assert api("POST", "/packs/nope/images", {"image_url": URL}).error == (404, "not_found")


def test_delete_image(api):
    pack_id = api.make_pack()
    image_id = api("POST", f"/packs/{pack_id}/images", {"image_url": URL}).data["id"]
    assert api("DELETE", f"/packs/nope/images/{image_id}").error == (404, "pack_not_found")
    assert api("DELETE", f"/packs/{pack_id}/images/nope").error == (404, "image_not_found")
    assert api("DELETE", f"/packs//images/{image_id}").error == (400, "missing_pack_id")
    assert api("DELETE", f"/packs/{pack_id}/images/").error == (400, "missing_image_id")
    answer = api("DELETE", f"/packs/{pack_id}/images/{image_id}")
    assert answer.status == 200
    assert answer.json["message"] == "Pack image deleted"
    assert answer.data == {"id": image_id, "deleted": True}
    assert api("DELETE", f"/packs/{pack_id}/images/{image_id}").error == (404, "image_not_found")


def test_upload_put_and_read(api):
    answer = api("POST", "/files", {"contentType": "image/jpeg", "filename": "03.jpg", "size": len(JPEG)})
    assert answer.status == 201
    assert answer.json["message"] == "Upload URL generated"
    assert set(answer.data) == {"uploadUrl", "url", "contentType", "expiresIn"}
    assert (answer.data["contentType"], answer.data["expiresIn"]) == ("image/jpeg", 600)
    assert "/partner-api/workspaces/ws-1/" in answer.data["url"]
    assert answer.data["url"].endswith(".jpg")
    assert "X-Amz-Expires=600" in answer.data["uploadUrl"]
    assert curl(answer.data["url"]).storage_error == (404, "NoSuchKey")

    put = api.put(answer.data["uploadUrl"])
    assert (put.status, put.body) == (200, b"")
    read = curl(answer.data["url"])
    assert (read.status, read.content_type, read.body) == (200, "image/jpeg", JPEG)
    head = curl("--head", answer.data["url"])
    assert f"content-length: {len(JPEG)}".encode() in head.body.lower()

    again = api("POST", "/files", {"contentType": "image/jpeg"}).data
    assert again["url"] != answer.data["url"]
    personal = api("POST", "/files", {"contentType": "image/webp"}, key="person.secret").data
    assert "/partner-api/users/owner-1/" in personal["url"]

    (file,) = (file for file in api.ledger()["files"] if file["url"] == answer.data["url"])
    assert file["sha256"] == hashlib.sha256(JPEG).hexdigest()


def test_upload_file_errors(api):
    assert api("POST", "/files", raw=b"{").error == (400, "invalid_json")
    bodies = ({}, {"contentType": "image/avif"}, {"contentType": "image/jpeg", "size": -1}, {"contentType": 1})
    for body in bodies:
        assert api("POST", "/files", body).error == (422, "invalid_payload")


def test_put_errors_are_xml(api):
    upload_url = api("POST", "/files", {"contentType": "image/jpeg"}).data["uploadUrl"]
    assert api.put(upload_url, content_type="image/png").storage_error == (403, "SignatureDoesNotMatch")
    assert api.put(upload_url[:-1]).storage_error == (403, "SignatureDoesNotMatch")
    longer = upload_url.replace("X-Amz-Expires=600", "X-Amz-Expires=6000")
    assert api.put(longer).storage_error == (403, "SignatureDoesNotMatch")
    other = upload_url.replace("ws-1", "ws-2")
    assert api.put(other).storage_error == (403, "SignatureDoesNotMatch")
    assert api.put(upload_url.partition("?")[0]).storage_error == (403, "AccessDenied")
    authorized = api.put(upload_url, JPEG, "image/jpeg", "-H", "Authorization: Bearer workspace.secret")
    assert authorized.storage_error == (400, "InvalidArgument")
    assert api.ledger()["storage_authorizations"] == 1
    chunked = api.put(upload_url, JPEG, "image/jpeg", "-H", "Transfer-Encoding: chunked")
    assert chunked.storage_error == (411, "MissingContentLength")
    assert api.put(upload_url, bytes(2_000_001)).storage_error == (400, "EntityTooLarge")
    assert curl("-X", "POST", upload_url).storage_error == (405, "MethodNotAllowed")
    assert api.put(upload_url).status == 200


def test_an_upload_url_expires(tmp_path):
    with serving(tmp_path, upload_expires_s=0) as (url, _):
        api = Api(url)
        upload = api("POST", "/files", {"contentType": "image/jpeg"}).data
        assert upload["expiresIn"] == 0
        answer = api.put(upload["uploadUrl"])
        # The URL tells whole seconds: it may be good for the rest of the one in which it was made.
        while answer.status == 200:
            answer = api.put(upload["uploadUrl"])
        assert answer.storage_error == (403, "AccessDenied")
        assert b"Request has expired" in answer.body


def test_list_files(api):
    key = "elsewhere.secret"
    for content_type, filename in (("image/png", "a.png"), ("video/mp4", None), ("image/gif", "c.gif")):
        body = {"contentType": content_type} | ({"filename": filename, "size": 7} if filename else {})
        assert api("POST", "/files", body, key=key).status == 201
    answer = api("GET", "/files", key=key)
    assert answer.status == 200
    assert answer.json["message"] == "Files retrieved"
    assert set(answer.data) == {"files", "total", "limit", "offset", "context"}
    assert (answer.data["total"], answer.data["limit"], answer.data["offset"]) == (3, 50, 0)
    for file in answer.data["files"]:
        assert set(file) == {"id", "url", "contentType", "filename", "size", "createdAt"}
        assert ISO_TIME.fullmatch(file["createdAt"])
    images = api("GET", "/files?type=image&limit=1&offset=1", key=key).data
    assert (images["total"], len(images["files"])) == (2, 1)
    assert images["files"][0]["contentType"].startswith("image/")
    assert api("GET", "/files?context=all", key=key).data["context"] == "all"
    assert api("GET", "/files?type=audio", key=key).error == (400, "invalid_query_parameter")


def test_subscription(api):
    answer = api("GET", "/subscription")
    assert answer.status == 200
    assert answer.json["message"] == "Subscription retrieved"
    assert set(answer.data) == {"scope", "workspace_id", "subscription"}
    assert (answer.data["scope"], answer.data["workspace_id"]) == ("workspace", "ws-1")
    subscription = answer.data["subscription"]
    assert set(subscription) == {
        *("status", "tier", "billing_interval", "current_period_start", "current_period_end", "renews_at"),
        *("canceled_at", "is_paused", "paused_until", "credits"),
    }
    assert set(subscription["credits"]) == {"limit", "used_this_period", "remaining", "reset_at"}
    assert subscription["tier"] == "creator"
    personal = api("GET", "/subscription", key="person.secret").data
    assert (personal["scope"], personal["workspace_id"]) == ("personal", None)
    assert personal["subscription"]["tier"] == "business"


EVERY_ENDPOINT = [
    ("GET", "/packs", None),
    ("GET", "/packs/x", None),
    ("POST", "/packs", {"name": "x"}),
    ("PATCH", "/packs/x", {"name": "x"}),
    ("DELETE", "/packs/x", None),
    ("POST", "/packs/x/images", {"image_url": URL}),
    ("DELETE", "/packs/x/images/y", None),
    ("POST", "/files", {"contentType": "image/jpeg"}),
    ("GET", "/files", None),
    ("GET", "/subscription", None),
]


@pytest.mark.parametrize(("method", "path", "body"), EVERY_ENDPOINT)
def test_keys_and_plans_on_every_endpoint(api, method, path, body):
    for key in ("unknown.secret", "revoked.secret", "nodot", "workspace.wrong"):
        answer = api(method, path, body, key=key)
        assert answer.error == (401, "invalid_token")
        assert answer.json["message"] == "API key not found"
    assert curl("-X", method, f"{api.url}/api/partner/v1{path}").error == (401, "invalid_token")
    assert api(method, path, body, key="unpaid.secret").error == (402, "subscription_required")
    assert api(method, path, body, key="scheduler.secret").error == (403, "tier_not_allowed")


def test_a_rotated_key_sees_the_same_packs(api):
    pack_id = api.make_pack()
    assert api("GET", f"/packs/{pack_id}", key="rotated.secret").status == 200


def test_scopes(api):
    private = api.make_pack("scoped private")
    public = api.make_pack("scoped public", is_public=True)
    personal = api.make_pack("scoped personal", key="person.secret")
    image_id = api("POST", f"/packs/{public}/images", {"image_url": URL}).data["id"]
    for key in ("elsewhere.secret", "person.secret"):
        assert api("GET", f"/packs/{private}", key=key).error == (404, "not_found")
        assert api("GET", f"/packs/{public}", key=key).data["image_count"] == 1
        assert api("PATCH", f"/packs/{public}", {"name": "x"}, key=key).error == (404, "not_found")
        assert api("POST", f"/packs/{public}/images", {"image_url": URL}, key=key).error == (404, "not_found")
        assert api("DELETE", f"/packs/{public}/images/{image_id}", key=key).error == (404, "pack_not_found")
        assert api("DELETE", f"/packs/{public}", key=key).error == (404, "not_found")
    assert api("GET", f"/packs/{personal}").error == (404, "not_found")

    def listed(key: str, query: str = "") -> set[str]:
        return {pack["id"] for pack in api("GET", f"/packs?search=scoped{query}", key=key).data["packs"]}

    assert listed("workspace.secret") == {private, public}
    assert listed("person.secret") == {personal, public}
    assert listed("elsewhere.secret", "&include_public=false") == set()
    for anything in ("true", "False", "0", ""):
        assert listed("elsewhere.secret", f"&include_public={anything}") == {public}


def test_unknown_paths_and_methods_answer_in_the_envelope(api):
    assert api("GET", "/slideshows").error[0] == 404
    assert api("GET", "").error[0] == 404
    assert api("PUT", "/packs").error[0] == 405
    assert api("POST", "/subscription").error[0] == 405
    assert api("POST", "/packs", raw=b" " * 2_000_000).error[0] == 413


def finished(api: Api, pack_id: str) -> list[Any]:
    """The images of a pack when enrichment has seen them all."""
    while True:
        images = api("GET", f"/packs/{pack_id}").data["images"]
        if all(image["metadata"]["status"] in ("completed", "failed") for image in images):
            return list(images)


def test_enrichment_and_search(api, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    path = tmp_path / "green.png"
    pillow.new("RGB", (300, 500), "green").save(path)
    upload = api("POST", "/files", {"contentType": "image/png"}).data
    assert api.put(upload["uploadUrl"], path.read_bytes(), "image/png").status == 200
    pack_id = api.make_pack("looked at")
    for url in (upload["url"], "https://unreachable.example.com/x.jpg"):
        api("POST", f"/packs/{pack_id}/images", {"image_url": url})
    seen, unreachable = (image["metadata"] for image in finished(api, pack_id))
    assert (seen["status"], seen["model"], seen["error"]) == ("completed", "sandbox", None)
    assert {"green", "portrait"} <= set(seen["keywords"])
    assert ISO_TIME.fullmatch(seen["generated_at"])
    assert (unreachable["status"], unreachable["description"], unreachable["keywords"]) == ("failed", None, [])
    assert unreachable["error"]
    for search in ("Looked", "PORTRAIT", "image%20in%20green"):
        assert [pack["id"] for pack in api("GET", f"/packs?search={search}").data["packs"]] == [pack_id]


def test_a_killed_sandbox_forgets_nothing(tmp_path):
    data = tmp_path / "data"
    with serving(tmp_path, data=data, enrich_delay_s=3600) as (url, process):
        api = Api(url)
        pack_id = api.make_pack("survivor")
        stored = api("POST", "/files", {"contentType": "image/jpeg"}).data
        assert api.put(stored["uploadUrl"]).status == 200
        unused = api("POST", "/files", {"contentType": "image/jpeg"}).data
        half = half_a_put(unused["uploadUrl"])
        while not list(data.glob("incoming/*")):
            time.sleep(0.005)
        confirmed: list[str] = []
        has_begun = threading.Event()

        def add_until_killed() -> None:
            with contextlib.suppress(subprocess.CalledProcessError):
                while True:
                    answer = api("POST", f"/packs/{pack_id}/images", {"image_url": stored["url"]})
                    confirmed.append(answer.data["id"])
                    if len(confirmed) == 5:
                        has_begun.set()

        adding = threading.Thread(target=add_until_killed)
        adding.start()
        assert has_begun.wait(20)
        process.kill()
        process.wait(10)
        adding.join(20)
        half.close()

    with serving(tmp_path, data=data, port=urlsplit(url).port or 0) as (url_again, _):
        assert url_again == url
        images = finished(api, pack_id)
        held = [image["id"] for image in images]
        assert held[: len(confirmed)] == confirmed
        # One add may have taken effect without its answer.
        assert len(held) - len(confirmed) in (0, 1)
        assert {image["metadata"]["status"] for image in images} == {"failed"}
        assert curl(stored["url"]).body == JPEG
        assert curl(unused["url"]).storage_error == (404, "NoSuchKey")
        assert list(data.glob("incoming/*")) == []
        assert api.put(unused["uploadUrl"]).status == 200
        assert curl(unused["url"]).body == JPEG


def half_a_put(upload_url: str) -> socket.socket:
    """A connection on which half of an upload was sent."""
    parts = urlsplit(upload_url)
    connection = socket.create_connection((parts.hostname, parts.port))
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: image/jpeg\r\n"
    connection.sendall(head.encode() + b"Content-Length: 1000\r\n\r\n" + b"x" * 500)
    return connection
