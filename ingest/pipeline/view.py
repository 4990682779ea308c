"""A pack as a command sees it, outside a run: asked with a command's patience, every error as one that ends it.

Changes nothing, in packs or journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from ingest.errors import Fatal, GaveUp, Rejected, Retryable
from ingest.pipeline.guard import refusal
from ingest.pipeline.retry import Few

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from ingest.api.client import PacksClient
    from ingest.api.messages import PackScan
    from ingest.model import PackId
    from ingest.pipeline.packs import Packs
    from ingest.pipeline.retry import Retrying

__all__ = ["View"]

MOST_REMEMBERED: Final = 10
# Packs that are looked for before a key is said to belong elsewhere: as many as a run remembers.


class View:
    """See `operations.verify.PackView`."""

    def __init__(self, client: PacksClient, retrying: Retrying, packs: Packs, *, give_up_after_s: float | None) -> None:
        self._client = client
        self._retrying = retrying
        self._packs = packs
        self._give_up_after_s = give_up_after_s

    def remember(self, filled: Sequence[PackId], *, key_id: str | None) -> None:
        """See `PackView.remember`."""
        self._packs.remember(filled[:MOST_REMEMBERED], key_id=key_id)

    async def scan(self, pack_id: PackId, wanted: Container[str]) -> PackScan | None:
        """See `PackView.scan`."""
        try:
            return await self._retrying(lambda: self._client.scan_pack(pack_id, wanted), attempts=Few())
        except Fatal as error:
            raise refusal(error) from error
        except Retryable as error:
            raise GaveUp(str(error), code=error.reason, hint="Run the same command again.") from error
        except Rejected as error:
            if await self._is_gone(pack_id):
                return None
            told = str(error).partition("\n")[0]
            raise GaveUp(
                f"The pack {pack_id} could not be read, though this key may change it: {told}",
                code=error.reason,
                hint="Run the same command again.",
            ) from error

    async def _is_gone(self, pack_id: PackId) -> bool:
        try:
            with anyio.fail_after(self._give_up_after_s):  # it asks until it is answered
                return await self._packs.is_gone(pack_id)
        except Fatal as error:
            raise refusal(error) from error
        except TimeoutError as error:
            raise GaveUp(
                f"Whether the pack {pack_id} is gone can't be found out: the API does not answer.",
                code="unreachable",
                hint="Run the same command again.",
            ) from error
