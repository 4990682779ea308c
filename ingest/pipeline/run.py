"""One run from its beginning in the journal to its summary: who runs beside whom, and in which order they end.

Phases: open, intake, drain, flush, close. What happens to a single job is in `deliver`; what stops a run, in `stop`.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio

from ingest.errors import Fatal, GaveUp, StopError, UsageError
from ingest.images.memory import MemoryBudget
from ingest.model import Lane, Outcome, RunId, Summary, SummaryError
from ingest.observe.logging import get_logger
from ingest.observe.status import LaneStatus, Phase, Snapshot
from ingest.pipeline.deliver import Deliver
from ingest.pipeline.feed import Feed
from ingest.pipeline.packs import Packs
from ingest.pipeline.reconcile import Reconciler
from ingest.pipeline.settle import Settlement, Settler
from ingest.pipeline.solitude import Solitude
from ingest.pipeline.stop import Stopped, TooManyRejected
from ingest.pipeline.twins import Twins
from ingest.pipeline.work import OpenJobs, Tally, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ingest.api.client import PacksClient
    from ingest.api.credentials import Credentials
    from ingest.journal.base import Journal, Opening
    from ingest.observe.metrics import Metrics
    from ingest.pipeline.gate import Gate, Traffic
    from ingest.pipeline.guard import Guard
    from ingest.pipeline.packs import ResolvedPack
    from ingest.pipeline.retry import Retrying
    from ingest.pipeline.stop import Stop
    from ingest.settings import Settings
    from ingest.sources.base import Source

__all__ = ["Pipeline", "new_run_id"]

log = get_logger("pipeline")

WORKERS_PER_SLOT: Final = 3
# A job is in one of three places: at the disk, at the storage, at the API. With three workers for each request that
# may be open neither lane waits for a worker, and the few in back-off are not missed.

WATCH_S: Final = 1.0
FLUSH_TIMEOUT_S: Final = 30.0
# What is left after the drain is one commit; a disk that needs longer is stuck.


def new_run_id() -> RunId:
    """A name for a run that sorts by its start and is short enough to type."""
    return RunId(f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")


class Pipeline:
    """One run. Make one, `run` it once; `snapshot` and `summary` may be asked for at any time."""

    def __init__(
        self,
        settings: Settings,
        *,
        journal: Journal,
        client: PacksClient,
        credentials: Credentials,
        retrying: Retrying,
        guard: Guard,
        gates: Mapping[Lane, Gate],
        traffic: Traffic,
        metrics: Metrics,
        stop: Stop,
        on_settled: Callable[[Settlement], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self.run_id = new_run_id()
        self.stop = stop
        self.pack: ResolvedPack | None = None
        self._settings = settings
        self._journal = journal
        self._credentials = credentials
        self._retrying = retrying
        self._gates = gates
        self._traffic = traffic
        self._metrics = metrics
        self._on_settled = on_settled
        self._on_notice = on_notice
        self._phase = Phase.OPENING
        self._started = time.monotonic()
        self._busy = 0
        self._was_idle = anyio.Event()
        self._unreadable = 0
        self._workers = max(8, WORKERS_PER_SLOT * settings.flow.concurrency)
        self._send, self._receive = anyio.create_memory_object_stream[Work](self._workers)
        self._tally = Tally(metrics)
        self._open = OpenJobs(settings.run.max_open_jobs)
        self._twins = Twins()
        self._packs = Packs(client, retrying, guard, settle_delay_s=settings.flow.settle_delay_s, sleep=stop.sleep)
        self._settler = Settler(
            journal,
            self._open,
            self._tally,
            self._twins,
            recorder=metrics,
            deliveries=metrics,
            again=self._hand_out,
            on_settled=self._settled,
        )
        self._reconciler = Reconciler(
            settings.flow,
            client=client,
            retrying=retrying,
            journal=journal,
            packs=self._packs,
            settler=self._settler,
            recorder=metrics,
            again=self._hand_out,
            leave=self._leave,
        )
        self._feed = Feed(
            settings.run,
            run_id=self.run_id,
            journal=journal,
            packs=self._packs,
            open_jobs=self._open,
            tally=self._tally,
            twins=self._twins,
            reconciler=self._reconciler,
            deliveries=metrics,
            ready=self._hand_out,
        )
        self._deliver = Deliver(
            settings,
            client=client,
            retrying=retrying,
            journal=journal,
            packs=self._packs,
            open_jobs=self._open,
            twins=self._twins,
            solitude=Solitude(),
            memory=MemoryBudget(settings.images.max_memory_bytes),
            settler=self._settler,
            reconciler=self._reconciler,
            traffic=traffic,
            recorder=metrics,
            sleep=stop.sleep,
            is_outage=lambda: gates[Lane.API].breaker.is_open,
        )
        metrics.watch_jobs(
            in_flight=lambda: self._busy,
            backlog=lambda: self._tally.pending,
            oldest_pending_unix_s=self._oldest_pending,
            imbalance=lambda: self._tally.pending - self._open.waiting_deliveries,
        )

    async def run(self, sources: Sequence[Source]) -> Summary:
        """Drain `sources`, or without any continue what the journal has pending; then end.

        Every `StopError` ends in the summary. Anything else is a bug and comes out, after the journal was closed as
        well as it can be.
        """
        opening = await self._journal.begin(self.run_id, key_id=self._credentials.public_id, pid=os.getpid())
        try:
            await self._run(sources, opening)
        except BaseException as problem:
            if (reason := _stop_error(problem)) is None:
                await self._close(70)
                raise
            self.stop.because(reason)
        return await self._close(self._exit_code(sources))

    def snapshot(self) -> Snapshot:
        """How the run stands."""
        return Snapshot(
            run_id=self.run_id,
            phase=self._phase,
            discovered=self._tally.discovered,
            outcomes=dict(self._tally.outcomes),
            unchanged=self._tally.unchanged,
            pending=self._tally.pending,
            in_hand=self._busy,
            parked=self._reconciler.parked_count,
            audits=self._reconciler.audit_count,
            next_check_in_s=self._reconciler.due_in_s,
            bytes_uploaded=self._traffic.bytes_uploaded,
            requests=self._traffic.requests,
            retries=self._retrying.retries,
            throttled=self._traffic.throttled,
            elapsed_s=time.monotonic() - self._started,
            lanes={lane: _lane_status(gate) for lane, gate in self._gates.items()},
        )

    def summary(self, exit_code: int) -> Summary:
        """What the run has done so far."""
        outcomes = self._tally.outcomes
        return Summary(
            run_id=self.run_id,
            discovered=self._tally.discovered,
            added=outcomes[Outcome.ADDED],
            duplicate=outcomes[Outcome.DUPLICATE],
            unchanged=self._tally.unchanged,
            rejected=outcomes[Outcome.REJECTED],
            failed=outcomes[Outcome.FAILED],
            pending=self._tally.pending,
            bytes_uploaded=self._traffic.bytes_uploaded,
            requests=self._traffic.requests,
            retries=self._retrying.retries,
            throttled=self._traffic.throttled,
            duration_s=round(time.monotonic() - self._started, 3),
            exit_code=exit_code,
            error=self._error(exit_code),
        )

    # The phases.

    async def _run(self, sources: Sequence[Source], opening: Opening) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._settler.run)
            tasks.start_soon(self._watch)
            self._take_over(opening)
            with self.stop.interrupts():
                await self._find_pack(opening, is_needed=bool(sources))
                # Only now: a key of another scope must not look for the packs of the last one.
                tasks.start_soon(self._reconciler.run)
                for _ in range(self._workers):
                    tasks.start_soon(self._worker)
                self._phase = Phase.RUNNING
                await self._take_in(sources)
                self._phase = Phase.CHECKING
                await self._open.none_left()
                await self._reconciler.nothing_owed()
            if self.stop.is_requested:
                await self._drain()
            with anyio.move_on_after(FLUSH_TIMEOUT_S):
                await self._settler.flushed()
            tasks.cancel_scope.cancel()

    def _take_over(self, opening: Opening) -> None:
        if opening.key_id not in {None, self._credentials.public_id}:
            self._packs.key_has_changed(opening.packs)
        for record in opening.parked:
            work = Work(record=record)
            self._open.open(work)
            if record.fingerprint is not None:
                self._twins.claim(work, record.fingerprint)
            self._reconciler.park(work)
        self._reconciler.inherit(opening.audits)

    async def _find_pack(self, opening: Opening, *, is_needed: bool) -> None:
        named = self._settings.run.pack
        if named is None or not is_needed:
            return
        try:
            self.pack = await self._packs.resolve(named, create=self._settings.run.create_pack)
        except Stopped:
            return
        except Fatal:
            return  # the guard has told why the run ends
        if self.pack.image_count and self.pack.pack_id not in opening.packs:
            text = (
                f"{self.pack.name!r} holds {self.pack.image_count} images that this journal has never seen; "
                "copies of them can't be recognised."
            )
            log.info("pack.unseen", pack_id=self.pack.pack_id, images=self.pack.image_count)
            if self._on_notice is not None:
                self._on_notice(text)

    async def _take_in(self, sources: Sequence[Source]) -> None:
        try:
            for source in sources:
                try:
                    await self._feed.take(source)
                finally:
                    self._unreadable += source.report.unreadable_count
            if not sources:
                await self._feed.resume()
        except (Stopped, Fatal):
            await self.stop.requested.wait()

    async def _drain(self) -> None:
        """Finish what workers have in hand, as far as the drain timeout and a second signal allow."""
        self._phase = Phase.DRAINING
        with anyio.move_on_after(self._settings.flow.drain_timeout_s):
            async with anyio.create_task_group() as tasks:

                async def hurry() -> None:
                    await self.stop.hurried.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(hurry)
                while self._busy:
                    await self._was_idle.wait()
                tasks.cancel_scope.cancel()

    async def _close(self, exit_code: int) -> Summary:
        self._phase = Phase.ENDED
        self._send.close()
        self._receive.close()
        summary = self.summary(exit_code)
        with anyio.CancelScope(shield=True), anyio.move_on_after(FLUSH_TIMEOUT_S):
            for work in self._open:
                for naming in work.namings:
                    await naming.delivery.release()
                    self._metrics.delivery(naming.source, "released")
            try:
                await self._journal.end(self.run_id, summary)
            except StopError as error:
                # Nothing durable is lost: what was claimed is freed when the journal is opened next.
                self.stop.because(error)
                summary = self.summary(self.stop.exit_code or exit_code)
        self._metrics.run_completed(time.time(), summary.exit_code)
        log.info("run.ended", **{name: getattr(summary, name) for name in _TOLD})
        return summary

    # What runs beside the intake.

    async def _hand_out(self, work: Work) -> None:
        """Give a job to the workers; while the run stops it stays where the journal has it."""
        if not self.stop.is_requested:
            await self._send.send(work)

    async def _leave(self, work: Work) -> None:
        """Leave a parked job to a later run; whoever waited for it takes its own turn."""
        self._open.leave(work)
        for twin in self._twins.end(work, work.record.fingerprint):
            await self._hand_out(twin)

    async def _worker(self) -> None:
        while True:
            work = await self._receive.receive()
            if self.stop.is_requested:
                continue
            self._busy += 1
            try:
                await self._deliver(work)
            finally:
                self._busy -= 1
                if not self._busy:
                    self._was_idle.set()
                    self._was_idle = anyio.Event()

    async def _watch(self) -> None:
        """Give up when a lane has been silent for too long."""
        limit_s = self._settings.flow.give_up_after_s
        if limit_s is None:
            return
        while True:
            await anyio.sleep(min(WATCH_S, limit_s / 4))
            for gate in self._gates.values():
                since = gate.breaker.silent_since
                if since is not None and time.monotonic() - since > limit_s:
                    place = "The API" if gate.lane is Lane.API else "The storage"
                    self.stop.because(
                        GaveUp(
                            f"{place} has not answered well for {limit_s:.0f} s: {gate.last_failure or 'no answer'}.",
                            code="unreachable",
                            hint="Nothing is lost: run the same command again to continue.",
                        )
                    )
                    return

    def _settled(self, settlement: Settlement) -> None:
        if self._on_settled is not None:
            self._on_settled(settlement)
        limit = self._settings.run.max_rejected
        if limit is not None and self._tally.outcomes[Outcome.REJECTED] >= limit and not self.stop.is_requested:
            self.stop.because(
                TooManyRejected(
                    f"{limit} images were rejected, as many as --max-rejected allows.",
                    code="max_rejected",
                    hint="See `ingest failures` for the reasons.",
                )
            )

    # The end.

    def _exit_code(self, sources: Sequence[Source]) -> int:
        if self.stop.exit_code is not None:
            return self.stop.exit_code
        if sources and not self._tally.discovered and not self._unreadable and not self._settings.run.allow_empty:
            self.stop.because(
                UsageError(
                    "No image was found.",
                    code="no_images",
                    hint="Check the path, or say --allow-empty if that is as it should be.",
                )
            )
            return 2
        if self._tally.pending:
            self.stop.because(
                GaveUp(
                    f"{self._tally.pending} jobs wait for a pack that this key can't see.",
                    code="out_of_sight",
                    hint="Run again with the key that added them.",
                )
            )
            return 75
        outcomes = self._tally.outcomes
        return 1 if outcomes[Outcome.REJECTED] or outcomes[Outcome.FAILED] or self._unreadable else 0

    def _error(self, exit_code: int) -> SummaryError | None:
        if exit_code == 70:
            return SummaryError(code="bug", message="A bug stopped the run.", hint="Please report the traceback.")
        if self.stop.error is None and self._unreadable:
            return SummaryError(
                code="unreadable",
                message=f"{self._unreadable} places could not be looked into; images may be missing.",
                hint="Mend their permissions and run the same command again.",
            )
        return self.stop.error

    def _oldest_pending(self) -> float | None:
        return next((work.record.admitted_at for work in self._open), None)


_TOLD: Final = tuple(name for name in Summary.__dataclass_fields__ if name != "error")


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
    )


def _stop_error(problem: BaseException) -> StopError | None:
    """The reason for which a run ended, out of whatever its tasks raised; None for a bug or a cancellation."""
    if isinstance(problem, StopError):
        return problem
    if isinstance(problem, BaseExceptionGroup):
        reasons = [_stop_error(member) for member in problem.exceptions]
        known = [reason for reason in reasons if reason is not None]
        return known[0] if len(known) == len(reasons) and known else None
    return None
