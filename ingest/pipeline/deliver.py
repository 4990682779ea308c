"""One job's way to its pack: inspect, upload, stored, add; a small function for each line of the protocol.

A URL that is added as it is needs no upload: it is checked, and looked for in its pack, instead. What the process may
die at is written beside each line. Lookups and audits are `reconcile`'s, the end is `settle`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from ingest.errors import (
    Fatal,
    ImageChanged,
    ImageRejected,
    ImageUnreadable,
    Rejected,
    Retryable,
    StopError,
    Uncertain,
)
from ingest.images.inspect import inspect
from ingest.journal.changes import Excused, Parked, Released, Resent, Stored, Tested
from ingest.journal.records import Inspection
from ingest.model import Outcome, is_url
from ingest.observe.logging import get_logger
from ingest.observe.text import shown
from ingest.pipeline.packs import PACK_GONE, Sight
from ingest.pipeline.retry import JobAttempts
from ingest.pipeline.stop import Stopped
from ingest.pipeline.work import SUSPECT_DEATHS
from ingest.policy.lifecycle import State
from ingest.policy.retry import backoff_s
from ingest.policy.urls import url_fingerprint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ingest.api.client import PacksClient
    from ingest.api.messages import AddedImage
    from ingest.images.inspect import Inspected
    from ingest.images.memory import MemoryBudget
    from ingest.journal.base import Journal
    from ingest.model import Fingerprint, PackId
    from ingest.pipeline.contents import Contents
    from ingest.pipeline.fetching import Fetching
    from ingest.pipeline.packs import Packs
    from ingest.pipeline.reconcile import Reconciler
    from ingest.pipeline.retry import Retrying
    from ingest.pipeline.settle import Settler
    from ingest.pipeline.solitude import Solitude
    from ingest.pipeline.twins import Twins
    from ingest.pipeline.upload import Upload
    from ingest.pipeline.work import OpenJobs, Work
    from ingest.settings import Settings

__all__ = ["Deliver"]

log = get_logger("pipeline")

MAX_LOOKS: Final = 6
# A file that changes at every look is being written; with the back-off between them six looks span 15 seconds.


class _PackGone(Exception):
    """The pack was deleted: the job is rejected without asking for it."""


class _PackHidden(Exception):
    """The pack may lie in another key's scope: the job waits for a run with that key."""


