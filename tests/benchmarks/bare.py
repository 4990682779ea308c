"""The bare loop: the three requests of a job with aiohttp and nothing else, as a rival to measure beside.

Reads each file and sends it. No journal, no fingerprint, no retries, no limits, no metrics, no log, no check of what
comes back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterator


async def deliver(session: aiohttp.ClientSession, paths: Iterator[str], base_url: str, key: str, pack: str) -> int:
    """One worker: a job at a time, until there are none left; how many it did."""
    headers = {"Authorization": f"Bearer {key}"}
    count = 0
    for path in paths:
        body = Path(path).read_bytes()
        name = os.path.basename(path)
        request = {"contentType": "image/jpeg", "filename": name, "size": len(body)}
        async with session.post(f"{base_url}/files", json=request, headers=headers) as response:
            ticket = json.loads(await response.read())["data"]
        async with session.put(ticket["uploadUrl"], data=body, headers={"Content-Type": "image/jpeg"}) as response:
            await response.read()
        image = {"image_url": ticket["url"], "file_name": name}
        async with session.post(f"{base_url}/packs/{pack}/images", json=image, headers=headers) as response:
            if response.status != 201 or not json.loads(await response.read())["ok"]:
                raise RuntimeError(f"{path}: HTTP {response.status}")
        count += 1
    return count


async def main(folder: str, base_url: str, key: str, pack: str, concurrency: int) -> None:
    """All files of one folder, by so many workers."""
    paths = iter(sorted(entry.path for entry in os.scandir(folder)))
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        counts = await asyncio.gather(*(deliver(session, paths, base_url, key, pack) for _ in range(concurrency)))
    print(json.dumps({"added": sum(counts)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("base_url")
    parser.add_argument("--key", required=True)
    parser.add_argument("--pack", required=True)
    parser.add_argument("--concurrency", type=int, default=64)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(given.folder, given.base_url, given.key, given.pack, given.concurrency))
