"""Which images of a pack count for which job: one image for one job only.

Pure. Says what is there; whether that is right is `differences`'.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Set

    from ingest.api.messages import ImageRef
    from ingest.journal.records import Record

__all__ = ["Holding", "Holdings", "Names"]

DUE: Final = frozenset({State.ADDED, State.STORED, State.PARKED})
"""The states of a job that has, or may have, an image in its pack."""


class Names:
    """What the jobs of one pack call their images: `note` each of them, then `close`, then ask.

    A job's image has the url that was minted for it, or one that its add was answered with. An answer may name
    another job's image: a url that is one job's own counts for no other. A URL that callers named may be the image of
    several jobs, and of nobody's: each of those that are, or may be, `added` is due one copy of it.
    """

    def __init__(self) -> None:
        self._wanted: set[str] = set()  # minted, at first
        self._own: set[str] = set()  # the server's names, each for one job alone
        self._foreign: set[str] = set()  # answered, and nobody's own
        self.due: Counter[str] = Counter()  # callers' URLs, by how many jobs have a copy coming to them
        self.condemned: set[str] = set()  # ids of surplus copies that were deleted, or are to be

    def note(self, record: Record) -> None:
        """Take the names of one job."""
        if not record.own_urls:
            self._foreign.update(record.urls)
            if record.state in DUE:
                self.due.update(record.urls)
            return
        if record.url is not None:
            self._wanted.add(record.url)
        own = record.own_urls
        self._own.update(url for url in own if url != record.url)
        self._foreign.update(url for url in record.urls if url not in own)
        self.condemned.update(record.condemned)

    def close(self) -> Set[str]:
        """Every job was noted: the urls to look for."""
        self._own -= self._wanted
        self._foreign -= self._wanted
        self._foreign -= self._own
        self._wanted |= self._own
        self._wanted |= self._foreign
        return self._wanted

    def of(self, record: Record) -> Iterator[str]:
        """The urls that are this job's own."""
        return (url for url in record.own_urls if url == record.url or url in self._own)

    def foreign(self, record: Record) -> str | None:
        """A url that the job was answered with, and that does not say whose image it is."""
        return record.answered_url if record.answered_url in self._foreign else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a pack holds of one job."""

    copies: int  # images that are this job's, without those that are condemned
    condemned: int  # images that were deleted, or are to be, and are there


class Holdings:
    """What a pack holds, as one read of it `found`."""

    def __init__(self, names: Names, found: Sequence[ImageRef]) -> None:
        self._names = names
        images = {image.image_id: image.url for image in found}  # one that is listed twice is one image
        self._condemned = names.condemned & images.keys()
        self._due = names.due.copy()
        self._counts = Counter(url for image_id, url in images.items() if image_id not in self._condemned)

    def of(self, record: Record) -> Holding:
        """What is this job's. Ask for each job once, and in order: what any of several may claim is the first one's."""
        if not record.own_urls:
            return Holding(copies=self._taken(record), condemned=0)
        copies = sum(self._counts[url] for url in self._names.of(record))
        foreign = self._names.foreign(record)
        if not copies and foreign is not None and self._counts[foreign]:
            self._counts[foreign] -= 1
            copies = 1
        return Holding(copies=copies, condemned=sum(image_id in self._condemned for image_id in record.condemned))

    def _taken(self, record: Record) -> int:
        """The copies of a caller's URL that are left for this job, once each of the others that are due one has it."""
        is_due = record.state in DUE
        self._due.subtract(record.urls if is_due else ())
        taken = {url: max(0, self._counts[url] - self._due[url]) for url in record.urls}
        if is_due and not any(taken.values()):
            first = next((url for url in record.urls if self._counts[url]), None)
            if first is not None:
                taken[first] = 1
        self._counts.subtract(taken)
        return sum(taken.values())
