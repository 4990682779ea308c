"""The program's layers one upon another, each in a process of its own, with the same files and requests.

`client` is the API client alone, with files read in the event loop; `lanes` has its requests gated, retried and
counted; `pipeline` takes jobs from a directory and inspects them in threads, with a journal in memory; `journal` has it
on the disk. What `ingest run` has beyond that is its start, its display, its log and its metrics' server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from ingest import ApiSettings, PacksClient, RunSettings, Settings, run
from ingest.assemble import connected, source_of
from ingest.observe.metrics import Metrics
from ingest.pipeline.retry import Few
from ingest.pipeline.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Ask = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]

__all__ = ["LAYERS"]

LAYERS: Final = ("client", "lanes", "pipeline", "journal")

CONCURRENCY: Final = 64


async def main(layer: str, settings: Settings, source: str) -> int:
    """How many jobs were done."""
    if layer == "client":
        async with PacksClient.connect(settings.api, concurrency=CONCURRENCY) as client:
            return await _all(client, settings, source, lambda call: call())
    if layer == "lanes":
        async with connected(settings, metrics=Metrics(), stop=Stop()) as connection:
            return await _all(
                connection.client, settings, source, lambda call: connection.retrying(call, attempts=Few())
            )
    return (await run(settings, sources=[source_of(source)])).added


async def _all(client: PacksClient, settings: Settings, source: str, ask: Ask) -> int:
    paths = iter(sorted(entry.path for entry in os.scandir(source)))
    pack = settings.run.pack or ""
    return sum(await asyncio.gather(*(_deliver(client, pack, paths, ask) for _ in range(CONCURRENCY))))


async def _deliver(client: PacksClient, pack: str, paths: Iterator[str], ask: Ask) -> int:
    """One worker: a job at a time, until there are none left; how many it did."""
    count = 0
    for path in paths:
        await _one(client, pack, path, ask)
        count += 1
    return count


async def _one(client: PacksClient, pack: str, path: str, ask: Ask) -> None:
    body, name = Path(path).read_bytes(), os.path.basename(path)
    ticket = await ask(lambda: client.upload_file("image/jpeg", filename=name, size_bytes=len(body)))
    await ask(lambda: client.put_file(ticket, body, content_type="image/jpeg", content_length=len(body)))
    await ask(lambda: client.add_image(pack, ticket.url, name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("layer", choices=LAYERS)
    parser.add_argument("source")
    parser.add_argument("base_url")
    parser.add_argument("--key", required=True)
    parser.add_argument("--pack", required=True)
    parser.add_argument("--journal")
    given = parser.parse_args()
    chosen = Settings(
        api=ApiSettings(base_url=given.base_url, key=given.key),
        run=RunSettings(pack=given.pack),
        journal=given.journal,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps({"added": runner.run(main(given.layer, chosen, given.source))}))
