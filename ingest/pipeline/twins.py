"""Equal images on their way into one pack: one goes ahead, the others wait on a shelf for how it ends.

In memory only, for what is in hand; the journal answers for what earlier runs added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.model import Fingerprint, PackId
    from ingest.pipeline.work import Work

__all__ = ["Twins"]


class Twins:
    """Who goes ahead, by pack and fingerprint. One that waits holds no worker, no slot and no bytes."""

    def __init__(self) -> None:
        self._ahead: dict[tuple[PackId, Fingerprint], Work] = {}
        self._shelves: dict[tuple[PackId, Fingerprint], list[Work]] = {}

    def claim(self, work: Work, fingerprint: Fingerprint) -> bool:
        """Whether `work` goes ahead: nobody else does for these bytes and this pack."""
        return self._ahead.setdefault((work.record.pack_id, fingerprint), work) is work

    def shelve(self, work: Work, fingerprint: Fingerprint) -> None:
        """Let `work` wait for whoever goes ahead; it comes back from `end`."""
        self._shelves.setdefault((work.record.pack_id, fingerprint), []).append(work)

    def end(self, work: Work, fingerprint: Fingerprint | None) -> list[Work]:
        """`work` has ended, or goes ahead no more: those that waited for it, in order."""
        if fingerprint is None:
            return []
        place = (work.record.pack_id, fingerprint)
        if self._ahead.get(place) is not work:
            return []
        del self._ahead[place]
        return self._shelves.pop(place, [])
