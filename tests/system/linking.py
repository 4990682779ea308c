"""The `ingest` command with a source of URLs: `python linking.py POINT... -- run FILE.urls ...`, one URL a line.

Killed at the points that `crashing` knows, and at some of the way of a URL. A line may have the caller's id before the
URL, and a space between them.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import crashing

from ingest.cli import running
from ingest.images.fetch import Fetcher
from ingest.model import Job
from ingest.pipeline import fetching
from ingest.pipeline.contents import Contents
from ingest.sources.base import Delivery, SourceReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class Links:
    """The lines of a file."""

    name = "manifest"

    def __init__(self, named: str, **_: object) -> None:
        self._lines = Path(named).read_text().split("\n")
        self.report = SourceReport()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        yield self._batches()

    async def _batches(self) -> AsyncIterator[Sequence[Delivery]]:
        yield [
            Delivery(job=Job(image=url, id=name or None))
            for name, _, url in (line.rpartition(" ") for line in self._lines if line)
        ]


if __name__ == "__main__":
    crashing.CALLS.update(
        {"hold": (Contents, "hold"), "check": (Fetcher, "check"), "download": (fetching, "downloaded")}
    )
    running.source_of = Links  # type: ignore[assignment]
    sys.exit(crashing.main())
