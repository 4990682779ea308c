"""What tests ask of a sandbox in this process: requests by hand, pictures, waiting."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import anyio
from PIL import Image

from ingest.sandbox import ApiKey, RunningSandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiohttp

KEY = ApiKey(key="tester.secret")


class Client:
    """The requests of API.md, by hand; shares nothing with the client under test elsewhere."""

    def __init__(self, running: RunningSandbox, session: aiohttp.ClientSession) -> None:
        self.running = running
        self.session = session

    async def call(self, method: str, path: str, json: Any = None, *, key: str = KEY.key) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        async with self.session.request(method, self.running.base_url + path, json=json, headers=headers) as answer:
            return answer.status, await answer.json()

    async def make_pack(self, name: str = "Motivation") -> str:
        _, answer = await self.call("POST", "/packs", {"name": name})
        return str(answer["data"]["id"])

    async def add(self, pack_id: str, url: str) -> tuple[int, Any]:
        return await self.call("POST", f"/packs/{pack_id}/images", {"image_url": url})

    async def images(self, pack_id: str) -> list[Any]:
        _, answer = await self.call("GET", f"/packs/{pack_id}")
        return list(answer["data"]["images"])

    async def reserve(self, content_type: str = "image/jpeg") -> Any:
        _, answer = await self.call("POST", "/files", {"contentType": content_type})
        return answer["data"]

    async def put(self, upload: Any, body: bytes) -> int:
        headers = {"Content-Type": upload["contentType"]}
        async with self.session.put(upload["uploadUrl"], data=io.BytesIO(body), headers=headers) as answer:
            await answer.read()
            return answer.status

    async def upload(self, body: bytes, content_type: str = "image/jpeg") -> str:
        upload = await self.reserve(content_type)
        assert await self.put(upload, body) == 200
        return str(upload["url"])


async def until(holds: Callable[[], bool]) -> None:
    """Return as soon as it holds; the test's own timeout is the deadline."""
    while not holds():
        await anyio.sleep(0.005)


def picture(colour: str = "blue", size: tuple[int, int] = (80, 60), kind: str = "JPEG") -> bytes:
    """An image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()
