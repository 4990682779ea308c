"""Equal images on their way into one pack: one goes ahead, the others wait on a shelf for how it ends.

In memory only, for what is in hand; the journal answers for what earlier runs added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ingest.model import Fingerprint, PackId
    from ingest.pipeline.work import Work

    Place: TypeAlias = tuple[PackId, Fingerprint]

__all__ = ["Twins"]


class Twins:
    """Who goes ahead, by pack and fingerprint. One that waits holds no worker, no slot and no bytes."""

    def __init__(self) -> None:
        self._ahead: dict[Place, Work] = {}
        self._places: dict[Work, Place] = {}  # the other way round
        self._shelves: dict[Place, list[Work]] = {}

    def claim(self, work: Work, fingerprint: Fingerprint) -> bool:
        """Whether `work` goes ahead: nobody else does for these bytes and this pack."""
        place = (work.record.pack_id, fingerprint)
        if self._ahead.setdefault(place, work) is not work:
            return False
        self._places[work] = place
        return True

    def shelve(self, work: Work, fingerprint: Fingerprint) -> None:
        """Let `work` wait for whoever goes ahead; it comes back from `end`."""
        self._shelves.setdefault((work.record.pack_id, fingerprint), []).append(work)

    def give_way(self, work: Work, other: Work) -> None:
        """`work`, which went ahead, waits with its shelf for `other`, which may have been added for all one knows."""
        place = self._places.pop(work)
        self._ahead[place] = other
        self._places[other] = place
        self._shelves.setdefault(place, []).insert(0, work)

    def end(self, work: Work) -> list[Work]:
        """`work` has ended, or goes ahead no more: those that waited for it, in order; none if it did not go ahead."""
        place = self._places.pop(work, None)
        if place is None:
            return []
        del self._ahead[place]
        return self._shelves.pop(place, [])
