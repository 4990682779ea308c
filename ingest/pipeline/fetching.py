"""Asking the host of a job's URL until it has told: with the job's attempts, and past the lanes of the API.

A foreign host that fails says nothing of the API: no gate is passed, no breaker counts it. Decides no outcome.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec.structs import replace

from ingest.errors import ImageRejected, ImageUnreachable
from ingest.images.download import downloaded
from ingest.journal.changes import Spent
from ingest.observe.logging import get_logger
from ingest.observe.text import shown
from ingest.policy.retry import backoff_s
from ingest.policy.urls import flaw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ingest.images.download import Downloaded
    from ingest.images.fetch import Fetcher
    from ingest.images.memory import MemoryBudget
    from ingest.model import ContentType
    from ingest.pipeline.settle import Settler
    from ingest.pipeline.work import Work
    from ingest.settings import Settings

__all__ = ["Fetching"]

T = TypeVar("T")

log = get_logger("pipeline")

MAX_RETRY_AFTER_S: Final = 60.0
# A worker waits for it. What asks for more is `failed` in the end, and asked again by the next run.


class Fetching:
    """Checks and downloads what jobs name by URL. `sleep` may raise, to end a wait with the run."""

    def __init__(
        self,
        settings: Settings,
        *,
        fetcher: Fetcher,
        memory: MemoryBudget,
        settler: Settler,
        sleep: Callable[[float], Awaitable[None]],
        is_outage: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._memory = memory
        self._settler = settler
        self._sleep = sleep
        self._is_outage = is_outage

    def refuse_flawed(self, work: Work) -> None:
        """Raise `ImageRejected` (`bad_url`, `private_host`) where the URL itself tells that it can't be added."""
        url = work.record.locator
        if (wrong := flaw(url, allow_private=self._settings.fetch.allow_private_hosts)) is not None:
            raise ImageRejected(f"{shown(url)} {wrong.detail}", reason=wrong.reason)

    async def check(self, work: Work) -> ContentType | None:
        """The type of the image that the URL leads to; None where checks are off. Raises as `Fetcher.check` does."""
        if not self._settings.fetch.check_urls:
            return None
        return await self._patiently(work, lambda: self._fetcher.check(work.record.locator))

    async def download(self, work: Work) -> Downloaded:
        """The image itself, to be released. Raises as `downloaded` does."""
        self.refuse_flawed(work)
        url, images = work.record.locator, self._settings.images
        return await self._patiently(
            work, lambda: downloaded(url, self._fetcher.download(url, images.max_bytes), images, self._memory)
        )

    async def _patiently(self, work: Work, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives. Each time that a host does not hand an image over is one of the job's attempts.

        Not while the API can't be reached either: then it is this machine that is cut off.
        """
        failures = 0
        while True:
            try:
                return await ask()
            except ImageUnreachable as error:
                failures += 1
                if not self._is_outage() and (error.is_host_down or not self._spend(work, error)):
                    raise
                delay_s = self._delay_s(error, failures)
                log.debug("fetch.failed", job=work.record.job_id, reason=error.reason, delay_s=round(delay_s, 3))
            await self._sleep(delay_s)

    def _spend(self, work: Work, error: ImageUnreachable) -> bool:
        """Count the failure; whether the job has attempts left."""
        record = work.record = replace(work.record, attempts=work.record.attempts + 1)
        self._settler.record(Spent(job_id=record.job_id, attempts=record.attempts, reason=error.reason))
        return record.attempts < self._settings.flow.max_attempts

    def _delay_s(self, error: ImageUnreachable, failures: int) -> float:
        flow = self._settings.flow
        jitter = random.random()  # noqa: S311 - jitter, not a secret
        delay_s = backoff_s(failures, base_s=flow.backoff_base_s, cap_s=flow.backoff_cap_s, jitter=jitter)
        return max(delay_s, min(error.retry_after_s or 0.0, MAX_RETRY_AFTER_S))
