"""What is owed: lookups for adds whose effect is unknown, and audits of urls that were added more than once.

One read of a pack serves all its debts (DESIGN §3, steps 6 and 7). Adds nothing itself: what a settled lookup did not
find goes back to the workers. What is done about copies is `audit`'s.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import anyio

from ingest.errors import Fatal, Rejected, Retryable
from ingest.journal.changes import AuditClosed
from ingest.model import Outcome
from ingest.observe.logging import get_logger
from ingest.pipeline.audit import Auditor
from ingest.pipeline.debts import Debts, OwedAudit, names_of
from ingest.pipeline.packs import PACK_GONE, Sight
from ingest.pipeline.pulse import Pulse
from ingest.pipeline.retry import Once
from ingest.pipeline.stop import Stopped
from ingest.policy.lifecycle import State
from ingest.policy.retry import backoff_s
from ingest.policy.spelling import canonical

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from ingest.api.client import PacksClient
    from ingest.api.messages import PackScan
    from ingest.errors import RequestError
    from ingest.journal.base import Journal
    from ingest.journal.records import Record
    from ingest.model import JobId, PackId
    from ingest.observe.recorders import JobRecorder
    from ingest.pipeline.packs import Packs
    from ingest.pipeline.retry import Retrying
    from ingest.pipeline.settle import Settler
    from ingest.pipeline.twins import Twins
    from ingest.pipeline.work import OpenJobs, Work
    from ingest.settings import FlowSettings

__all__ = ["Reconciler"]

log = get_logger("pipeline")

READ_SPACING: Final = 10.0
# Between two reads of one pack lie at least ten times their duration: a pack is answered whole, however large.

UNVERIFIABLE: Final = (
    "its pack holds this URL, and with --duplicates allow nothing tells whether by this add: it is not added again"
)


class Reconciler:
    """Pays the debts of every pack, one read at a time. `again` hands a job back to the workers."""

    def __init__(
        self,
        settings: FlowSettings,
        *,
        client: PacksClient,
        retrying: Retrying,
        journal: Journal,
        packs: Packs,
        settler: Settler,
        recorder: JobRecorder,
        open_jobs: OpenJobs,
        twins: Twins,
        again: Callable[[Work], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._client = client
        self._retrying = retrying
        self._journal = journal
        self._packs = packs
        self._settler = settler
        self._recorder = recorder
        self._again = again
        self._open = open_jobs
        self._twins = twins
        self._auditor = Auditor(client=client, retrying=retrying, journal=journal, settler=settler, open_jobs=open_jobs)
        self._debts: dict[PackId, Debts] = {}
        self._changed = Pulse()
        self._left = 0  # jobs and audits of packs out of sight

    @property
    def unpaid(self) -> int:
        """Debts that this run can't pay: the journal keeps them."""
        return self._left + self._auditor.unpaid

    @property
    def parked_count(self) -> int:
        """Jobs that wait for a lookup."""
        return sum(len(debts.parked) for debts in self._debts.values())

    @property
    def audit_count(self) -> int:
        """Audits that are open."""
        return sum(len(debts.audits) + len(debts.unended) for debts in self._debts.values())

    @property
    def is_backing_off(self) -> bool:
        """Whether a read that failed, or a delete, waits to be sent again."""
        return any(debts.failures and (debts.parked or debts.audits) for debts in self._debts.values())

    @property
    def due_in_s(self) -> float:
        """Seconds until the next read; infinite where nothing is owed."""
        return max(0.0, self._next_due()[1] - time.monotonic())

    def park(self, work: Work) -> None:
        """An add of this job has just ended, or ended in an earlier process, and its effect is unknown."""
        self._of(work.record.pack_id).parked[work.record.job_id] = (work, time.monotonic())
        self._changed.beat()

    def owe_audit(self, work: Work) -> None:
        """Another add of this job's url is about to be sent."""
        debts = self._of(work.record.pack_id)
        debts.audits.pop(work.record.job_id, None)
        debts.unended.add(work.record.job_id)

    def add_ended(self, work: Work) -> None:
        """An add of this job has ended: its audit, if it owes one, is due a settle delay from now."""
        debts = self._of(work.record.pack_id)
        if work.record.job_id in debts.unended:
            debts.unended.remove(work.record.job_id)
            debts.audits[work.record.job_id] = OwedAudit(record=work.record, since=time.monotonic())
            self._changed.beat()

    def inherit(self, audits: Iterable[Record]) -> None:
        """Audits that earlier runs left open: their adds ended before this moment."""
        for record in audits:
            self._of(record.pack_id).audits[record.job_id] = OwedAudit(record=record, since=time.monotonic())
        self._changed.beat()

    async def nothing_owed(self) -> None:
        """Wait until every debt is paid."""
        while self.parked_count or self.audit_count:
            await self._changed.wait()

    async def run(self) -> None:
        """Read packs as their debts fall due, until the gates are shut: what is owed then stays in the journal."""
        with contextlib.suppress(Stopped):
            while True:
                pack_id, due_at = self._next_due()
                with anyio.move_on_after(due_at - time.monotonic()):
                    await self._changed.wait()
                    continue
                # A loop may wake a moment early, and a read that is begun too soon tells nothing.
                if pack_id is not None and time.monotonic() >= due_at:
                    await self._read(pack_id, self._debts[pack_id])
                    self._changed.beat()

    def _of(self, pack_id: PackId) -> Debts:
        return self._debts.setdefault(pack_id, Debts())

    def _next_due(self) -> tuple[PackId | None, float]:
        settle_delay_s = self._settings.settle_delay_s
        due = ((pack_id, debts.due_at(settle_delay_s)) for pack_id, debts in self._debts.items())
        return min(due, key=lambda item: item[1], default=(None, math.inf))

    async def _read(self, pack_id: PackId, debts: Debts) -> None:
        begun = time.monotonic()
        # The request may wait at its gate for longer than a settle delay: what is parked while it does is not looked
        # for, and that it is not found tells nothing.
        parked, audits = dict(debts.parked), dict(debts.audits)
        wanted = {
            url
            for record in (*(work.record for work, _ in parked.values()), *(audit.record for audit in audits.values()))
            for url in record.urls
        }
        try:
            scan = await self._retrying(lambda: self._client.scan_pack(pack_id, wanted), attempts=Once())
        except Fatal:
            debts.not_before = math.inf  # the run ends; the debts stay in the journal
            return
        except Retryable as error:
            self._back_off(pack_id, debts, error)
            return
        except Rejected:
            await self._pack_is_out_of_sight(pack_id, debts, begun)
            return
        debts.not_before = time.monotonic() + READ_SPACING * scan.duration_s
        log.debug(
            "pack.read",
            pack_id=pack_id,
            images=scan.image_count,
            parked=len(parked),
            audits=len(audits),
            duration_s=round(scan.duration_s, 3),
        )
        absent = await self._resolve_parked(debts, parked, scan)
        # Before anything is added again: for the add that comes now, this read tells nothing.
        await self._audit(pack_id, debts, audits, scan)
        for work in absent:
            await self._again(work)

    def _back_off(self, pack_id: PackId, debts: Debts, error: RequestError) -> None:
        debts.failures += 1
        delay_s = backoff_s(
            debts.failures,
            base_s=self._settings.backoff_base_s,
            cap_s=self._settings.backoff_cap_s,
            jitter=random.random(),  # noqa: S311 - jitter, not a secret
        )
        debts.not_before = max(debts.not_before, time.monotonic() + delay_s)
        log.info("lookup.failed", pack_id=pack_id, reason=error.reason, delay_s=round(delay_s, 3))

    async def _resolve_parked(
        self, debts: Debts, parked: Mapping[JobId, tuple[Work, float]], scan: PackScan
    ) -> Sequence[Work]:
        """Settle those that were found, and those whose attempts are used up; the others that are surely absent."""
        condemned = {image_id for work, _ in parked.values() for image_id in work.record.condemned}
        image_ids = {
            canonical(image.url): image.image_id for image in reversed(scan.found) if image.image_id not in condemned
        }
        missing: list[Work] = []
        for job_id, (work, ended_at) in parked.items():
            record = work.record
            names = map(canonical, names_of(record))
            image_id = next((image_ids[url] for url in names if url in image_ids), None)
            if image_id is not None:
                del debts.parked[job_id]
                await self._found(work, image_id)
            elif scan.began_at >= ended_at + self._settings.settle_delay_s:
                missing.append(work)
        judged = {work.record.job_id for work in missing}
        undecided = {
            work.record.fingerprint: ended_at
            for job_id, (work, ended_at) in debts.parked.items()
            if job_id not in judged and work.record.fingerprint is not None
        }
        absent: list[Work] = []
        for work in missing:
            if work.record.fingerprint in undecided:
                # An equal image may yet be found: this one is looked for again when that one is.
                debts.parked[work.record.job_id] = (work, undecided[work.record.fingerprint])
                continue
            del debts.parked[work.record.job_id]
            self._recorder.uncertain("absent")
            if work.record.attempts >= self._settings.max_attempts:
                self._settler.settle(work, Outcome.FAILED, reason=work.record.reason, detail="not in its pack")
            else:
                work.is_absent = True
                absent.append(work)
        return absent

    async def _found(self, work: Work, image_id: str) -> None:
        """The pack holds the job's image; of a caller's URL one copy is one job's only."""
        record = work.record
        if not record.is_verifiable:
            self._recorder.uncertain("unverifiable")
            self._settler.settle(work, Outcome.FAILED, reason="unverifiable", detail=UNVERIFIABLE)
            return
        self._recorder.uncertain("found")
        equal = None
        if not record.own_urls and record.fingerprint is not None:
            equal = await self._journal.find_equal(record, record.fingerprint)
        if equal is not None and equal.state is State.ADDED:
            self._settler.settle(work, Outcome.DUPLICATE, reason=f"equal_to:{equal.job_id}")
        else:
            self._settler.settle(work, Outcome.ADDED, image_id=image_id, was_found=True)

    async def _audit(self, pack_id: PackId, debts: Debts, audits: Mapping[JobId, OwedAudit], scan: PackScan) -> None:
        failure: RequestError | None = None
        places: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)  # in pack order
        for place, image in enumerate(scan.found):
            places[image.url].append((place, image.image_id))
        for job_id, owed in audits.items():
            if debts.audits.get(job_id) is not owed or scan.began_at < owed.since + self._settings.settle_delay_s:
                continue
            try:
                await self._auditor.pay(debts, owed, places)
            except Rejected as error:
                self._auditor.leave(debts, owed, reason=error.reason, error=str(error))
            except (Fatal, Retryable) as error:
                failure = error
        if failure is None:
            debts.failures = 0
        else:
            self._back_off(pack_id, debts, failure)

    async def _pack_is_out_of_sight(self, pack_id: PackId, debts: Debts, begun: float) -> None:
        """The pack answered 404.

        Where this key has filled it, it is gone, and its jobs are rejected. One that another key filled may lie in that
        one's scope: what is owed to it is left for a run with that key.
        """
        try:
            sight = await self._packs.sight(pack_id)
        except Fatal:
            debts.not_before = math.inf  # the run ends; the debts stay in the journal
            return
        except Retryable as error:
            self._back_off(pack_id, debts, error)
            return
        if sight is Sight.SEEN:
            debts.not_before = time.monotonic() + self._settings.backoff_cap_s
            return
        is_gone = sight is Sight.GONE
        for job_id, (work, ended_at) in list(debts.parked.items()):
            if not is_gone:
                self._left += 1
                self._open.leave(work)
                for twin in self._twins.end(work):
                    await self._again(twin)
            elif begun >= ended_at + self._settings.settle_delay_s:
                self._recorder.uncertain("gone")
                self._settler.settle(work, Outcome.REJECTED, reason="pack_gone", detail=PACK_GONE)
            else:
                continue
            del debts.parked[job_id]
        for job_id, audit in list(debts.audits.items()):
            if begun < audit.since + self._settings.settle_delay_s:
                continue
            if is_gone:
                self._settler.record(AuditClosed(job_id=job_id))  # a pack that is gone holds no copy
            else:
                self._left += 1
            del debts.audits[job_id]
