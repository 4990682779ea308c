"""Which URLs a pack held before this run added any of its callers' to it: one read a pack, kept as eight bytes a URL.

Knows nothing of what was added since: of its own adds the run knows by their jobs.
"""

from __future__ import annotations

import secrets
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

import anyio
from blake3 import blake3

from ingest.observe.logging import get_logger
from ingest.pipeline.retry import Patient
from ingest.policy.spelling import canonical

if TYPE_CHECKING:
    from ingest.api.client import PacksClient
    from ingest.model import PackId
    from ingest.pipeline.retry import Retrying

__all__ = ["Contents"]

log = get_logger("pipeline")


class Contents:
    """What packs held when they were first asked about. A pack of a million images takes 8 MB."""

    def __init__(self, client: PacksClient, retrying: Retrying) -> None:
        self._client = client
        self._retrying = retrying
        self._known: dict[PackId, array[int]] = {}
        self._reading: dict[PackId, anyio.Lock] = {}
        # Nobody can make two URLs with one number who does not know the key; by chance that takes 10^9 times as many
        # URLs as a pack holds.
        self._key = secrets.token_bytes(32)

    async def hold(self, pack_id: PackId, url: str) -> bool:
        """Whether the pack held this URL, in any spelling of it, when it was read; reads it where nobody has.

        Waits while the API does not answer. Raises `Rejected` and `Fatal`, and what ends a wait with the run.
        """
        known = self._known.get(pack_id)
        if known is None:
            async with self._reading.setdefault(pack_id, anyio.Lock()):
                if (known := self._known.get(pack_id)) is None:
                    known = self._known[pack_id] = await self._retrying(lambda: self._read(pack_id), attempts=Patient())
        number = self._number(url)
        place = bisect_left(known, number)
        return place < len(known) and known[place] == number

    async def _read(self, pack_id: PackId) -> array[int]:
        numbers = array("Q")
        scan = await self._client.scan_pack(pack_id, (), on_url=lambda url: numbers.append(self._number(url)))
        log.debug("pack.remembered", pack_id=pack_id, images=scan.image_count, duration_s=round(scan.duration_s, 3))
        return array("Q", sorted(numbers))

    def _number(self, url: str) -> int:
        spelt = canonical(url).encode("utf-8", "surrogatepass")
        return int.from_bytes(blake3(spelt, key=self._key).digest(length=8), "big")
