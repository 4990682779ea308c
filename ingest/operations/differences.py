"""Where one job of the journal and its pack disagree, and what the journal is told so that the next run mends it.

Pure: knows no journal, no request and no clock. What is read when, and what of it is believed, is `verify`'s.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from ingest.journal.changes import Doubted, Missed, Sighted
from ingest.policy.copies import surplus
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.journal.changes import Change
    from ingest.journal.records import Record
    from ingest.operations.holdings import Holding

__all__ = ["COMPARED", "OWING", "Difference", "What", "differences", "is_owing", "mend"]

COMPARED: Final = (State.ADDED, State.DUPLICATE, State.REJECTED, State.FAILED, State.STORED, State.PARKED)
"""The states in which an add of a job's url may have been sent."""

OWING: Final = frozenset({State.STORED, State.PARKED})
"""The states that a lookup settles: that such a job is not in its pack is an open question, and no difference."""

DOUBTABLE: Final = frozenset({State.ADDED, State.PARKED})
"""The states in which a job may be made to owe an audit."""


class What(enum.StrEnum):
    """How journal and pack disagree about one job."""

    MISSING = "missing"  # `added`, and not there
    DOUBLED = "doubled"  # there more than once, or in a surplus copy that was deleted
    STRAY = "stray"  # not `added`, and there all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One disagreement about one job; `copies` are the images of its pack that are this job's."""

    what: What
    record: Record
    copies: int
    condemned: int = 0  # of the copies, those that were deleted, or are to be
    is_mended: bool = False


def differences(record: Record, held: Holding) -> Sequence[Difference]:
    """How the job and what its pack holds of it disagree."""
    found: list[What] = []
    if record.state is State.ADDED and not held.copies:
        found.append(What.MISSING)
    if record.state is not State.ADDED and held.copies:
        found.append(What.STRAY)
    if held.copies > 1 or held.condemned:
        found.append(What.DOUBLED)
    copies = held.copies + held.condemned
    return [Difference(what=what, record=record, copies=copies, condemned=held.condemned) for what in found]


def is_owing(record: Record) -> bool:
    """Whether a run has still to look for this job, or to audit it."""
    return record.state in OWING or record.audit_is_open


def mend(difference: Difference) -> Change | None:
    """What makes the difference a debt that a run pays; None where it is one already, or nobody may pay it.

    The changes of one job belong in the order of its differences.
    """
    record = difference.record
    match difference.what:
        case What.MISSING:
            return Missed(job_id=record.job_id)
        case What.STRAY:
            # Whose copy of a URL it is, no lookup tells either, where the URL may have been there before.
            is_debt = record.state in OWING or not record.is_verifiable
            return None if is_debt else Sighted(job_id=record.job_id)
        case What.DOUBLED if not record.own_urls:
            return None  # copies of a caller's URL are told, and nobody's to delete
        case What.DOUBLED:
            count = difference.copies - difference.condemned
            is_surplus = surplus(count, adds_sent=record.adds_sent, condemned=len(record.condemned)) > 0
            # An image of a job that is not `added` has just been sighted: the job is parked by now, and may be doubted.
            is_doubtable = count > 0 or record.state in DOUBTABLE
            may_delete = is_surplus or (is_doubtable and difference.condemned > 0)
            return Doubted(job_id=record.job_id) if may_delete and not record.audit_is_open else None
        case _:
            assert_never(difference.what)
