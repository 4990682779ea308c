"""How a record changes: the lifecycle applied to the journal's values, once for every kind of store.

Pure: a store loads a record, asks here what it becomes, and writes that. What a *run* does next is not decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeGuard, assert_never

from msgspec.structs import replace

from ingest.journal.changes import (
    AuditClosed,
    Condemned,
    Doubted,
    Excused,
    Missed,
    Parked,
    Released,
    Resent,
    Settled,
    Sighted,
    Spent,
    Stored,
    Tested,
)
from ingest.journal.records import MISSED, QUARANTINED, Claimed, Joined, Known, Record
from ingest.model import JobId, Occasion, Outcome
from ingest.policy.lifecycle import Event, IllegalTransition, State, advance
from ingest.policy.retry import respite_s

if TYPE_CHECKING:
    from ingest.journal.changes import Change
    from ingest.journal.records import Admission, Candidate
    from ingest.model import FileStamp, RunId

__all__ = ["UNNUMBERED", "admit", "apply", "claim", "put_back", "reaches_pack", "recover", "retry"]

UNNUMBERED: Final = JobId(0)
"""The number of a record that no store has yet."""


def _moved(record: Record, event: Event) -> State:
    try:
        return advance(record.state, event)
    except IllegalTransition:
        # Told again with the history, which only a failure pays for.
        return advance(record.state, event, job=record.job_id, history=_history(record))


def _history(record: Record) -> tuple[str, ...]:
    return (
        f"admitted in {record.run_id}",
        f"revision {record.revision}",
        f"attempts {record.attempts}",
        f"deaths {record.deaths}",
        f"adds sent {record.adds_sent}",
        *([record.reason] if record.reason else ()),
        record.state.value,
    )


def admit(latest: Record | None, candidate: Candidate, *, run_id: RunId, now: float) -> Admission:
    """What a delivery becomes beside the latest revision of its key; a record numbered `UNNUMBERED` is to be inserted.

    A settled job whose file has another stamp gets a new revision: whether the bytes differ is known only after they
    are read.
    """
    if latest is None:
        return _claimed_anew(candidate, 1, run_id=run_id, now=now)
    is_same_file = candidate.stamp is None or latest.stamp is None or candidate.stamp == latest.stamp
    match latest.state:
        case State.PENDING:
            # A url whose add was never sent is garbage once the bytes have changed.
            kept = latest if is_same_file else replace(latest, url=None, fingerprint=None, content_type=None)
            return Claimed(record=claim(_seen_again(kept, candidate), run_id))
        case State.CLAIMED | State.STORED | State.PARKED:
            return (
                Joined(record=latest)
                if is_same_file
                else _claimed_anew(candidate, latest.revision + 1, run_id=run_id, now=now)
            )
        case State.ADDED | State.DUPLICATE:
            if is_same_file:
                return Known(record=latest, outcome=Outcome.DUPLICATE)
            return _claimed_anew(candidate, latest.revision + 1, run_id=run_id, now=now)
        case State.REJECTED:
            return (
                Known(record=latest, outcome=Outcome.REJECTED)
                if is_same_file
                else _claimed_anew(candidate, latest.revision + 1, run_id=run_id, now=now)
            )
        case State.FAILED:
            if not is_same_file and (latest.url is not None or latest.reason == QUARANTINED):
                return _claimed_anew(candidate, latest.revision + 1, run_id=run_id, now=now)
            if latest.reason == QUARANTINED or (is_same_file and _is_too_soon(latest, candidate, now)):
                return Known(record=latest, outcome=Outcome.FAILED)
            again = retry(latest)
            if again.state is State.PARKED:
                return Joined(record=again)
            return Claimed(record=claim(_seen_again(again, candidate), run_id))
        case _:
            assert_never(latest.state)


def _is_too_soon(failed: Record, candidate: Candidate, now: float) -> bool:
    """Whether a failed job that was only met again is to be left alone for the moment."""
    settled_at = failed.admitted_at if failed.settled_at is None else failed.settled_at
    return candidate.occasion is Occasion.AGAIN and 0 <= now - settled_at < respite_s(settled_at - failed.admitted_at)


def _seen_again(record: Record, candidate: Candidate) -> Record:
    """A job with a caller's id may have moved since: it is read where it was last seen."""
    return replace(
        record,
        locator=candidate.locator,
        file_name=candidate.file_name,
        stamp=candidate.stamp or record.stamp,
    )


def _claimed_anew(candidate: Candidate, revision: int, *, run_id: RunId, now: float) -> Claimed:
    return Claimed(
        record=Record(
            job_id=UNNUMBERED,
            pack_id=candidate.pack_id,
            key=candidate.key,
            revision=revision,
            locator=candidate.locator,
            file_name=candidate.file_name,
            state=advance(State.PENDING, Event.CLAIM),
            admitted_at=now,
            run_id=run_id,
            stamp=candidate.stamp,
        )
    )


def claim(record: Record, run_id: RunId) -> Record:
    """A pending job taken by a run."""
    return replace(record, state=_moved(record, Event.CLAIM), run_id=run_id)


def retry(record: Record) -> Record:
    """A settled job made to start again: at the lookup where an add of it was sent, else from the image."""
    return _afresh(record, Event.RETRY if record.adds_sent == 0 else Event.LOOK_AGAIN)


