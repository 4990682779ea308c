"""Whose packs these are: which ones this journal filled, and whether the key in use sees any of them.

Asks past the gate, since it does so while the lane is held; retries nothing and changes no pack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingest.api.paging import read_all
from ingest.errors import Fatal
from ingest.model import Operation, PackId

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ingest.api.client import PacksClient
    from ingest.api.credentials import Credentials
    from ingest.api.messages import PackSummary

__all__ = ["Scope", "wrong_scope"]


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
        self._filled: dict[PackId, str | None] = {}  # with the key that is known to see them
        self._alike: set[str] = set()  # keys that saw a pack of another one's

    def remember(self, filled: Iterable[PackId], *, key_id: str | None) -> None:
        """The journal filled these packs with that key."""
        self._filled.update(dict.fromkeys(filled, key_id))

    def saw(self, pack_id: PackId) -> None:
        """The key in use sees this pack, and may change it."""
        key_id = self._credentials.public_id
        if self._filled.get(pack_id) not in {None, key_id}:
            self._alike.add(key_id)
        self._filled[pack_id] = key_id

    def is_filled_by_this_key(self, pack_id: PackId) -> bool:
        """Whether the key in use is known to have filled, or seen, the pack."""
        return self._filled.get(pack_id) == self._credentials.public_id

    @property
    def strange(self) -> list[PackId]:
        """Packs that another key filled, while the key in use has seen none of such."""
        key_id = self._credentials.public_id
        if key_id in self._alike:
            return []
        return [pack_id for pack_id, seen_by in self._filled.items() if seen_by not in {None, key_id}]

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
