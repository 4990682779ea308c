"""Enrichment: takes the images that wait, in order, has each one looked at, and records what was found.

One image at a time, so that the API stays quick. It reads the bytes that are stored here and never fetches anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from ingest.sandbox.database import now_ms
from ingest.sandbox.look import NotAnImageError, look

if TYPE_CHECKING:
    from ingest.sandbox.blobs import Blobs
    from ingest.sandbox.enrichment_queue import EnrichmentQueue, PendingImage
    from ingest.sandbox.files import Files

__all__ = ["Enricher"]

MODEL: Final = "sandbox"

# How soon a new image is noticed when none was waiting.
IDLE_S: Final = 0.05


class Enricher:
    """The worker behind `pending → processing → completed | failed`."""

    def __init__(self, queue: EnrichmentQueue, files: Files, blobs: Blobs, *, delay_s: float) -> None:
        self._queue = queue
        self._files = files
        self._blobs = blobs
        self._delay_s = delay_s

    async def run(self) -> None:
        """Work until cancelled; what a former process left unfinished comes first, as it is the oldest."""
        self._queue.resume()
        while True:
            image = self._queue.oldest()
            if image is None:
                await anyio.sleep(IDLE_S)
                continue
            due_in_s = self._delay_s - (now_ms() - image.created_at_ms) / 1000
            if due_in_s > 0:
                # What waits longest is due first. The minimum is for a wall clock that was set back.
                await anyio.sleep(min(due_in_s, self._delay_s))
                continue
            begun_s = anyio.current_time()
            await self._enrich(image)
            # Half of the time at most: decoding shares the processor, and partly the interpreter, with the API.
            await anyio.sleep(anyio.current_time() - begun_s)

    async def _enrich(self, image: PendingImage) -> None:
        self._queue.begin(image.id)
        file = self._files.by_url(image.url)
        if file is None:
            self._queue.fail(image.id, "The image URL is unreachable")
            return
        try:
            seen = await anyio.to_thread.run_sync(lambda: look(self._blobs.read(file.sha256)))
        except NotAnImageError as error:
            self._queue.fail(image.id, str(error))
            return
        self._queue.complete(image.id, model=MODEL, description=seen.description, keywords=seen.keywords)
