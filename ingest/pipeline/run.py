"""One run from its beginning in the journal to its summary: who runs beside whom, and in which order they end.

Phases: open, intake, drain, flush, close. What happens to a single job is in `deliver`; what stops a run, in `stop`;
who is made of what, in `assemble`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from ingest.errors import BUG_EXIT_CODE, Fatal, GaveUp, StopError
from ingest.model import Lane, RunId, Summary
from ingest.observe.logging import get_logger
from ingest.observe.status import Phase
from ingest.pipeline.gate import NAMES
from ingest.pipeline.stop import Stopped
from ingest.pipeline.work import RELEASE_TIMEOUT_S, Work, release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.api.credentials import Credentials
    from ingest.journal.base import Journal
    from ingest.journal.records import Opening
    from ingest.observe.recorders import DeliveryRecorder, RunRecorder
    from ingest.observe.status import Snapshot
    from ingest.pipeline.account import Account
    from ingest.pipeline.deliver import Deliver
    from ingest.pipeline.feed import Feed, Opened
    from ingest.pipeline.packs import Packs, ResolvedPack
    from ingest.pipeline.settle import Settler
    from ingest.pipeline.twins import Twins
    from ingest.settings import Settings
    from ingest.sources.base import Source

__all__ = ["Pipeline", "new_run_id"]

log = get_logger("pipeline")

WATCH_S: Final = 1.0

FLUSH_TIMEOUT_S: Final = 30.0
# What is left after the drain is one commit; a disk that needs longer is stuck.


def new_run_id() -> RunId:
    """A name for a run that sorts by its start and is short enough to type."""
    return RunId(f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")


class Pipeline:
    """One run. Made by `assemble`; `run` it once. `pack` is the run's own pack, once it was looked up."""

    def __init__(
        self,
        settings: Settings,
        *,
        journal: Journal,
        credentials: Credentials,
        account: Account,
        packs: Packs,
        twins: Twins,
        settler: Settler,
        feed: Feed,
        deliver: Deliver,
        deliveries: DeliveryRecorder,
        recorder: RunRecorder,
    ) -> None:
        self.run_id = account.run_id
        self.stop = account.stop
        self.pack: ResolvedPack | None = None
        self._settings = settings
        self._journal = journal
        self._credentials = credentials
        self._account = account
        self._open = account.open_jobs
        self._workers = account.workers
        self._reconciler = account.reconciler
        self._packs = packs
        self._twins = twins
        self._settler = settler
        self._feed = feed
        self._deliver = deliver
        self._deliveries = deliveries
        self._recorder = recorder

    async def run(self, sources: Sequence[Source]) -> Summary:
        """Drain `sources`, or without any continue what the journal has pending; then end.

        Every `StopError` ends in the summary. Any other error is a bug and comes out, after the journal was closed as
        well as it can be. A cancellation puts claims back as a signal does, but waits for nothing that is in hand.
        """
        return await self._whole(sources, is_resuming=not sources)

    async def pay_debts(self) -> Summary:
        """Look up what is parked and audit what is due, as every run does, and take nothing else; end like `run`."""
        return await self._whole((), is_resuming=False)

    async def _whole(self, sources: Sequence[Source], *, is_resuming: bool) -> Summary:
        opening = await self._journal.begin(self.run_id, key_id=self._credentials.public_id, pid=os.getpid())
        # Sources are left last: what is acknowledged or released at the very end is told by them.
        async with contextlib.AsyncExitStack() as held:
            try:
                opened = await held.enter_async_context(self._feed.opened(sources))
                await self._run(opened, opening, is_resuming=is_resuming)
            except BaseException as problem:
                if isinstance(problem, Exception) and (reason := _stop_error(problem)) is not None:
                    self.stop.because(reason)
                elif isinstance(problem, Exception):
                    await self._close(BUG_EXIT_CODE)
                    raise
                else:
                    self.stop.because(GaveUp("The run was cancelled.", code="cancelled", hint="Run again to continue."))
                    await self._close(GaveUp.exit_code)
                    raise
            return await self._close(self._account.exit_code(sources, allow_empty=self._settings.run.allow_empty))

    def snapshot(self) -> Snapshot:
        """How the run stands."""
        return self._account.snapshot()

    def summary(self, exit_code: int) -> Summary:
        """What the run has done so far."""
        return self._account.summary(exit_code)

    # The phases.

    async def _run(self, opened: Sequence[Opened], opening: Opening, *, is_resuming: bool) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._settler.run)
            tasks.start_soon(self._watch)
            self._take_over(opening)
            async with self._workers.running(self._deliver):
                with self.stop.interrupts():
                    await self._find_pack(opening, is_needed=bool(opened))
                    # Only after that: a key of another scope must not look for the packs of the last one.
                    tasks.start_soon(self._reconciler.run)
                    self._account.phase = Phase.RUNNING
                    await self._take_in(opened, is_resuming=is_resuming)
                    self._account.phase = Phase.CHECKING
                    await self._open.none_left()
                    await self._reconciler.nothing_owed()
                if self.stop.is_requested:
                    await self._drain()
            with anyio.move_on_after(FLUSH_TIMEOUT_S):
                await self._settler.flushed()
            tasks.cancel_scope.cancel()

    def _take_over(self, opening: Opening) -> None:
        """The debts of earlier runs become this one's."""
        self._packs.remember(opening.packs)
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
        except (Stopped, Fatal):
            return  # whoever raised it has told why the run ends
        if self.pack.image_count and self.pack.pack_id not in opening.packs:
            log.warning(
                "pack.unseen",
                pack_id=self.pack.pack_id,
                message=f"{self.pack.name!r} holds {self.pack.image_count} images that this journal has never seen; "
                "copies of them can't be recognised.",
            )

    async def _take_in(self, opened: Sequence[Opened], *, is_resuming: bool) -> None:
        try:
            try:
                await self._feed.take(opened, in_turns=self._settings.run.is_endless)
            finally:
                self._account.unreadable = sum(source.report.unreadable_count for source, _ in opened)
            if is_resuming:
                await self._feed.resume()
            await self._feed.hand_out_suspects()
        except (Stopped, Fatal):
            await self.stop.requested.wait()
        except StopError as error:
            self.stop.because(error)  # what is in hand is finished all the same

    async def _drain(self) -> None:
        """Finish what workers have in hand, as far as the drain timeout and a second signal allow."""
        self._account.phase = Phase.DRAINING
        with anyio.move_on_after(self._settings.flow.drain_timeout_s):
            async with anyio.create_task_group() as tasks:

                async def hurry() -> None:
                    await self.stop.hurried.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(hurry)
                await self._workers.idle()
                tasks.cancel_scope.cancel()
        # Whoever still waits at a gate has sent nothing, and says so in the journal before it is cancelled.
        for gate in self._account.gates.values():
            gate.shut(Stopped())
        await anyio.lowlevel.checkpoint()

    async def _close(self, exit_code: int) -> Summary:
        self._account.phase = Phase.ENDED
        summary = self.summary(exit_code)
        with anyio.move_on_after(FLUSH_TIMEOUT_S, shield=True):
            try:
                await self._journal.end(self.run_id, summary)
            except StopError as error:
                # Nothing durable is lost: what was claimed is freed when the journal is opened next.
                self.stop.because(error)
                summary = self.summary(self.stop.exit_code or exit_code)
        with anyio.move_on_after(RELEASE_TIMEOUT_S, shield=True):
            for work in self._open:
                for naming in work.namings:
                    await release(naming, self._deliveries)
        self._recorder.run_completed(time.time(), summary.exit_code)
        log.info("run.ended", **{name: getattr(summary, name) for name in TOLD})
        return summary

    async def _watch(self) -> None:
        """Give up when a lane has been silent for too long; while a person is waited for, nothing is asked there.

        Only time in which the lane was asked for something counts: one that has nothing to do can't answer.
        """
        limit_s = self._settings.flow.give_up_after_s
        if limit_s is None:
            return
        gates = self._account.gates
        silent_s = dict.fromkeys(gates, 0.0)
        watched_at = time.monotonic()
        while True:
            await anyio.sleep(min(WATCH_S, limit_s / 4))
            now = time.monotonic()
            passed_s, watched_at = now - watched_at, now
            if gates[Lane.API].refusal is not None:
                silent_s = dict.fromkeys(gates, 0.0)
                continue
            for lane, gate in gates.items():
                since = gate.breaker.silent_since
                if since is None:
                    silent_s[lane] = 0.0
                elif gate.is_wanted or (lane is Lane.API and self._reconciler.is_backing_off):
                    silent_s[lane] = min(silent_s[lane] + passed_s, now - since)
                if silent_s[lane] > limit_s:
                    last = gate.last_failure or "no answer"
                    self.stop.because(
                        GaveUp(
                            f"The {NAMES[lane]} has not answered well for {limit_s:.0f} s: {last}.",
                            code="unreachable",
                            hint="Nothing is lost: run the same command again to continue.",
                        )
                    )
                    return


TOLD: Final = tuple(name for name in Summary.__dataclass_fields__ if name != "error")


def _stop_error(problem: BaseException) -> StopError | None:
    """The reason for which a run ended, out of whatever its tasks raised; None for a bug or a cancellation."""
    if isinstance(problem, StopError):
        return problem
    if isinstance(problem, BaseExceptionGroup):
        reasons = [_stop_error(member) for member in problem.exceptions]
        known = [reason for reason in reasons if reason is not None]
        return known[0] if len(known) == len(reasons) and known else None
    return None
