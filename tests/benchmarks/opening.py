"""Opens a journal as a run does, in a process of its own, and prints how many seconds that took."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from ingest.assemble import target_of
from ingest.journal.sqlite import SqliteJournal
from ingest.model import RunId


async def main(path: str, base_url: str) -> None:
    """Open and begin; the end is not measured."""
    began = time.perf_counter()
    async with SqliteJournal.open(Path(path), target_of(base_url)) as journal:
        await journal.begin(RunId(f"bench-{time.time_ns()}"), key_id="bench", pid=os.getpid())
        print(time.perf_counter() - began)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
