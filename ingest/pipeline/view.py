"""A pack as a command sees it, outside a run: asked with a command's patience, every error as one that ends it.

Changes nothing, in packs or journal.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio

from ingest.errors import Fatal, GaveUp, Rejected, Retryable
from ingest.pipeline.guard import refusal
from ingest.pipeline.packs import Sight
from ingest.pipeline.retry import Few

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from ingest.api.client import PacksClient
    from ingest.api.messages import PackScan
    from ingest.model import PackId
    from ingest.pipeline.packs import Packs
    from ingest.pipeline.retry import Retrying

__all__ = ["View"]


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """A request that comes to nothing ends the command."""
    try:
        yield
    except Fatal as error:
        raise refusal(error) from error
    except Retryable as error:
        raise GaveUp(str(error), code=error.reason, hint="Run the same command again.") from error


class View:
    """See `operations.verify.PackView`."""

    def __init__(self, client: PacksClient, retrying: Retrying, packs: Packs, *, give_up_after_s: float | None) -> None:
        self._client = client
        self._retrying = retrying
        self._packs = packs
        self._give_up_after_s = give_up_after_s

    def remember(self, packs: Mapping[PackId, str]) -> None:
        """See `PackView.remember`."""
        self._packs.remember(packs)

    async def scan(self, pack_id: PackId, wanted: Collection[str]) -> PackScan | None:
        """See `PackView.scan`."""
        try:
            with _ending():
                return await self._retrying(lambda: self._client.scan_pack(pack_id, wanted), attempts=Few())
        except Rejected as error:
            if not await self._is_in_sight(pack_id):
                return None
            told = error.headline
            raise GaveUp(
                f"The pack {pack_id} could not be read, though this key may change it: {told}",
                code=error.reason,
                hint="Run the same command again.",
            ) from error

    async def _is_in_sight(self, pack_id: PackId) -> bool:
        try:
            with _ending(), anyio.fail_after(self._give_up_after_s):  # it asks until it is answered
                return await self._packs.sight(pack_id) is Sight.SEEN
        except TimeoutError as error:
            raise GaveUp(
                f"Whether the pack {pack_id} is gone can't be found out: the API does not answer.",
                code="unreachable",
                hint="Run the same command again.",
            ) from error
