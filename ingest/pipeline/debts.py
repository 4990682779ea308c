"""What a run owes one pack: jobs to look for, and urls to audit. Values only; `reconcile` pays."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ingest.journal.records import MISSED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.journal.records import Record
    from ingest.model import JobId
    from ingest.pipeline.work import Work

__all__ = ["Debts", "OwedAudit", "names_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedAudit:
    """An audit that is owed. `since` is when its last add, or the last delete for it, ended (monotonic seconds)."""

    record: Record
    since: float
    deletes: int = 0  # rounds of them in this run


@dataclass(slots=True)
class Debts:
    """What one pack is to be read for. Times are monotonic seconds."""

    parked: dict[JobId, tuple[Work, float]] = field(default_factory=dict)  # with the end of its last add
    audits: dict[JobId, OwedAudit] = field(default_factory=dict)
    unended: set[JobId] = field(default_factory=set)  # audits whose last add has not ended: a read says nothing yet
    not_before: float = -math.inf
    failures: int = 0

    def due_at(self, settle_delay_s: float) -> float:
        """When a read would settle something."""
        # Both are in the order of the ends, so the first is the earliest: thousands may wait.
        parked = next((ended_at for _, ended_at in self.parked.values()), math.inf)
        audits = next((audit.since for audit in self.audits.values()), math.inf)
        return max(self.not_before, min(parked, audits) + settle_delay_s)

    def put_off(self, audit: OwedAudit) -> None:
        """It is due a settle delay from now; at the end, for audits are in the order in which they fall due."""
        del self.audits[audit.record.job_id]
        self.audits[audit.record.job_id] = replace(audit, since=time.monotonic())


def names_of(record: Record) -> Sequence[str]:
    """The urls under which a lookup finds the job.

    What was missed although the pack holds the url that its add was answered with is not there: that image is another
    job's, unless the url is this job's alone. Of a caller's URL, the URL itself is believed.
    """
    if record.reason != MISSED:
        return record.urls
    return record.own_urls or record.urls[:1]
