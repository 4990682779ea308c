"""The end of a job: its outcome made durable, counted, told, and only then acknowledged.

One task for all jobs, in the order in which the journal commits them. Decides no outcome.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.journal.changes import Settled
from ingest.model import Outcome
from ingest.observe.logging import get_logger
from ingest.observe.text import shown
from ingest.pipeline.pulse import Pulse
from ingest.pipeline.work import acknowledge

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from ingest.journal.base import Journal
    from ingest.journal.changes import Change
    from ingest.journal.records import Record
    from ingest.observe.recorders import DeliveryRecorder, JobRecorder
    from ingest.pipeline.twins import Twins
    from ingest.pipeline.work import OpenJobs, Tally, Work

__all__ = ["Settlement", "Settler"]

log = get_logger("pipeline")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One job and its durable outcome, for whoever asked to be told."""

    record: Record
    outcome: Outcome
    reason: str | None


class Settler:
    """Takes outcomes from everybody, never blocks them, and sees each through to its deliveries."""

    def __init__(
        self,
        journal: Journal,
        open_jobs: OpenJobs,
        tally: Tally,
        twins: Twins,
        *,
        recorder: JobRecorder,
        deliveries: DeliveryRecorder,
        key_id: Callable[[], str],
        again: Callable[[Work], Awaitable[None]],
        on_settled: Callable[[Settlement], None],
    ) -> None:
        self._journal = journal
        self._open = open_jobs
        self._tally = tally
        self._twins = twins
        self._recorder = recorder
        self._deliveries = deliveries
        self._key_id = key_id
        self._again = again
        self._on_settled = on_settled
        self._queue: deque[tuple[asyncio.Future[Record], tuple[Work, Settled] | None]] = deque()
        self._wanted = Pulse()
        self._settled = Pulse()

    def settle(
        self,
        work: Work,
        outcome: Outcome,
        *,
        reason: str | None = None,
        detail: str | None = None,
        image_id: str | None = None,
        answered_url: str | None = None,
        was_found: bool = False,
    ) -> None:
        """The job ends so. Returns at once; the commit and all that follows it come later, in order."""
        change = Settled(
            job_id=work.record.job_id,
            outcome=outcome,
            reason=reason,
            detail=detail,
            inspection=work.inspection,
            image_id=image_id,
            answered_url=answered_url,
            was_found=was_found,
            key_id=self._key_id(),
        )
        work.is_ending = True
        self._queue.append((self._journal.submit(change), (work, change)))
        self._wanted.beat()

    def record(self, change: Change) -> None:
        """A change that nobody waits for; what the journal has against it still ends the run."""
        self._queue.append((self._journal.submit(change), None))
        self._wanted.beat()

    async def run(self) -> None:
        """Follow each outcome to its end, for ever. Raises what the journal does."""
        while True:
            while self._queue:
                future, ending = self._queue[0]
                record = await future
                if ending is not None:
                    await self._finish(*ending, record)
                self._queue.popleft()
            self._settled.beat()
            await self._wanted.wait()

    async def flushed(self) -> None:
        """Wait until every outcome so far is durable and acknowledged."""
        while self._queue:
            await self._settled.wait()

    async def _finish(self, work: Work, change: Settled, record: Record) -> None:
        outcome = change.outcome
        for twin in self._twins.end(work):
            if outcome is Outcome.ADDED:
                self.settle(twin, Outcome.DUPLICATE, reason=f"equal_to:{record.job_id}")
            elif outcome is Outcome.DUPLICATE:
                self.settle(twin, Outcome.DUPLICATE, reason=record.reason)
            else:
                await self._again(twin)
        self._tally.settle(outcome, deliveries=len(work.namings), duration_s=time.monotonic() - work.opened_at)
        self._open.close(work)
        if outcome is Outcome.ADDED:
            self._recorder.last_added(record.settled_at or time.time())
        self._tell(record, outcome, work)
        self._on_settled(Settlement(record=record, outcome=outcome, reason=record.reason))
        for naming in work.namings:
            await acknowledge(naming, outcome, record.reason, self._deliveries)

    @staticmethod
    def _tell(record: Record, outcome: Outcome, work: Work) -> None:
        is_routine = outcome in {Outcome.ADDED, Outcome.DUPLICATE}
        if is_routine and not log.is_debug:
            return
        emit = log.debug if is_routine else log.info
        emit(
            "job.settled",
            job=record.job_id,
            outcome=outcome.value,
            reason=record.reason,
            detail=record.detail,
            image=shown(record.locator),
            pack_id=record.pack_id,
            revision=record.revision,
            attempts=record.attempts,
            adds_sent=record.adds_sent,
            size_bytes=record.stamp.size_bytes if record.stamp else None,
            duration_s=round(time.monotonic() - work.opened_at, 3),
        )
