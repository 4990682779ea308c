"""From a source's deliveries to claimed jobs: admitted in batches, handed on one by one, no faster than they are taken.

What an earlier run put into its pack, a source may learn here in bulk; it is counted by that and never delivered. Opens
no image and sends nothing but the lookup of a pack's name.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import anyio.lowlevel

from ingest.errors import Fatal, PackUnusable, StopError
from ingest.journal.records import Candidate, Claimed, Joined, Known
from ingest.model import Job, JobId, Occasion, Outcome, is_url
from ingest.observe.recorders import QUEUE_KINDS
from ingest.pipeline.stop import Stopped
from ingest.pipeline.work import RELEASE_TIMEOUT_S, SUSPECT_DEATHS, Naming, Work, acknowledge, release
from ingest.policy.urls import name_in
from ingest.sources.base import Delivery, NoJob, RefusingSource, SkimmingSource
from ingest.sources.keys import key_of, locator_of
from ingest.sources.selection import file_name, sendable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from ingest.journal.base import Journal, JournalRecall
    from ingest.journal.records import Admission, Record
    from ingest.model import RunId, Stretch
    from ingest.observe.recorders import DeliveryRecorder
    from ingest.pipeline.packs import Packs
    from ingest.pipeline.reconcile import Reconciler
    from ingest.pipeline.refuse import Refuser
    from ingest.pipeline.twins import Twins
    from ingest.pipeline.work import OpenJobs, Tally
    from ingest.settings import RunSettings
    from ingest.sources.base import Source

__all__ = ["Feed", "Opened"]

Opened: TypeAlias = "tuple[Source, AsyncIterator[Sequence[Delivery]]]"

RESUME_BATCH: Final = 256

NAMELESS: Final = "image"
# What the API calls an image without a file name (API.md, Details).

TURN: Final = 64
# Deliveries of one source before it is another one's turn: as many share a commit at no more than the cost of one.

SUSPECTS_WAIT_S: Final = 30.0
# Where sources have no end, what may kill the process can't wait for it: so long, the rest goes first.


class Feed:
    """Takes sources, one after another or in turns. `ready` hands a job on and waits while all workers are busy."""

    def __init__(
        self,
        settings: RunSettings,
        *,
        run_id: RunId,
        journal: Journal,
        recall: JournalRecall,
        refuser: Refuser,
        packs: Packs,
        open_jobs: OpenJobs,
        tally: Tally,
        twins: Twins,
        reconciler: Reconciler,
        deliveries: DeliveryRecorder,
        key_id: Callable[[], str],
        ready: Callable[[Work], Awaitable[None]],
        uncut: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._settings = settings
        self._run_id = run_id
        self._journal = journal
        self._recall = recall
        self._refuser = refuser
        self._packs = packs
        self._open = open_jobs
        self._tally = tally
        self._twins = twins
        self._reconciler = reconciler
        self._deliveries = deliveries
        self._key_id = key_id
        self._ready = ready
        self._uncut = uncut
        self._claimed = 0
        self._has_packs = False  # some job had one
        self._turn = anyio.Lock()
        self._turn_size: int | None = None
        self._suspects: deque[Work] = deque()  # bounded by the open jobs

    @property
    def is_full(self) -> bool:
        """Whether as many jobs were claimed as the user wants."""
        return self._settings.limit is not None and self._claimed >= self._settings.limit

    @contextlib.asynccontextmanager
    async def opened(self, sources: Sequence[Source]) -> AsyncIterator[Sequence[Opened]]:
        """Open all of `sources` before the first is read, so that nothing is sent where one of them can't be.

        They are left when every delivery of theirs has ended: a queue is told so by the source that it came from.
        Raises their errors.
        """
        async with contextlib.AsyncExitStack() as stack:
            yield [(source, await stack.enter_async_context(self._opened(source))) for source in sources]

    async def take(self, opened: Sequence[Opened], *, in_turns: bool = False) -> None:
        """Admit everything that these name, up to the limit: one after another, or for those without end in turns.

        What is no job is refused, and costs no other. Raises the journal's errors.
        """
        if in_turns:
            await self._take_in_turns(opened)
            return
        for source, batches in opened:
            if self.is_full:  # asking for a batch may take for ever
                break
            is_over = await self._take_batches(source, batches)
            if is_over and isinstance(source, RefusingSource) and not source.report.unreadable_count:
                await self._refuser.read_to_the_end(source)

    async def _take_in_turns(self, opened: Sequence[Opened]) -> None:
        """Read all at once; they admit and hand out by turns, in the order in which they ask, each in its own order."""
        ended: list[Exception] = []
        self._turn_size = TURN
        async with anyio.create_task_group() as tasks:

            async def read(source: Source, batches: AsyncIterator[Sequence[Delivery]]) -> None:
                try:
                    await self._take_batches(source, batches)
                except (Stopped, Fatal, StopError) as error:  # raised below, in no group
                    ended.append(error)
                if ended or self.is_full:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(self._release_suspects)
            async with anyio.create_task_group() as readers:
                for source, batches in opened:
                    readers.start_soon(read, source, batches)
            tasks.cancel_scope.cancel()
        if ended:
            raise ended[0]

    def _opened(self, source: Source) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        if isinstance(source, SkimmingSource) and self._settings.pack is not None:
            return source.skim(functools.partial(self._recognise, source.name, self._settings.pack))
        return source.open()

    async def _recognise(
        self, name: str, pack_name: str, stretches: Sequence[Stretch], occasion: Occasion = Occasion.FIRST
    ) -> Sequence[Set[str]]:
        """See `sources.base.Recognise`. What it names is settled by that: discovered, counted, acknowledged."""
        pack = await self._packs.resolve(pack_name, create=self._settings.create_pack)
        known = await self._recall.unchanged(pack.pack_id, stretches, key_id=self._key_id())
        if (count := sum(map(len, known))) and occasion is Occasion.FIRST:
            self._tally.recognise(count)
            self._deliveries.delivery(name, "acknowledged", count)
        return known

    async def _take_batches(self, source: Source, batches: AsyncIterator[Sequence[Delivery]]) -> bool:
        """Whether the source came to its end, before the limit was reached."""
        origin = source.origin if isinstance(source, RefusingSource) else source.name
        async for batch in batches:
            unnamed = deque(Naming(delivery, source.name, origin) for delivery in batch)
            try:
                while unnamed and not self.is_full:
                    async with self._turn:
                        await self._admit(unnamed, self._turn_size or len(unnamed))
            finally:
                with anyio.move_on_after(RELEASE_TIMEOUT_S, shield=True):
                    for naming in unnamed:
                        await release(naming, self._deliveries)
            if source.name in QUEUE_KINDS:
                # A queue hands over no more than its prefetch, and may have no end: nothing comes while these wait.
                await self.hand_out_suspects()
            if self.is_full:
                return False
        return True

    async def resume(self) -> None:
        """Continue what earlier runs left pending, as if a source had named it."""
        for work in self._open:
            self._name(work, Naming(Delivery(job=_job_of(work.record)), "other"))
        last = JobId(0)
        while True:
            with self._uncut():
                records = await self._journal.resume(self._run_id, after=last, limit=self._room(RESUME_BATCH))
                claimed = [self._claim(record, Naming(Delivery(job=_job_of(record)), "other")) for record in records]
            if not claimed:
                return
            last = claimed[-1].record.job_id
            await self._hand_out(claimed)
            if self.is_full:
                return
            await self._room_to_admit()

    async def _release_suspects(self) -> None:
        while True:
            await anyio.sleep(SUSPECTS_WAIT_S)
            async with self._turn:
                await self.hand_out_suspects()

    async def hand_out_suspects(self) -> None:
        """Hand out what may have killed earlier processes: last, so that the rest is done before one of them does."""
        while self._suspects:
            await self._ready(self._suspects.popleft())

    async def _admit(self, unnamed: deque[Naming], most: int) -> None:
        """Admit so many of a batch, taking each delivery off it as its job is known to the run."""
        end = max(0, len(unnamed) - most)
        while len(unnamed) > end and not self.is_full:
            await self._room_to_admit()
            batch = list(itertools.islice(unnamed, self._room(len(unnamed) - end)))
            read = [(naming, await self._read(naming.delivery)) for naming in batch]
            jobs = [(naming, job) for naming, job in read if not isinstance(job, NoJob)]
            claimed: list[Work] = []
            with self._uncut():  # what the journal has admitted or refused, the run counts
                await self._refuse([(naming, job) for naming, job in read if isinstance(job, NoJob)], unnamed)
                admissions = await self._journal.admit(self._run_id, [candidate for _, candidate in jobs])
                # All are the run's before the first is handed out, which may take as long as the job before it.
                for (naming, candidate), admission in zip(jobs, admissions, strict=True):
                    if (work := await self._take(naming, candidate, admission)) is not None:
                        claimed.append(work)
                    unnamed.popleft()
            await anyio.lowlevel.checkpoint_if_cancelled()  # too many may be refused, and the journal need not suspend
            await self._hand_out(claimed)

    async def _refuse(self, refused: Sequence[tuple[Naming, NoJob]], unnamed: deque[Naming]) -> None:
        """See each that is no job through to its acknowledgement, and take it off the rest."""
        are_news = await self._refuser.record(refused) if refused else ()
        for (naming, no_job), is_news in zip(refused, are_news, strict=True):
            await self._refuser.tell(naming, no_job, is_news=is_news)
            del unnamed[next(at for at, other in enumerate(unnamed) if other is naming)]

    async def _hand_out(self, claimed: Sequence[Work]) -> None:
        self._suspects.extend(work for work in claimed if work.record.deaths >= SUSPECT_DEATHS)
        for work in claimed:
            if work.record.deaths < SUSPECT_DEATHS:
                await self._ready(work)

    async def _take(self, naming: Naming, candidate: Candidate, admission: Admission) -> Work | None:
        """Make a delivery's job the run's; the job, if it is claimed by that."""
        open_work = self._open.get(admission.record.job_id)
        if open_work is not None and open_work.is_ending:
            # It has the outcome of an earlier turn, and this one begins when that is told.
            await self._open.closed(open_work)
            open_work = None
        if isinstance(admission, Joined) and open_work is None:
            # `failed` with a url and tried again, or settled since: asked once more, the journal tells which.
            (admission,) = await self._journal.admit(self._run_id, [candidate])
        match admission:
            case Claimed(record=record):
                return self._claim(record, naming)
            case Joined(record=record):
                self._join(record, naming)
            case Known(outcome=outcome):
                await self._skip(naming, outcome, admission.record)
        return None

    async def _room_to_admit(self) -> None:
        if self._open.is_full:
            await self.hand_out_suspects()  # nothing else might ever end
        await self._open.room()

    def _room(self, wanted: int) -> int:
        """How many may be admitted at once without passing the limit."""
        return wanted if self._settings.limit is None else min(wanted, self._settings.limit - self._claimed)

    async def _read(self, delivery: Delivery) -> Candidate | NoJob:
        """The delivery's job on its way into the journal, or what is wrong with it."""
        job = delivery.job
        if isinstance(job, NoJob):
            return job
        try:
            candidate = await self._candidate(delivery, job)
        except PackUnusable as error:
            # Of a row that names a pack, or had to, the row is wrong; but where no job had a pack yet, the command is.
            is_of_the_row = job.pack is not None or (self._settings.pack is None and self._has_packs)
            if delivery.place is None or not is_of_the_row:
                raise
            return NoJob(place=delivery.place, reason=error.code, detail=str(error))
        self._has_packs = True
        return candidate

    async def _candidate(self, delivery: Delivery, job: Job) -> Candidate:
        named = job.pack or self._settings.pack
        if named is None:
            raise PackUnusable(
                "No pack is named: not by the job, nor by the run.",
                code="no_pack",
                hint="Name one with --pack ID or NAME, or in each row of a manifest.",
            )
        pack = await self._packs.resolve(named, create=self._settings.create_pack)
        last = sendable(name_in(job.image) or NAMELESS) if is_url(job.image) else file_name(job.image)
        return Candidate(
            key=key_of(job),
            pack_id=pack.pack_id,
            locator=locator_of(job.image),
            file_name=sendable(job.file_name) if job.file_name else last,
            stamp=None if is_url(job.image) else delivery.stamp,
            key_id=self._key_id(),
            occasion=delivery.occasion,
        )

    def _claim(self, record: Record, naming: Naming) -> Work:
        self._claimed += 1
        work = Work(record=record)
        self._open.open(work)
        self._name(work, naming)
        return work

    def _join(self, record: Record, naming: Naming) -> None:
        work = self._open.get(record.job_id)
        if work is None:
            # It was `failed` with a url, and is tried again from its lookup on.
            self._claimed += 1
            work = Work(record=record)
            self._open.open(work)
            if record.fingerprint is not None:
                self._twins.claim(work, record.fingerprint)
            self._reconciler.park(work)
        self._name(work, naming)

    def _name(self, work: Work, naming: Naming) -> None:
        if work.namings and naming.delivery.occasion is not Occasion.FIRST:
            return  # it was counted then, and its outcome is waited for
        work.namings.append(naming)
        self._tally.discover()

    async def _skip(self, naming: Naming, outcome: Outcome, record: Record) -> None:
        if naming.delivery.occasion is not Occasion.FIRST:
            return  # it was counted when it was named first
        self._tally.discover()
        self._tally.skip(outcome, is_unchanged=outcome is Outcome.DUPLICATE and naming.delivery.stamp is not None)
        await acknowledge(naming, outcome, record.reason, self._deliveries)


def _job_of(record: Record) -> Job:
    return Job(image=record.locator, pack=record.pack_id, file_name=record.file_name)
