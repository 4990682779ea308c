"""Whether a lane is in an outage: everything fails, so single probes go out instead of a storm.

An outage is a property of the lane, never of a job: what fails in one spends no attempt. Which failures count is the
caller's word: silence and 5xx do; a refusal (429) or a rejection shows that the server lives.
"""

from __future__ import annotations

import math
from typing import Final

from ingest.policy.retry import backoff_s

__all__ = ["Breaker"]

PROBE_BASE_S: Final = 1.0
PROBE_CAP_S: Final = 30.0
# One request in at most 30 s is nothing to a server that is down, and a short wait once it is back.


class Breaker:
    """Opens after `threshold` failures in a row; then lets one request through at a time until one is answered.

    `threshold` is above the attempts of a single job, so that one bad job can't stop a lane by itself. Which request
    ends is not told: beside others that were under way as it opened, a probe counts as out until the last of them has
    ended, so that there are never two. Times are monotonic seconds.
    """

    def __init__(self, *, threshold: int) -> None:
        self._threshold = threshold
        self._failures = 0
        self._probes = 0
        self._under_way = 0
        self._probe_at = -math.inf
        self._is_probing = False
        self.silent_since: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the lane is in an outage."""
        return self._failures >= self._threshold

    def wait_s(self, now: float) -> float:
        """Seconds until a request may start; infinite while a probe is out."""
        if not self.is_open:
            return 0.0
        return math.inf if self._is_probing else max(0.0, self._probe_at - now)

    def started(self) -> None:
        """A request starts."""
        self._under_way += 1
        self._is_probing = self.is_open

    def answered(self) -> None:
        """The server did its work, or refused to with reason: it is there."""
        self._ended()
        self._failures = 0
        self._is_probing = False
        self.silent_since = None

    def failed(self, now: float, *, jitter: float) -> None:
        """A request got no answer, or a 5xx. `jitter` is in [0, 1)."""
        was_open, was_probing = self.is_open, self._is_probing
        self._failures += 1
        self._ended()
        if self.silent_since is None:
            self.silent_since = now
        if not self.is_open or (was_open and (self._is_probing or not was_probing)):
            return  # closed still, or the echo of what was under way when it opened
        self._probes = self._probes + 1 if was_open else 1
        span_s = backoff_s(self._probes, base_s=PROBE_BASE_S, cap_s=PROBE_CAP_S, jitter=1.0)
        # At least half of the span: a probe at once would be the storm again.
        self._probe_at = now + span_s * (0.5 + 0.5 * jitter)

    def abandoned(self) -> None:
        """A request was cancelled before it told anything."""
        self._ended()

    def _ended(self) -> None:
        self._under_way = max(0, self._under_way - 1)
        self._is_probing = self._is_probing and self._under_way > 0