def _afresh(record: Record, event: Event) -> Record:
    return replace(
        record,
        state=_moved(record, event),
        attempts=0,
        deaths=0,
        is_alone=False,
        reason=None,
        detail=None,
        settled_at=None,
    )


def recover(record: Record, *, now: float) -> Record:
    """What a job becomes whose process died: nothing is known but what was durable."""
    if record.state is State.STORED:
        return replace(record, state=_moved(record, Event.DIE), reason="process_died")
    if record.is_alone:
        return replace(
            record,
            state=_moved(record, Event.QUARANTINE),
            deaths=record.deaths + 1,
            reason=QUARANTINED,
            detail=f"the process died {record.deaths + 1} times while it had this job, the last time with no other",
            settled_at=now,
        )
    return replace(record, state=_moved(record, Event.DIE), deaths=record.deaths + 1)


def reaches_pack(change: Change) -> TypeGuard[Settled]:
    """Whether the change's key may change the job's pack: an add with it was answered with success."""
    return isinstance(change, Settled) and change.outcome is Outcome.ADDED and not change.was_found


def put_back(record: Record) -> Record:
    """What a claim becomes when its run ends without having finished it."""
    if record.state is not State.CLAIMED:  # in STORED an add may have been sent; the next `begin` parks it
        raise IllegalTransition(record.state, Event.RELEASE, job=record.job_id, history=_history(record))
    return _released(record)


def apply(record: Record, change: Change, *, now: float, run_id: RunId) -> Record:
    """The record after `change`; `now` in Unix seconds. `IllegalTransition` for what can't happen."""
    match change:
        case Tested():
            return replace(record, state=_moved(record, Event.TEST), is_alone=True)
        case Excused():
            return replace(record, state=_moved(record, Event.EXCUSE), is_alone=False)
        case Spent(attempts=attempts, reason=reason):
            return replace(record, state=_moved(record, Event.SPEND), attempts=attempts, reason=reason)
        case Stored(inspection=seen, url=url):
            return replace(
                record,
                state=_moved(record, Event.STORE),
                fingerprint=seen.fingerprint if seen else None,
                content_type=seen.content_type if seen else None,
                stamp=seen.stamp if seen else None,
                url=url,
                adds_sent=1,
            )
        case Parked(reason=reason):
            return replace(record, state=_moved(record, Event.PARK), reason=reason, is_alone=False)
        case Resent():
            state = _moved(record, Event.RESEND)
            return replace(record, state=state, adds_sent=record.adds_sent + 1, audit_is_open=True)
        case Settled():
            return _settled(record, change, now=now, run_id=run_id)
        case Released():
            return _released(record)
        case Condemned(image_ids=image_ids):
            return replace(record, state=_moved(record, Event.CONDEMN), condemned=record.condemned + image_ids)
        case AuditClosed(image_id=image_id):
            state = _moved(record, Event.AUDIT)
            return replace(record, state=state, audit_is_open=False, image_id=image_id or record.image_id)
        case Missed() | Sighted() | Doubted():
            return _mended(record, change)
        case _:
            assert_never(change)


def _mended(record: Record, change: Missed | Sighted | Doubted) -> Record:
    match change:
        case Missed():
            return replace(_afresh(record, Event.MISS), reason=MISSED)
        case Sighted():
            if not record.urls:  # nothing of it can be in a pack
                raise IllegalTransition(record.state, Event.LOOK_AGAIN, job=record.job_id, history=_history(record))
            # It was sent, whatever was told: its pack has it.
            return replace(_afresh(record, Event.LOOK_AGAIN), adds_sent=max(1, record.adds_sent), reason="sighted")
        case Doubted():
            return replace(record, state=_moved(record, Event.DOUBT), audit_is_open=True)
        case _:
            assert_never(change)


def _settled(record: Record, change: Settled, *, now: float, run_id: RunId) -> Record:
    event = {
        Outcome.ADDED: Event.FIND if change.was_found else Event.ADD,
        Outcome.DUPLICATE: Event.MATCH,
        Outcome.REJECTED: Event.REJECT,
        Outcome.FAILED: Event.FAIL,
    }[change.outcome]
    seen = change.inspection
    return replace(
        record,
        state=_moved(record, event),
        run_id=run_id,
        reason=change.reason,
        detail=change.detail,
        image_id=change.image_id or record.image_id,
        answered_url=change.answered_url or record.answered_url,
        fingerprint=seen.fingerprint if seen else record.fingerprint,
        content_type=seen.content_type if seen else record.content_type,
        stamp=_stamp_after(record, change),
        settled_at=now,
        is_alone=False,
    )


def _stamp_after(record: Record, change: Settled) -> FileStamp | None:
    """The stamp that makes a later run skip the file: of the bytes that were read, else of what the source saw."""
    return change.inspection.stamp if change.inspection else record.stamp


def _released(record: Record) -> Record:
    if record.state is State.STORED and record.adds_sent > 1:
        # An earlier add of this url may have landed; only a lookup can tell.
        raise IllegalTransition(record.state, Event.RELEASE, job=record.job_id, history=_history(record))
    return replace(record, state=_moved(record, Event.RELEASE), adds_sent=0, is_alone=False)
