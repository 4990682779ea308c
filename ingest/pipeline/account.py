"""What a run has to say of itself: the snapshot while it goes on, the exit code and the summary at its end.

Reads the parts of a run, and changes none of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import BUG_EXIT_CODE, GaveUp, StopError, UsageError
from ingest.model import Outcome, Summary, SummaryError
from ingest.observe.recorders import QUEUE_KINDS
from ingest.observe.status import LaneStatus, Phase, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.model import Lane, RunId
    from ingest.pipeline.gate import Gate, Traffic
    from ingest.pipeline.reconcile import Reconciler
    from ingest.pipeline.retry import Retrying
    from ingest.pipeline.stop import Stop
    from ingest.pipeline.work import OpenJobs, Tally
    from ingest.pipeline.workers import Workers
    from ingest.sources.base import Source

__all__ = ["Account"]


@dataclass(slots=True, kw_only=True)
class Account:
    """One run's figures. `phase` and `unreadable` are the run's own word, the rest is read where it stands."""

    run_id: RunId
    stop: Stop
    tally: Tally
    open_jobs: OpenJobs
    workers: Workers
    reconciler: Reconciler
    retrying: Retrying
    gates: Mapping[Lane, Gate]
    traffic: Traffic
    started_at: float
    phase: Phase = Phase.OPENING
    unreadable: int = 0

    @property
    def imbalance(self) -> int:
        """`discovered - added - duplicate - rejected - failed - pending`, with what is pending counted one by one."""
        return self.tally.pending - self.open_jobs.waiting_deliveries

    @property
    def oldest_pending(self) -> float | None:
        """When the oldest open job was admitted, in Unix seconds."""
        return min((work.record.admitted_at for work in self.open_jobs), default=None)

    def snapshot(self) -> Snapshot:
        """How the run stands."""
        return Snapshot(
            run_id=self.run_id,
            phase=self.phase,
            discovered=self.tally.discovered,
            outcomes=dict(self.tally.outcomes),
            unchanged=self.tally.unchanged,
            pending=self.tally.pending,
            in_hand=self.workers.busy,
            parked=self.reconciler.parked_count,
            audits=self.reconciler.audit_count,
            next_check_in_s=self.reconciler.due_in_s,
            bytes_uploaded=self.traffic.bytes_uploaded,
            requests=self.traffic.requests,
            retries=self.retrying.retries,
            throttled=self.traffic.throttled,
            elapsed_s=time.monotonic() - self.started_at,
            lanes={lane: _lane_status(gate) for lane, gate in self.gates.items()},
        )

    def summary(self, exit_code: int) -> Summary:
        """What the run has done so far, as `ingest run --json` prints it."""
        outcomes = self.tally.outcomes
        return Summary(
            run_id=self.run_id,
            discovered=self.tally.discovered,
            added=outcomes[Outcome.ADDED],
            duplicate=outcomes[Outcome.DUPLICATE],
            unchanged=self.tally.unchanged,
            rejected=outcomes[Outcome.REJECTED],
            failed=outcomes[Outcome.FAILED],
            pending=self.tally.pending,
            bytes_uploaded=self.traffic.bytes_uploaded,
            requests=self.traffic.requests,
            retries=self.retrying.retries,
            throttled=self.traffic.throttled,
            duration_s=round(time.monotonic() - self.started_at, 3),
            exit_code=exit_code,
            error=self._error(exit_code),
        )

    def exit_code(self, sources: Sequence[Source], *, allow_empty: bool) -> int:
        """How the run ended (DESIGN §7); what it finds amiss becomes the reason of the stop.

        Counts that don't add up are a bug before anything else.
        """
        if self.stop.exit_code is None and (amiss := self._amiss(sources, allow_empty=allow_empty)) is not None:
            self.stop.because(amiss)
        if self.imbalance:
            return BUG_EXIT_CODE
        if self.stop.exit_code is not None:
            return self.stop.exit_code
        outcomes = self.tally.outcomes
        return 1 if outcomes[Outcome.REJECTED] or outcomes[Outcome.FAILED] or self.unreadable else 0

    def _amiss(self, sources: Sequence[Source], *, allow_empty: bool) -> StopError | None:
        is_elsewhere = any(source.report.elsewhere for source in sources)
        # Of several workers on a queue, some may come when it is empty.
        is_queue = any(source.name in QUEUE_KINDS for source in sources)
        if sources and not (self.tally.discovered or self.unreadable or is_elsewhere or is_queue or allow_empty):
            return UsageError(
                "No image was found.",
                code="no_images",
                hint="Check the path, or say --allow-empty if that is as it should be.",
            )
        if self.tally.pending or self.reconciler.unpaid:
            return GaveUp(
                f"{self.tally.pending} jobs are pending and {self.reconciler.unpaid} adds unchecked, "
                "for packs that this run could not read or mend.",
                code="unchecked",
                hint="Run again to continue; if their packs belong to another key, with that one.",
            )
        return None

    def _error(self, exit_code: int) -> SummaryError | None:
        if exit_code == BUG_EXIT_CODE:
            return SummaryError(code="bug", message="A bug stopped the run.", hint="Please report the traceback.")
        if self.stop.error is None and self.unreadable and exit_code:
            places = "1 place" if self.unreadable == 1 else f"{self.unreadable} places"
            return SummaryError(
                code="unreadable",
                message=f"{places} could not be looked into; images may be missing.",
                hint="Mend their permissions and run the same command again.",
            )
        return self.stop.error


def _lane_status(gate: Gate) -> LaneStatus:
    now = time.monotonic()
    since = gate.breaker.silent_since
    return LaneStatus(
        in_flight=gate.in_flight,
        concurrency=gate.concurrency,
        rate=gate.pacer.rate,
        paused_for_s=max(0.0, gate.pacer.paused_until - now),
        next_probe_in_s=gate.breaker.wait_s(now) if gate.breaker.is_open else 0.0,
        silent_since=None if since is None else time.time() - (now - since),
        refusal=None if gate.refusal is None else f"{gate.refusal.status} {gate.refusal.error_code or ''}".strip(),
    )
