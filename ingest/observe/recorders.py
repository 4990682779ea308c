"""What each part may record, as narrow Protocols, and the closed sets of words that become labels.

Nothing here knows how a number is kept or shown. Every method returns at once and never fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.model import Lane, Operation, Outcome

__all__ = [
    "FATAL_REASONS",
    "OTHER",
    "QUEUE_KINDS",
    "RETRY_REASONS",
    "SOURCE_KINDS",
    "DeliveryRecorder",
    "DeliveryResult",
    "JobRecorder",
    "JournalRecorder",
    "LaneRecorder",
    "PauseReason",
    "RequestRecorder",
    "Resolution",
    "RunRecorder",
]

Resolution: TypeAlias = Literal["found", "absent", "gone", "unverifiable"]
"""How an uncertain add was settled: it is in its pack; it is not; the pack is gone; no lookup can tell."""

PauseReason: TypeAlias = Literal["retry_after", "throttled", "breaker"]
"""Why a lane sends nothing for a while: the server said how long; it refused without saying; everything fails."""

DeliveryResult: TypeAlias = Literal["acknowledged", "released"]
"""What became of a delivery: its outcome is durable; or another run may have it."""

OTHER: Final = "other"
"""Every word that is not in its set counts as this one."""

RETRY_REASONS: Final = ("timeout", "connect", "tls", "unreadable", "throttled", "server_error", OTHER)
FATAL_REASONS: Final = ("invalid_token", "subscription_required", "tier_not_allowed", "wrong_scope", OTHER)
QUEUE_KINDS: Final = ("redis", "amqp", "nats", "sqs")
SOURCE_KINDS: Final = ("directory", "file", "manifest", "stdin", "watch", *QUEUE_KINDS, OTHER)


class RequestRecorder(Protocol):
    """For what sends requests, and sends them again."""

    def request(self, operation: Operation, status: str, duration_s: float) -> None:
        """One request ended: `status` is a code of three digits or a value of `RequestFailure`."""
        ...

    def retry(self, operation: Operation, reason: str) -> None:
        """A request is about to be sent again, for a reason in `RETRY_REASONS`; others count as `other`."""
        ...


class LaneRecorder(Protocol):
    """For a lane's gate."""

    def lane_wait(self, lane: Lane, seconds: float) -> None:
        """One request was let through after so long."""
        ...

    def lane_paused(self, lane: Lane, reason: PauseReason, seconds: float) -> None:
        """The lane was paused, or a running pause was made longer, by so long."""
        ...

    def watch_lane(
        self,
        lane: Lane,
        *,
        limit: Callable[[], float],
        concurrency: Callable[[], float],
        in_flight: Callable[[], float],
    ) -> None:
        """Read these whenever someone looks: requests a second (`math.inf`: unbounded), requests at once, open ones."""
        ...


class JobRecorder(Protocol):
    """For what takes jobs to their outcome."""

    def discovered(self, n: int = 1) -> None:
        """A source named so many jobs."""
        ...

    def settled(self, outcome: Outcome, duration_s: float | None) -> None:
        """One job's outcome is durable, so long after its admission; None where an earlier run had settled it."""
        ...

    def known(self, outcome: Outcome, n: int) -> None:
        """So many jobs have the outcome that an earlier run settled."""
        ...

    def uncertain(self, resolution: Resolution) -> None:
        """One uncertain add was settled."""
        ...

    def uploaded(self, n_bytes: int) -> None:
        """The storage has taken so many bytes of one image."""
        ...

    def last_added(self, unix_s: float) -> None:
        """The latest image that is known to be in its pack was added then."""
        ...


class DeliveryRecorder(Protocol):
    """For what answers sources."""

    def delivery(self, source: str, result: DeliveryResult, n: int = 1) -> None:
        """So many deliveries were handed back to a source of this kind (`SOURCE_KINDS`; others count as `other`)."""
        ...


class JournalRecorder(Protocol):
    """For a journal."""

    def journal_commit(self, seconds: float) -> None:
        """One commit took so long."""
        ...

    def watch_journal(self, *, free_bytes: Callable[[], float]) -> None:
        """Read this whenever someone looks: room left where the journal lives."""
        ...


class RunRecorder(Protocol):
    """For a run as a whole."""

    def fatal(self, reason: str | None) -> None:
        """The API refuses every job, for a reason in `FATAL_REASONS`, others as `other`; None: no more."""
        ...

    def run_completed(self, unix_s: float, exit_code: int) -> None:
        """The run ended."""
        ...

    def watch_jobs(
        self,
        *,
        in_flight: Callable[[], float],
        backlog: Callable[[], float],
        oldest_pending_unix_s: Callable[[], float | None],
        imbalance: Callable[[], float],
    ) -> None:
        """Read these whenever someone looks: jobs in hand, jobs pending, since when the oldest (None: none is), and
        `discovered - added - duplicate - rejected - failed - pending`."""
        ...
