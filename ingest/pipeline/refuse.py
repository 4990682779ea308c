"""What sources could not read as jobs: durable in the journal, counted, told, and only then acknowledged as `rejected`.

It is never claimed and nothing is sent for it. Decides not what is no job, but when an earlier refusal is mended.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ingest.journal.records import Refusal
from ingest.model import Outcome
from ingest.observe.logging import get_logger
from ingest.observe.text import printable
from ingest.pipeline.work import acknowledge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ingest.journal.base import JournalRefusals
    from ingest.model import RunId
    from ingest.observe.recorders import DeliveryRecorder
    from ingest.pipeline.work import Naming, Tally
    from ingest.sources.base import NoJob, RefusingSource

__all__ = ["Refuser"]

log = get_logger("pipeline")


class Refuser:
    """One run's refusals. `on_news` hears of each that no earlier run has told, once it is durable and counted.

    A process that dies before the commit has refused nothing, and one that dies after it refuses the same again: a
    delivery is acknowledged only by the second step, and a refusal takes the place of the one before it.
    """

    def __init__(
        self,
        journal: JournalRefusals,
        *,
        run_id: RunId,
        tally: Tally,
        deliveries: DeliveryRecorder,
        on_news: Callable[[Outcome], None],
    ) -> None:
        self._journal = journal
        self._run_id = run_id
        self._tally = tally
        self._deliveries = deliveries
        self._on_news = on_news

    async def record(self, refused: Sequence[tuple[Naming, NoJob]]) -> Sequence[bool]:
        """Make them durable, in one commit; each is then to be told, and whether it is news. The journal's errors."""
        refusals = [
            Refusal(
                source=naming.origin,
                place=no_job.place,
                reason=no_job.reason,
                detail=no_job.detail,
                run_id=self._run_id,
                refused_at=time.time(),
            )
            for naming, no_job in refused
        ]
        return await self._journal.refuse(refusals)

    async def tell(self, naming: Naming, no_job: NoJob, *, is_news: bool) -> None:
        """Count one that is durable, and acknowledge it."""
        self._tally.refuse()
        log.info(
            "delivery.refused",
            source=printable(naming.origin),
            place=printable(no_job.place),
            reason=no_job.reason,
            detail=printable(no_job.detail),
        )
        if is_news:
            self._on_news(Outcome.REJECTED)
        await acknowledge(naming, Outcome.REJECTED, no_job.reason, self._deliveries)

    async def read_to_the_end(self, source: RefusingSource) -> None:
        """All of the source was seen: what it refused in an earlier run, and not in this one, is mended."""
        if count := await self._journal.mended(self._run_id, source.origin, retells=source.retells):
            log.info("refusals.mended", source=printable(source.origin), count=count)
