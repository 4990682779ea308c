"""What the journal is told of a job: one value a step of the protocol. What each makes of a record is `rules`'."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ingest.journal.records import Inspection
from ingest.model import JobId, Outcome

__all__ = [
    "AuditClosed",
    "Change",
    "Condemned",
    "Doubted",
    "Excused",
    "Missed",
    "Parked",
    "Released",
    "Resent",
    "Settled",
    "Sighted",
    "Spent",
    "Stored",
    "Tested",
]


class Tested(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The job is about to run alone; durable before it does, so that dying there tells."""

    job_id: JobId


class Excused(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The job runs alone no more, but waits for an equal one: what the process dies of now is none of its doing."""

    job_id: JobId


class Spent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An answer about this job was no success: its attempts are `attempts` by that."""

    job_id: JobId
    attempts: int
    reason: str


class Stored(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The image is where its add will say that it is; durable *before* the add is sent.

    For bytes, on the CDN under `url`. With `url` None it is the caller's own URL, the job's locator, that is added; and
    `inspection` is None where its pack may hold that already, so that nothing tells one copy from another.
    """

    job_id: JobId
    inspection: Inspection | None
    url: str | None


class Parked(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An add was sent and its effect is unknown."""

    job_id: JobId
    reason: str


class Resent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A settled lookup found nothing; durable *before* the next add, with the audit that it owes."""

    job_id: JobId


class Settled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class Released(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run puts the job back: no add of it was sent, or none that may have taken effect."""

    job_id: JobId


class Condemned(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """These surplus copies of the job's url go; durable *before* the first of them is deleted.

    So no later read takes another one in their place, whatever became of the requests that deleted them.
    """

    job_id: JobId
    image_ids: tuple[str, ...]


class AuditClosed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The pack was read after the last add could have landed, and holds no surplus copy of the job's url any more.

    `image_id` is the copy that is left; None where there is none, or none that is known to be the job's own.
    """

    job_id: JobId
    image_id: str | None = None


class Missed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The job is `added`, and its pack has it no more: it is parked, with all its attempts, as if never looked up."""

    job_id: JobId


class Sighted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The job ended, not as `added`, and its pack has it after all: it is parked for the lookup that finds it."""

    job_id: JobId


class Doubted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