class Deliver:
    """Takes jobs as far as they go. Made once a run; called by many workers at once, each with another job."""

    def __init__(
        self,
        settings: Settings,
        *,
        client: PacksClient,
        retrying: Retrying,
        journal: Journal,
        packs: Packs,
        contents: Contents,
        open_jobs: OpenJobs,
        twins: Twins,
        solitude: Solitude,
        memory: MemoryBudget,
        settler: Settler,
        reconciler: Reconciler,
        fetching: Fetching,
        upload: Upload,
        sleep: Callable[[float], Awaitable[None]],
        again: Callable[[Work], Awaitable[None]],
        on_stop: Callable[[StopError], None],
        is_outage: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._client = client
        self._retrying = retrying
        self._journal = journal
        self._packs = packs
        self._contents = contents
        self._open = open_jobs
        self._twins = twins
        self._solitude = solitude
        self._memory = memory
        self._settler = settler
        self._reconciler = reconciler
        self._fetching = fetching
        self._upload = upload
        self._sleep = sleep
        self._again = again
        self._on_stop = on_stop
        self._is_outage = is_outage

    async def __call__(self, work: Work) -> None:
        """One job from its claim to an outcome, the twins' shelf, reconciliation, or back to pending.

        Raises for no job's sake; where the journal or the machine fails, the run is told to stop.
        """
        # An absent job is past what kills: dying from `stored` on is a debt, and no blame.
        if work.record.deaths < SUSPECT_DEATHS or work.is_absent:
            async with self._solitude.shared():
                await self._deliver(work)
        else:
            async with self._solitude.alone():
                # Durable first: a process that dies below this line tells whose fault it is.
                work.record = await self._journal.submit(Tested(job_id=work.record.job_id))
                await self._deliver(work)

    async def _deliver(self, work: Work) -> None:
        try:
            if work.is_absent:
                await self._send_again(work)
            else:
                self._check_sight(work.record.pack_id)
                if await self._store(work):
                    await self._add(work)
        except _PackGone:
            self._settler.settle(work, Outcome.REJECTED, reason="pack_gone", detail=PACK_GONE)
        except _PackHidden:
            await self._reconsider(work)  # its equals would wait for it as long as the run lasts
            self._release(work)
        except (Stopped, Fatal):
            self._release(work)
        except StopError as error:
            self._on_stop(error)
            self._release(work)
        except (ImageRejected, Rejected) as error:
            self._settler.settle(work, Outcome.REJECTED, reason=error.reason, detail=str(error))
        except (ImageUnreadable, ImageChanged, Retryable) as error:
            if isinstance(error, ImageUnreadable) and await self._is_out_of_reach(work):
                await self._reconsider(work)
                self._release(work)  # its source names it again when it is back
            else:
                self._settler.settle(work, Outcome.FAILED, reason=error.reason, detail=str(error))

    @staticmethod
    async def _is_out_of_reach(work: Work) -> bool:
        return any([await naming.delivery.is_out_of_reach() for naming in work.namings])

    def _check_sight(self, pack_id: PackId) -> None:
        match self._packs.known_sight(pack_id):
            case Sight.GONE:
                raise _PackGone
            case Sight.HIDDEN:
                raise _PackHidden
            case Sight.SEEN:
                pass

    # Steps 3 to 5. A process that dies in here leaves a claim: the job starts over, and an unused url is garbage.

    async def _store(self, work: Work) -> bool:
        """Bring the bytes to the CDN and the url into the journal; False where the job ends or waits elsewhere."""
        url, work.inspection = work.record.url, work.record.inspection
        if work.inspection is not None:  # uploaded by an earlier run that stopped before the add was sent
            if not await self._goes_ahead(work, work.inspection.fingerprint):
                return False
        elif is_url(work.record.locator) and not self._settings.fetch.rehost:
            url = None
            if not await self._inspect_url(work):
                return False
        else:
            url = await self._inspect_and_upload(work)
            if url is None or work.inspection is None:
                return False
        # The one commit that a job waits for. Dying before it: start over. After it: the add counts as sent.
        work.record = await self._journal.submit(Stored(job_id=work.record.job_id, inspection=work.inspection, url=url))
        return True

    async def _inspect_url(self, work: Work) -> bool:
        """Whether the caller's URL is to be added as it is: the cheapest questions first, the foreign host last."""
        url = work.record.locator
        self._fetching.refuse_flawed(work)
        if self._settings.run.duplicates == "allow":
            # Without a fingerprint: the pack may hold the URL by others, and a lookup could not tell whose it found.
            await self._fetching.check(work)
            return True
        work.inspection = Inspection(fingerprint=url_fingerprint(url), content_type=None, stamp=None)
        if not await self._goes_ahead(work, work.inspection.fingerprint):
            return False
        if await self._is_in_pack(work.record.pack_id, url):
            self._settler.settle(work, Outcome.DUPLICATE, reason="in_pack")
            return False
        work.inspection = replace(work.inspection, content_type=await self._fetching.check(work))
        return True

    async def _is_in_pack(self, pack_id: PackId, url: str) -> bool:
        """Whether the pack held the URL before this run added any; of what jobs of the journal added, they know."""
        try:
            return await self._contents.hold(pack_id, url)
        except Rejected as error:
            if error.status != 404:
                raise
            await self._packs.sight(pack_id)
            self._check_sight(pack_id)
            raise _again(error) from error

    async def _inspect_and_upload(self, work: Work) -> str | None:
        """The url under which the bytes lie; None where an equal image goes ahead or is there already."""
        for look in range(1, MAX_LOOKS + 1):
            try:
                with await self._inspected(work) as image:
                    work.inspection = Inspection(
                        fingerprint=image.fingerprint, content_type=image.content_type, stamp=image.stamp
                    )
                    if not await self._goes_ahead(work, work.inspection.fingerprint):
                        return None
                    return await self._upload(image, work.record.file_name, attempts=self._attempts(work))
            except ImageChanged:
                await self._reconsider(work)
                if look == MAX_LOOKS:
                    raise
                log.debug("image.changed", job=work.record.job_id, image=shown(work.record.locator), look=look)
                await self._sleep(backoff_s(look, base_s=0.5, cap_s=8.0, jitter=1.0))
        return None

    async def _inspected(self, work: Work) -> Inspected:
        if is_url(work.record.locator):
            return await self._fetching.download(work)
        return await inspect(work.record.locator, self._settings.images, self._memory)

    async def _goes_ahead(self, work: Work, fingerprint: Fingerprint) -> bool:
        """Whether no equal image is in the pack, or on its way there."""
        if self._settings.run.duplicates == "allow":
            return True
        if not self._twins.claim(work, fingerprint):
            self._twins.shelve(work, fingerprint)
            await self._excuse(work)
            return False
        equal = await self._journal.find_equal(work.record, fingerprint)
        if equal is None:
            return True
        in_hand = self._open.get(equal.job_id)
        if equal.state is State.ADDED:
            self._settler.settle(work, Outcome.DUPLICATE, reason=f"equal_to:{equal.job_id}")
        elif in_hand is None:
            # It is parked where this run can't look (its pack is out of sight): only a later run can tell.
            await self._reconsider(work)
            self._release(work)
        elif in_hand.is_absent:
            return True  # it was looked for as well, and waits its turn behind this one
        else:
            self._twins.give_way(work, in_hand)
            await self._excuse(work)
        return False

    async def _excuse(self, work: Work) -> None:
        """A job that waits does not run alone: what kills the process from here on is none of its doing."""
        if work.record.is_alone:
            work.record = await self._journal.submit(Excused(job_id=work.record.job_id))

    async def _reconsider(self, work: Work) -> None:
        """`work` does not go ahead with the bytes it had: whoever waited for it takes its own turn."""
        work.inspection = None
        for twin in self._twins.end(work):
            await self._again(twin)

    # Step 6. A process that dies in here leaves `stored`: the next one looks before it adds.

    async def _add(self, work: Work) -> None:
        record = work.record
        try:
            added = await self._retrying(lambda: self._add_once(work), attempts=self._attempts(work))
        except Rejected as error:
            reason = "pack_gone" if error.status == 404 else error.reason
            self._settler.settle(work, Outcome.REJECTED, reason=reason, detail=str(error))
        except (Uncertain, Retryable) as error:
            if isinstance(error, Uncertain):
                self._attempts(work).spend(error, is_outage=self._is_outage())
            # Not waited for: dying before it is durable leaves `stored`, which means the same.
            self._settler.record(Parked(job_id=record.job_id, reason=error.reason))
            work.record = replace(work.record, reason=error.reason)
            log.info("add.parked", job=record.job_id, pack_id=record.pack_id, reason=error.reason)
            self._reconciler.park(work)
        else:
            answered_url = added.url if added.url != record.add_url else None
            work.record = replace(work.record, answered_url=answered_url or record.answered_url)  # for its audit
            self._settler.settle(work, Outcome.ADDED, image_id=added.id, answered_url=answered_url)
        finally:
            self._reconciler.add_ended(work)

    async def _add_once(self, work: Work) -> AddedImage:
        record = work.record
        self._check_sight(record.pack_id)  # as it is after a wait at the gate
        try:
            return await self._client.add_image(record.pack_id, record.add_url or "", record.file_name)
        except Rejected as error:
            if error.status != 404:
                raise
            match await self._packs.sight(record.pack_id):
                case Sight.GONE:
                    raise
                case Sight.HIDDEN:
                    raise _PackHidden from error
                case Sight.SEEN:
                    raise _again(error) from error

    # Step 7: the add is sent again. The count and the audit are durable before it.

    async def _send_again(self, work: Work) -> None:
        if work.record.fingerprint is not None and not await self._goes_ahead(work, work.record.fingerprint):
            return
        work.record = await self._journal.submit(Resent(job_id=work.record.job_id))
        work.is_absent = False
        self._reconciler.owe_audit(work)
        await self._add(work)

    def _release(self, work: Work) -> None:
        """Back to pending; but what may have been sent stays `stored`, and is looked up by the next run."""
        if work.record.state is State.CLAIMED or (work.record.state is State.STORED and work.record.adds_sent == 1):
            self._settler.record(Released(job_id=work.record.job_id))
        self._open.leave(work)

    def _attempts(self, work: Work) -> JobAttempts:
        return JobAttempts(work, self._settler, self._settings.flow.max_attempts)


def _again(error: Rejected) -> Retryable:
    """A pack that is there was denied once: the request is to be sent again."""
    return Retryable(str(error), operation=error.operation, status=error.status, error_code=error.error_code)
