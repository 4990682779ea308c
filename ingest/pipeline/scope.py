"""Whose packs these are: which ones this journal filled, and whether the key in use sees any of them.

Asks past the gate, since it does so while the lane is held; retries nothing and changes no pack.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from ingest.api.paging import read_all
from ingest.errors import Fatal
from ingest.model import Operation, PackId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.api.client import PacksClient
    from ingest.api.credentials import Credentials
    from ingest.api.messages import PackSummary

__all__ = ["Scope", "wrong_scope"]


MOST_STRANGE: Final = 10
# A key that sees none of the ten packs that were filled last belongs elsewhere; asking for thousands tells no more.


def wrong_scope() -> Fatal:
    """What is wrong with a key that sees none of the packs."""
    return Fatal(
        "This key sees none of the packs that this journal filled: it belongs to another workspace or person.",
        operation=Operation.GET_PACK,
        status=404,
        error_code="wrong_scope",
    )


class Scope:
    """The packs of one journal, as its keys have seen them."""

    def __init__(self, past_the_gate: PacksClient, credentials: Credentials) -> None:
        self._client = past_the_gate
        self._credentials = credentials
        self._seen_by: dict[PackId, str] = {}

    def remember(self, packs: Mapping[PackId, str]) -> None:
        """The journal has jobs of these packs, which that key saw last."""
        self._seen_by.update(packs)

    def saw(self, pack_id: PackId) -> None:
        """The key in use sees this pack, and may change it."""
        key_id = self._credentials.public_id
        before = self._seen_by.get(pack_id)
        if before not in {None, key_id}:  # of one scope: what that one saw, this one sees
            self._seen_by = {known: key_id if by == before else by for known, by in self._seen_by.items()}
        self._seen_by[pack_id] = key_id

    def has_seen(self, pack_id: PackId) -> bool:
        """Whether the key in use is known to have seen the pack: then it is no other scope that hides it."""
        return self._seen_by.get(pack_id) == self._credentials.public_id

    @property
    def strange(self) -> list[PackId]:
        """Packs that other keys saw, while the key in use has seen none: enough of them to tell its scope."""
        key_id = self._credentials.public_id
        if key_id in self._seen_by.values():
            return []
        return list(itertools.islice(self._seen_by, MOST_STRANGE))

    async def probe(self) -> None:
        """One harmless request, and a few more for a key that is new here. Returns when it may be used.

        Raises the `Fatal` of the API, or `wrong_scope` where the key sees none of the packs; every other error as it
        comes.
        """
        strange = set(self.strange)
        if not strange:
            await self._client.list_packs(limit=1)
            return
        seen = strange & {PackId(pack.id) for pack in await read_all(self._page)}
        if not seen:
            raise wrong_scope()
        for pack_id in seen:
            self.saw(pack_id)

    async def _page(self, limit: int, offset: int) -> tuple[Sequence[PackSummary], int]:
        found = await self._client.list_packs(limit=limit, offset=offset, include_public=False)
        return found.packs, found.total
