"""Why and how a run stops: the reasons, which of two counts, and what waits for them.

Phases: intake stops, what is in hand is drained, the journal is flushed, everything is closed. Handles no signal: who
does tells it here.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from ingest.errors import GaveUp, MachineError, Refused, StopError, TooManyRejected, UsageError
from ingest.model import Outcome, SummaryError

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

__all__ = ["MaxRejected", "Stop", "Stopped"]


class Stopped(Exception):
    """Raised in whoever would start or sleep on while the run stops."""


@dataclass(frozen=True, slots=True)
class _Interrupted:
    """A signal asked for the end."""

    number: signal.Signals

    @property
    def exit_code(self) -> int:
        return 128 + self.number  # 130 and 143, as shells count


_PRECEDENCE: Final = (UsageError, Refused, MachineError, _Interrupted, GaveUp, TooManyRejected)
# The order of the exit codes in DESIGN §7: the first that holds counts.


class Stop:
    """One run's wish to end. The first request stops intake; a second signal, or `now`, ends the drain as well.

    With `is_expected`, a signal is how the run is meant to end: a first one is a success, and no error.
    """

    def __init__(self, *, is_expected: bool = False) -> None:
        self._is_expected = is_expected
        self._reasons: list[StopError | _Interrupted] = []
        self._scopes: list[anyio.CancelScope] = []
        self._uncut = 0
        self.requested = anyio.Event()
        self.hurried = anyio.Event()

    @property
    def is_requested(self) -> bool:
        """Whether intake has stopped."""
        return self.requested.is_set()

    @property
    def exit_code(self) -> int | None:
        """The exit code that the reasons ask for; None without one."""
        reason = self._first()
        if reason is None:
            return None
        return 0 if self._is_success(reason) else reason.exit_code

    @property
    def error(self) -> SummaryError | None:
        """The reason for the summary; None without one."""
        match self._first():
            case None:
                return None
            case _Interrupted() as reason if self._is_success(reason):
                return None
            case _Interrupted(number):
                return SummaryError(
                    code=number.name.lower(),
                    message=f"Stopped by {number.name} before the end.",
                    hint="Run the same command again to continue.",
                )
            case error:
                return SummaryError(code=error.code, message=str(error), hint=error.hint)

    def signalled(self, number: signal.Signals) -> None:
        """A signal came: the first stops intake, a second one the drain."""
        if any(isinstance(reason, _Interrupted) for reason in self._reasons):
            self.hurried.set()
        self._add(_Interrupted(number))

    def because(self, error: StopError) -> None:
        """The run can't, or may not, go on."""
        self._add(error)

    async def sleep(self, delay_s: float) -> None:
        """Sleep, or raise `Stopped` as soon as the run stops."""
        if not self.is_requested:
            with anyio.move_on_after(delay_s):
                await self.requested.wait()
        if self.is_requested:
            raise Stopped

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Cancel the block as soon as the run stops."""
        with anyio.CancelScope() as scope:
            self._scopes.append(scope)
            if self.is_requested:
                scope.cancel()
            try:
                yield
            finally:
                self._scopes.remove(scope)

    @contextlib.contextmanager
    def uncut(self) -> Iterator[None]:
        """Within `interrupts`: let this block come to its end first. A second signal does not wait for it."""
        self._uncut += 1
        try:
            yield
        finally:
            self._uncut -= 1
            self._cut()

    def _add(self, reason: StopError | _Interrupted) -> None:
        self._reasons.append(reason)
        self.requested.set()
        self._cut()

    def _cut(self) -> None:
        if self.is_requested and (not self._uncut or self.hurried.is_set()):
            for scope in self._scopes:
                scope.cancel()

    def _is_success(self, reason: StopError | _Interrupted) -> bool:
        return self._is_expected and isinstance(reason, _Interrupted) and not self.hurried.is_set()

    def _first(self) -> StopError | _Interrupted | None:
        def rank(reason: StopError | _Interrupted) -> int:
            return next(i for i, kind in enumerate(_PRECEDENCE) if isinstance(reason, kind))

        return min(self._reasons, key=rank, default=None)


class MaxRejected:
    """Stops the run when it has rejected as many jobs as the user allows; None allows any number.

    What an earlier run rejected is not counted: it was allowed then, and would keep this one from ever ending.
    """

    def __init__(self, limit: int | None, stop: Stop) -> None:
        self._limit = limit
        self._stop = stop
        self._rejected = 0

    def settled(self, outcome: Outcome) -> None:
        """One more job has settled."""
        self._rejected += outcome is Outcome.REJECTED
        if self._limit is None or self._stop.is_requested or self._rejected < self._limit:
            return
        self._stop.because(
            TooManyRejected(
                f"--max-rejected {self._limit} is reached: no more images are taken up.",
                code="max_rejected",
                hint="See `ingest failures` for the reasons.",
            )
        )
