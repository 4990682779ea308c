"""The lane under test: the real policies, asked and told in the way of `ingest.pipeline.gate`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ingest.policy.concurrency import Concurrency
from ingest.policy.pacing import Pacer, is_refusal

if TYPE_CHECKING:
    from tests.benchmarks.flow.servers import Verdict


class Adaptive:
    """Pace and concurrency of one lane."""

    def __init__(self, seed: int = 0, *, bound: int = 64) -> None:
        self.pacer = Pacer(bound=None)
        self.concurrency = Concurrency(bound=bound)
        self._jitter = random.Random(seed).random
        self.wait_s = self.pacer.wait_s
        self.started = self.pacer.started

    @property
    def limit(self) -> int:
        return self.concurrency.limit

    def ended(self, now: float, verdict: Verdict, *, started_at: float, in_flight: int) -> float:
        """See `Lane.ended`."""
        status, retry_after_s = verdict.status, verdict.retry_after_s
        if verdict.quota is not None:
            self.pacer.told(now, verdict.quota, in_flight=in_flight - 1)
        if is_refusal(status, retry_after_s):
            self.pacer.refused(now, started_at=started_at, retry_after_s=retry_after_s, jitter=self._jitter())
        elif status == 503:
            self.concurrency.overloaded(now, started_at=started_at, in_flight=in_flight)
        elif status < 500:
            self.pacer.accepted(now, started_at=started_at)
            self.concurrency.answered(now, started_at=started_at, in_flight=in_flight)
        return 0.0
