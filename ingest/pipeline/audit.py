"""Audits: what is done about copies of an image whose add was sent more than once (DESIGN §3, step 7).

Deletes nothing but surplus copies of a url minted for a job of this journal; copies of a URL that a caller named are
told. Reads no pack itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ingest.errors import Rejected
from ingest.journal.changes import AuditClosed, Condemned
from ingest.observe.logging import get_logger
from ingest.observe.text import shown
from ingest.pipeline.retry import Once
from ingest.policy.copies import surplus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingest.api.client import PacksClient
    from ingest.journal.base import Journal
    from ingest.journal.records import Record
    from ingest.model import PackId
    from ingest.pipeline.debts import Debts, OwedAudit
    from ingest.pipeline.retry import Retrying
    from ingest.pipeline.settle import Settler
    from ingest.pipeline.work import OpenJobs

__all__ = ["Auditor"]

log = get_logger("pipeline")

DELETE_ROUNDS: Final = 3
# So often is a copy deleted that is still listed after it was: then it is left to a later run.


class Auditor:
    """Pays audits, one at a time, of what a settled read of the pack has shown."""

    def __init__(
        self, *, client: PacksClient, retrying: Retrying, journal: Journal, settler: Settler, open_jobs: OpenJobs
    ) -> None:
        self._client = client
        self._retrying = retrying
        self._journal = journal
        self._settler = settler
        self._open = open_jobs
        self.unpaid = 0  # audits that this run can't pay: the journal keeps them

    async def pay(self, debts: Debts, owed: OwedAudit, places: Mapping[str, Sequence[tuple[int, str]]]) -> None:
        """Delete what may be deleted of a job's copies; close its audit where none of them was to be deleted."""
        record = owed.record
        work = self._open.get(record.job_id)
        if work is not None and work.is_absent:
            debts.put_off(owed)  # its next add is about to be sent, and owes an audit of its own
            return
        if not record.own_urls:
            _report_copies(record, places)
            self._settler.record(AuditClosed(job_id=record.job_id))
            del debts.audits[record.job_id]
            return
        listed = sorted(place for url in set(record.own_urls) for place in places.get(url, ()))
        copies = dict.fromkeys(image_id for _, image_id in listed)  # one that is listed twice is one image
        kept = [image_id for image_id in copies if image_id not in record.condemned]
        count = surplus(len(kept), adds_sent=record.adds_sent, condemned=len(record.condemned))
        if count:
            # Durable first: whatever becomes of the deletes, no other copy ever goes in the place of one of these.
            condemned = Condemned(job_id=record.job_id, image_ids=tuple(kept[1 : 1 + count]))
            record = await self._journal.submit(condemned)
            owed = debts.audits[record.job_id] = replace(owed, record=record)
        doomed = [image_id for image_id in copies if image_id in record.condemned]
        if not doomed:
            self._settler.record(AuditClosed(job_id=record.job_id, image_id=kept[0] if kept else None))
            del debts.audits[record.job_id]
        elif owed.deletes == DELETE_ROUNDS:
            self.leave(debts, owed, reason="not_deleted", error=f"{', '.join(doomed)} listed after every delete")
        else:
            for image_id in doomed:
                await self._delete(record.pack_id, image_id)
                log.info("copy.deleted", job=record.job_id, pack_id=record.pack_id, image_id=image_id)
            # That a delete was answered with success is no proof: a read that shows none of them is.
            debts.put_off(replace(owed, deletes=owed.deletes + 1))

    def leave(self, debts: Debts, owed: OwedAudit, *, reason: str, error: str) -> None:
        """This run can't pay it; the journal keeps the audit open, and the run is not finished (75)."""
        record = owed.record
        log.warning("audit.refused", job=record.job_id, pack_id=record.pack_id, reason=reason, error=error)
        self.unpaid += 1
        del debts.audits[record.job_id]

    async def _delete(self, pack_id: PackId, image_id: str) -> None:
        try:
            await self._retrying(lambda: self._client.delete_image(pack_id, image_id), attempts=Once())
        except Rejected as error:
            if error.error_code != "image_not_found":  # gone already is what was wanted
                raise


def _report_copies(record: Record, places: Mapping[str, Sequence[tuple[int, str]]]) -> None:
    """A caller's URL may be in its pack by anybody's doing, so that none of its copies is ours to delete."""
    copies = {image_id for url in record.urls for _, image_id in places.get(url, ())}
    if len(copies) > 1:
        log.warning(
            "copy.reported",
            job=record.job_id,
            pack_id=record.pack_id,
            image=shown(record.locator),
            copies=len(copies),
            message="The pack holds this URL more than once; see `ingest packs delete-image`.",
        )
