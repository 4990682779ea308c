"""The bytes of one image onto the CDN: reserve and put, repeated without harm until they are there.

A process that dies in here leaves an unused url, which is garbage. What is done with the url is `deliver`'s.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from ingest.errors import Retryable

if TYPE_CHECKING:
    from ingest.api.client import PacksClient
    from ingest.api.messages import UploadTicket
    from ingest.images.inspect import Inspected
    from ingest.observe.recorders import JobRecorder
    from ingest.pipeline.gate import Traffic
    from ingest.pipeline.retry import Attempts, Retrying

__all__ = ["Upload"]

EXPIRY_MARGIN: Final = 0.1
# A ticket is not used in the last tenth of its life (60 s of the usual 600): the PUT must arrive within it.


class _ReserveAgain(Exception):
    """The ticket is used up or out of date."""


class _Put:
    """The PUT of one image to one ticket; to be called again only while the ticket may be good."""

    def __init__(self, client: PacksClient, ticket: UploadTicket, image: Inspected) -> None:
        self._client = client
        self._ticket = ticket
        self._image = image
        self._good_until = time.monotonic() + ticket.expires_in_s * (1.0 - EXPIRY_MARGIN)
        self._was_tried = False

    async def __call__(self) -> None:
        # Tried once in any case: a lifetime that is told wrong costs an attempt, and no endless reserving.
        if self._was_tried and time.monotonic() >= self._good_until:
            raise _ReserveAgain
        self._was_tried = True
        try:
            await self._client.put_file(
                self._ticket,
                self._image.body,
                content_type=self._image.content_type,
                content_length=self._image.size_bytes,
            )
        except Retryable as error:
            if error.status == 403:
                self._good_until = -math.inf
            raise


class Upload:
    """Brings images onto the CDN. Called by many workers at once, each with another image."""

    def __init__(self, client: PacksClient, retrying: Retrying, *, traffic: Traffic, recorder: JobRecorder) -> None:
        self._client = client
        self._retrying = retrying
        self._traffic = traffic
        self._recorder = recorder

    async def __call__(self, image: Inspected, file_name: str, *, attempts: Attempts) -> str:
        """The url under which the bytes lie, minted for them alone. Raises what the requests end with."""
        while True:
            ticket = await self._retrying(
                lambda: self._client.upload_file(image.content_type, filename=file_name, size_bytes=image.size_bytes),
                attempts=attempts,
            )
            try:
                await self._retrying(_Put(self._client, ticket, image), attempts=attempts)
            except _ReserveAgain:
                continue
            self._traffic.bytes_uploaded += image.size_bytes
            self._recorder.uploaded(image.size_bytes)
            return ticket.url
