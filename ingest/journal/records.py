"""What the journal gives: a job as it holds it, what admission came to, how packs and runs stand. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from ingest.model import (
    ContentType,
    FileStamp,
    Fingerprint,
    JobId,
    Locator,
    Occasion,
    Outcome,
    PackId,
    RunId,
    is_url,
)
from ingest.policy.copies import own_urls
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.model import Summary

__all__ = [
    "MISSED",
    "QUARANTINED",
    "Admission",
    "Candidate",
    "Claimed",
    "Inspection",
    "Joined",
    "Known",
    "Opening",
    "PackRecord",
    "Record",
    "Refusal",
    "RunRecord",
    "Selection",
]

QUARANTINED: Final = "quarantined"
"""The reason of a job that died alone; only `ingest retry` wakes it."""

MISSED: Final = "missed"
"""The reason of a job that a comparison with its pack parked, until an add of it is sent."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One job and revision as the journal holds it. Times are Unix seconds."""

    job_id: JobId
    pack_id: PackId
    key: str  # the caller's id with `id:` before it, or else the locator
    revision: int  # 1, then one more for other bytes under the same key
    locator: Locator
    file_name: str
    state: State
    admitted_at: float
    run_id: RunId  # the last run that claimed or settled it
    stamp: FileStamp | None = None
    fingerprint: Fingerprint | None = None  # of the bytes, or of the URL that is added as it is
    content_type: ContentType | None = None
    url: str | None = None  # minted for this job alone
    answered_url: str | None = None  # what the add's answer called it, where that differs
    image_id: str | None = None
    attempts: int = 0  # answers about this job that were no success
    deaths: int = 0  # claims that died with their process
    is_alone: bool = False  # it runs, or died, with no other job beside it
    adds_sent: int = 0  # adds of `add_url` that may have taken effect
    audit_is_open: bool = False  # its pack must still be read for a second copy of it
    condemned: tuple[str, ...] = ()  # ids of surplus copies of `url`: deleted, or about to be
    reason: str | None = None
    detail: str | None = None
    settled_at: float | None = None

    @property
    def add_url(self) -> str | None:
        """What an add of it sends: the minted url, else the caller's own. None for a file that has none yet."""
        return self.locator if self.url is None and is_url(self.locator) else self.url

    @property
    def urls(self) -> tuple[str, ...]:
        """Every name that its image may have in its pack."""
        added = self.url if self.adds_sent == 0 else self.add_url
        return tuple(url for url in (added, self.answered_url) if url is not None)

    @property
    def own_urls(self) -> tuple[str, ...]:
        """Those of them that are no other job's: none of a caller's URL, for anybody may add it."""
        return own_urls(minted=self.url, answered=self.answered_url)

    @property
    def is_verifiable(self) -> bool:
        """Whether its image, found in its pack, is known to be there by an add of this job."""
        return self.url is not None or self.fingerprint is not None

    @property
    def inspection(self) -> Inspection | None:
        """What a look at the bytes told, once they are on the CDN."""
        if self.fingerprint is None or self.content_type is None or self.url is None:
            return None
        return Inspection(fingerprint=self.fingerprint, content_type=self.content_type, stamp=self.stamp)


class Inspection(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a look at the image told.

    `stamp` is None where the bytes are no file, and `content_type` where nobody looked: a URL that was not checked.
    """

    fingerprint: Fingerprint
    content_type: ContentType | None
    stamp: FileStamp | None


class Candidate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One delivery on its way into the journal: a job with its pack's name resolved."""

    key: str
    pack_id: PackId
    locator: Locator
    file_name: str
    stamp: FileStamp | None
    key_id: str | None = None  # public part of the key that sees the pack; None: the one that the run began with
    occasion: Occasion = Occasion.FIRST


class Refusal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a source could not read as a job, which is no job; `source` and `place` tell it from every other one."""

    source: str  # which source: a path or a URL without secrets
    place: str  # within it: the number of a line, the id of a message
    reason: str
    detail: str
    run_id: RunId  # the last one that refused it
    refused_at: float  # Unix seconds


class Claimed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The job is this run's to work on."""

    record: Record


class Joined(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The job is in work already, or parked: its outcome will be this delivery's too."""

    record: Record


class Known(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An earlier run settled it: nothing is to be done, and the file is not opened."""

    record: Record
    outcome: Outcome


Admission: TypeAlias = Claimed | Joined | Known


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a run finds when it begins: the debts of earlier ones."""

    parked: Sequence[Record]  # what was `stored` when the journal was opened counts as sent at that moment
    audits: Sequence[Record]  # jobs whose audit is open
    packs: Mapping[PackId, str]  # as `JournalMender.packs` gives them


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run, for people. Times are Unix seconds; `summary` is None while it runs and after a crash."""

    run_id: RunId
    started_at: float
    ended_at: float | None
    pid: int
    summary: Summary | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRecord:
    """How one pack stands in the journal."""

    pack_id: PackId
    states: Mapping[State, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records a command means; None means any."""

    states: frozenset[State] | None = None
    reason: str | None = None
    pack_id: PackId | None = None
