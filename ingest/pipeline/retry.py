"""One request made until it has its answer: what is retryable is sent again, outside the gate.

Which answers count against whom is the `Attempts`' word; how long to wait, for itself and for the lane's budget of
retries, the policies'. A request with a lasting effect comes out as `Uncertain` and is never sent again here.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
from msgspec.structs import replace

from ingest.errors import Fatal, Retryable, Uncertain
from ingest.journal.changes import Spent
from ingest.model import Operation
from ingest.observe.logging import get_logger
from ingest.pipeline.gate import REFUSED_KEY, TurnedAway
from ingest.policy import pacing
from ingest.policy.retry import backoff_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ingest.errors import RequestError
    from ingest.model import Lane
    from ingest.observe.recorders import RequestRecorder
    from ingest.pipeline.gate import Gate
    from ingest.pipeline.guard import Guard
    from ingest.pipeline.settle import Settler
    from ingest.pipeline.work import Work
    from ingest.settings import FlowSettings

__all__ = ["Attempts", "Few", "JobAttempts", "Once", "Patient", "Retrying", "is_refusal"]

T = TypeVar("T")

log = get_logger("pipeline")


class Attempts(Protocol):
    """Whose patience a retry uses up."""

    def spend(self, error: Retryable, *, is_outage: bool) -> bool:
        """Count this failure; whether patience is left to send the request again. `is_outage`: a whole lane fails."""
        ...


@dataclass(slots=True)
class Few:
    """A command's patience: so many failures of any kind, and a person is told."""

    left: int = 4

    def spend(self, error: Retryable, *, is_outage: bool) -> bool:
        """See `Attempts.spend`."""
        self.left -= 1
        return self.left > 0


class Once:
    """No patience: whoever asks keeps a schedule of its own."""

    def spend(self, error: Retryable, *, is_outage: bool) -> bool:
        """See `Attempts.spend`."""
        return False


@dataclass(slots=True)
class Patient:
    """A run's own requests: silence, limits and 5xx are waited out until the run gives up, other answers are not."""

    left: int = 8

    def spend(self, error: Retryable, *, is_outage: bool) -> bool:
        """See `Attempts.spend`."""
        if error.is_answer and error.status is not None and error.status < 500 and not is_outage:
            self.left -= 1
        return self.left > 0


class JobAttempts:
    """A job's patience: only an answer about this job uses it up, and the count outlives the process."""

    def __init__(self, work: Work, settler: Settler, max_attempts: int) -> None:
        self._work = work
        self._settler = settler
        self._max_attempts = max_attempts

    def spend(self, error: Retryable | Uncertain, *, is_outage: bool) -> bool:
        """See `Attempts.spend`."""
        if is_outage or not error.is_answer or is_refusal(error):
            return True
        record = self._work.record = replace(self._work.record, attempts=self._work.record.attempts + 1)
        self._settler.record(Spent(job_id=record.job_id, attempts=record.attempts, reason=error.reason))
        return record.attempts < self._max_attempts


class Retrying:
    """Calls, waits, and calls again. `sleep` may raise, to end a wait with the run."""

    def __init__(
        self,
        settings: FlowSettings,
        gates: Mapping[Lane, Gate],
        guard: Guard,
        *,
        recorder: RequestRecorder,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._gates = gates
        self._guard = guard
        self._recorder = recorder
        self._sleep = sleep
        self._turns = {lane: anyio.Lock() for lane in gates}
        self.retries = 0

    async def __call__(self, call: Callable[[], Awaitable[T]], *, attempts: Attempts) -> T:
        """The call's result; the `Retryable` itself once `attempts` says no; every other error at once.

        A `Fatal` comes out only after a second request has confirmed it, and nobody is waited for any more.
        """
        failures = 0
        was_refused = False
        while True:
            try:
                return await call()
            except TurnedAway:
                continue
            except Fatal as error:
                if was_refused:
                    # Whatever else the key may do, it may not do this: the second request that confirms is this one.
                    await self._guard.convict(error)
                else:
                    await self._guard.confirm(error)
                was_refused = not was_refused
                # The key is taken after all: it was no answer about this request, so it has no status here.
                failure = Retryable(str(error), operation=error.operation, error_code=error.error_code)
            except (Retryable, Uncertain) as error:
                if error.status in REFUSED_KEY:
                    self._guard.dismiss()  # not in the API's envelope, so not its word
                if isinstance(error, Uncertain):
                    raise
                failure = error
                was_refused = False
            failures += 1
            await self._wait(failure, failures, attempts)

    async def _wait(self, error: Retryable, failures: int, attempts: Attempts) -> None:
        operation = Operation(error.operation)
        # Any lane's: what takes the API away often takes the storage as well, where too few are at work to show it.
        is_outage = any(gate.breaker.is_open for gate in self._gates.values())
        if not attempts.spend(error, is_outage=is_outage):
            raise error
        self.retries += 1
        self._recorder.retry(operation, _reason(error))
        gate = self._gates[operation.lane]
        delay_s = self._delay_s(error, failures, gate)
        log.debug(
            "attempt.failed",
            operation=operation.value,
            reason=error.reason,
            delay_s=round(delay_s, 3),
            failures=failures,
        )
        gate.backing_off += 1
        try:
            await self._sleep(delay_s)
            await self._afford(operation.lane)
        finally:
            gate.backing_off -= 1

    async def _afford(self, lane: Lane) -> None:
        """Wait until the lane's budget has this retry, first come, first served."""
        budget = self._gates[lane].budget
        async with self._turns[lane]:
            while (wait_s := budget.wait_s(now := time.monotonic())) > 0.0:
                await self._sleep(wait_s)
            budget.retried(now)

    def _delay_s(self, error: Retryable, failures: int, gate: Gate) -> float:
        if is_refusal(error) and (error.retry_after_s is not None or gate.wait_s > 0.0):
            return 0.0  # the lane is paused, not this one request: the gate waits for all
        return backoff_s(
            failures,
            base_s=self._settings.backoff_base_s,
            cap_s=self._settings.backoff_cap_s,
            jitter=random.random(),  # noqa: S311 - jitter, not a secret
        )


def is_refusal(error: RequestError) -> bool:
    """Whether the lane was refused, and not this one request: what pauses its gate."""
    return pacing.is_refusal(error.status, error.retry_after_s if isinstance(error, Retryable) else None)


def _reason(error: Retryable) -> str:
    """The failure as a label of `ingest_retries_total`."""
    if error.failure is not None:
        return error.failure.value
    if error.status == 429:
        return "throttled"
    return "server_error" if error.status is not None and error.status >= 500 else "other"
