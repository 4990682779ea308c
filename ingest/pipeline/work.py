"""The jobs in hand: what is kept in memory of a job from its admission to its outcome, and the sum of them.

Bounded by `max_open_jobs`, however long the source; everything else about a job is in the journal.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from ingest.model import Outcome
from ingest.observe.logging import get_logger
from ingest.pipeline.pulse import Pulse
from ingest.sources.base import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.journal.records import Inspection, Record
    from ingest.model import JobId
    from ingest.observe.recorders import DeliveryRecorder, JobRecorder

__all__ = ["RELEASE_TIMEOUT_S", "SUSPECT_DEATHS", "Naming", "OpenJobs", "Tally", "Work", "acknowledge", "release"]

log = get_logger("pipeline")

SUSPECT_DEATHS: Final = 3
# From the third claim that died with its process on, a job runs alone (DESIGN §3, step 2).

ACKNOWLEDGE_TIMEOUT_S: Final = 10.0
# All outcomes pass through one task: a broker that hangs must not keep them from each other.

RELEASE_TIMEOUT_S: Final = 10.0
# A broker that does not take deliveries back by then redelivers them by itself.


@dataclass(frozen=True, slots=True)
class Naming:
    """One delivery of a job, and the kind of source that named it; `origin` says which one of that kind."""

    delivery: Delivery
    source: str
    origin: str = ""


async def acknowledge(naming: Naming, outcome: Outcome, reason: str | None, recorder: DeliveryRecorder) -> None:
    """Tell a delivery how its job ended; a source that can't take it delivers again, and the journal knows then."""
    try:
        if type(naming.delivery).acknowledge is not Delivery.acknowledge:  # which does nothing, and takes no deadline
            with anyio.fail_after(ACKNOWLEDGE_TIMEOUT_S):
                await naming.delivery.acknowledge(outcome, reason)
    except Exception as error:
        log.warning("delivery.unacknowledged", source=naming.source, error=str(error) or type(error).__name__)
    else:
        recorder.delivery(naming.source, "acknowledged")


async def release(naming: Naming, recorder: DeliveryRecorder) -> None:
    """Hand a delivery back unfinished; a source that can't take it is told of in the log, and delivers it again."""
    try:
        await naming.delivery.release()
    except Exception as error:
        log.warning("delivery.unreleased", source=naming.source, error=str(error))
    else:
        recorder.delivery(naming.source, "released")


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """One open job. Changed only by whoever has it in hand: a worker, the twins' shelf or reconciliation."""

    record: Record
    namings: list[Naming] = field(default_factory=list)
    # Who waits for its outcome; none for a debt of an earlier run that no source of this one named.

    inspection: Inspection | None = None
    opened_at: float = field(default_factory=time.monotonic)

    is_absent: bool = False
    # A settled lookup did not find it: what comes next is another add.

    is_ending: bool = False
    # Its outcome is on its way to the journal, or there and not told yet: nobody joins it any more.


class Tally:
    """Deliveries counted by what became of them, here and in the metrics alike."""

    def __init__(self, recorder: JobRecorder) -> None:
        self._recorder = recorder
        self.discovered = 0
        self.unchanged = 0
        self.outcomes = dict.fromkeys(Outcome, 0)

    @property
    def pending(self) -> int:
        """Discovered and without an outcome."""
        return self.discovered - sum(self.outcomes.values())

    def discover(self) -> None:
        """A source named a job."""
        self.discovered += 1
        self._recorder.discovered()

    def refuse(self) -> None:
        """A source came by something that is no job."""
        self.discover()
        self._count(Outcome.REJECTED, None)

    def recognise(self, count: int) -> None:
        """A source named so many jobs whose files are as an earlier run put them into their pack."""
        self.discovered += count
        self.unchanged += count
        self.outcomes[Outcome.DUPLICATE] += count
        self._recorder.discovered(count)
        self._recorder.known(Outcome.DUPLICATE, count)

    def skip(self, outcome: Outcome, *, is_unchanged: bool) -> None:
        """What was just discovered had its outcome before this run."""
        self.unchanged += is_unchanged
        self._count(outcome, None)

    def settle(self, outcome: Outcome, *, deliveries: int, duration_s: float) -> None:
        """One job ended: its first delivery has the outcome, the rest named what was then in its pack already."""
        for nth in range(deliveries):
            is_echo = nth > 0 and outcome is Outcome.ADDED
            self._count(Outcome.DUPLICATE if is_echo else outcome, duration_s)

    def _count(self, outcome: Outcome, duration_s: float | None) -> None:
        self.outcomes[outcome] += 1
        self._recorder.settled(outcome, duration_s)


class OpenJobs:
    """Every open job by number. Whoever admits waits for room first; whoever settles closes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._jobs: dict[JobId, Work] = {}
        self._left: dict[JobId, Work] = {}
        self._changed = Pulse()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Work]:
        """Those in hand, oldest first, and then those that were left."""
        yield from self._jobs.values()
        yield from self._left.values()

    def get(self, job_id: JobId) -> Work | None:
        """The open job of that number."""
        return self._jobs.get(job_id)

    def open(self, work: Work) -> None:
        """Take a job in hand, which nobody has; whoever waited for it when it was left waits for it again."""
        job_id = work.record.job_id
        if job_id in self._jobs:
            raise ValueError(f"job {job_id} is in hand already")
        self._jobs[job_id] = work
        if (left := self._left.pop(job_id, None)) is not None:
            work.namings[:0] = left.namings

    def close(self, work: Work) -> None:
        """Its outcome is durable."""
        del self._jobs[work.record.job_id]
        self._changed.beat()

    def leave(self, work: Work) -> None:
        """It stays pending: another run has to take it, or a source has to name it once more."""
        self._left[work.record.job_id] = work
        self.close(work)

    @property
    def is_full(self) -> bool:
        """Whether no more may be admitted."""
        return len(self._jobs) >= self._capacity

    async def room(self) -> None:
        """Wait until one more batch may be admitted."""
        while self.is_full:
            await self._changed.wait()

    async def closed(self, work: Work) -> None:
        """Wait until this job has ended."""
        while self._jobs.get(work.record.job_id) is work:
            await self._changed.wait()

    async def none_left(self) -> None:
        """Wait until every job that was opened is closed."""
        while self._jobs:
            await self._changed.wait()

    @property
    def waiting_deliveries(self) -> int:
        """Deliveries of open jobs, counted one by one: what `Tally.pending` must equal."""
        return sum(len(work.namings) for work in self)
