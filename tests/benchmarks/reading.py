"""Reads a manifest to its end, in a process of its own; prints how many jobs it named, and how many rows are none."""

from __future__ import annotations

import asyncio
import sys

from ingest.assemble import source_of
from ingest.sources.base import NoJob


async def main(path: str) -> None:
    """One pass; nothing is kept of what it names."""
    jobs = refused = 0
    async with source_of(path).open() as batches:
        async for batch in batches:
            none = sum(isinstance(delivery.job, NoJob) for delivery in batch)
            jobs, refused = jobs + len(batch) - none, refused + none
    print(jobs, refused)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
