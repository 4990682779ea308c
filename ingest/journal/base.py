"""The seam between the pipeline and its durable memory: the Protocols, and the values that cross them.

Nothing here stores anything: `sqlite` and `memory` do, by the rules of `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping, Sequence

    from ingest.model import ContentType, FileStamp, Fingerprint, JobId, Locator, Outcome, PackId, RunId, Summary
    from ingest.policy.lifecycle import State

__all__ = [
    "QUARANTINED",
    "Admission",
    "AuditClosed",
    "Candidate",
    "Change",
    "Claimed",
    "Condemned",
    "Doubted",
    "Excused",
    "Inspection",
    "Joined",
    "Journal",
    "JournalEditor",
    "JournalMender",
    "JournalReader",
    "Known",
    "Missed",
    "Opening",
    "PackRecord",
    "Parked",
    "Record",
    "Released",
    "Resent",
    "RunRecord",
    "Selection",
    "Settled",
    "Sighted",
    "Spent",
    "Stored",
    "Tested",
]

QUARANTINED: Final = "quarantined"
"""The reason of a job that died alone; only `ingest retry` wakes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
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
    fingerprint: Fingerprint | None = None
    content_type: ContentType | None = None
    url: str | None = None  # minted for this job alone
    answered_url: str | None = None  # what the add's answer called it, where that differs
    image_id: str | None = None
    attempts: int = 0  # answers about this job that were no success
    deaths: int = 0  # claims that died with their process
    is_alone: bool = False  # it runs, or died, with no other job beside it
    adds_sent: int = 0  # adds of `url` that may have taken effect
    audit_is_open: bool = False  # its pack must still be read for a second copy of `url`
    condemned: tuple[str, ...] = ()  # ids of surplus copies of `url`: deleted, or about to be
    reason: str | None = None
    detail: str | None = None
    settled_at: float | None = None

    @property
    def inspection(self) -> Inspection | None:
        """What a look at the bytes told, once they are on the CDN."""
        if self.fingerprint is None or self.content_type is None or self.stamp is None or self.url is None:
            return None
        return Inspection(fingerprint=self.fingerprint, content_type=self.content_type, stamp=self.stamp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One delivery on its way into the journal: a job with its pack's name resolved."""

    key: str
    pack_id: PackId
    locator: Locator
    file_name: str
    stamp: FileStamp | None
    key_id: str | None = None  # public part of the key that sees the pack; None: the one that the run began with


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The job is this run's to work on."""

    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The job is in work already, or parked: its outcome will be this delivery's too."""

    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """An earlier run settled it: nothing is to be done, and the file is not opened."""

    record: Record
    outcome: Outcome


Admission: TypeAlias = Claimed | Joined | Known


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a look at the bytes told."""

    fingerprint: Fingerprint
    content_type: ContentType
    stamp: FileStamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """The job is about to run alone; durable before it does, so that dying there tells."""

    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Excused:
    """The job runs alone no more, but waits for an equal one: what the process dies of now is none of its doing."""

    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """An answer about this job was no success: its attempts are `attempts` by that."""

    job_id: JobId
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The bytes are on the CDN under `url`; durable *before* the add is sent."""

    job_id: JobId
    inspection: Inspection
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """An add was sent and its effect is unknown."""

    job_id: JobId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resent:
    """A settled lookup found nothing; durable *before* the next add, with the audit that it owes."""

    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The outcome. For `added`, `was_found` tells a lookup's word from an answer's."""

    job_id: JobId
    outcome: Outcome
    reason: str | None = None
    detail: str | None = None
    inspection: Inspection | None = None
    image_id: str | None = None
    answered_url: str | None = None
    was_found: bool = False
    key_id: str | None = None  # public part of the key that it was added with; None: the one that the run began with


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The run puts the job back: no add of it was sent, or none that may have taken effect."""

    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditClosed:
    """The pack was read after the last add could have landed, and holds no surplus copy of the job's url any more.

    `image_id` is the copy that is left; None where there is none, or none that is known to be the job's own.
    """

    job_id: JobId
    image_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Condemned:
    """These surplus copies of the job's url go; durable *before* the first of them is deleted.

    So no later read takes another one in their place, whatever became of the requests that deleted them.
    """

    job_id: JobId
    image_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """The job is `added`, and its pack has it no more: it is parked, with all its attempts, as if never looked up."""

    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighted:
    """The job is `failed` or `rejected`, and its pack has it after all: it is parked for the lookup that finds it."""

    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubted:
    """The pack of an added or parked job holds more than one copy of its url: it owes an audit again."""

    job_id: JobId


Change: TypeAlias = (
    Tested
    | Excused
    | Spent
    | Stored
    | Parked
    | Resent
    | Settled
    | Released
    | Condemned
    | AuditClosed
    | Missed
    | Sighted
    | Doubted
)


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


class Journal(Protocol):
    """What a run writes. One process at a time; every method may be called from many tasks.

    Calls take effect in the order in which they are made. What `submit` and the others give back is done when the
    commit that holds it is durable; cancelling the wait does not take it back. `MachineError` when the store can't be
    written: nothing later is accepted then, and nothing before is lost.
    """

    async def begin(self, run_id: RunId, *, key_id: str, pid: int) -> Opening:
        """Start a run: claims of dead processes are freed, `stored` jobs are parked."""
        ...

    async def admit(self, run_id: RunId, candidates: Sequence[Candidate]) -> Sequence[Admission]:
        """Admit and claim, in one commit; one admission a candidate, in order. Again is harmless."""
        ...

    async def resume(self, run_id: RunId, *, after: JobId, limit: int) -> Sequence[Record]:
        """Claim the next pending jobs with a number over `after`, lowest first; empty at the end."""
        ...

    async def find_equal(self, record: Record, fingerprint: Fingerprint) -> Record | None:
        """Another job that has, or may get, these bytes into this pack: `added` if there is one, else an open one."""
        ...

    def submit(self, change: Change) -> asyncio.Future[Record]:
        """Record a change; the future holds the job as it then is. `IllegalTransition` for what can't happen."""
        ...

    async def end(self, run_id: RunId, summary: Summary) -> None:
        """End a run: claims are put back; returns when all that was submitted is durable."""
        ...


class JournalMender(Protocol):
    """What a comparison with the packs reads and changes: between runs, on the journal that the next run will have.

    The same object as the run's `Journal`, so that the writer's lock is held from the first read to the run's end.
    Nothing changes between two calls but by `submit`, whose promises are the `Journal`'s; reading begins no run.
    """

    async def packs(self) -> Mapping[PackId, str]:
        """Every pack that jobs were admitted for, latest first, with the public part of a key that sees it.

        It is the latest key that saw the pack, or another one of its scope.
        """
        ...

    async def page(self, pack_id: PackId, state: State, *, after: JobId, limit: int) -> Sequence[Record]:
        """The next jobs of a pack in `state` that have a url and a number over `after`; empty at the end."""
        ...

    def submit(self, change: Change) -> asyncio.Future[Record]:
        """See `Journal.submit`."""
        ...


class JournalReader(Protocol):
    """What commands read. Takes no lock, blocks, and may run beside a writer in another process."""

    def packs(self) -> Sequence[PackRecord]:
        """Every pack with its counts by state."""
        ...

    def records(self, selection: Selection) -> Iterator[Record]:
        """The selected jobs by number, streamed."""
        ...

    def runs(self, limit: int) -> Sequence[RunRecord]:
        """The last runs, latest first."""
        ...

    def oldest_pending(self) -> float | None:
        """When the oldest job that is not settled was admitted, in Unix seconds."""
        ...


class JournalEditor(Protocol):
    """What people change by hand, under the writer's lock."""

    def retry(self, selection: Selection) -> int:
        """Make `failed` jobs (or the states selected) pending again with their attempts reset; how many."""
        ...

    def forget(self, selection: Selection) -> tuple[int, int]:
        """Drop pending jobs; how many went, and how many stay because an add of theirs may have been sent."""
        ...
