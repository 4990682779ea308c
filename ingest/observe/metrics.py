"""Every metric of the program, in one object on one registry of its own.

Recording is all that happens here: nothing decides by a metric, and the default registry is never touched. Labels
come from closed sets only, and each series of a closed set starts at 0, so that a rate never misses the first event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.registry import Collector

from ingest.errors import RequestFailure
from ingest.model import Lane, Operation, Outcome
from ingest.observe.readings import Readings
from ingest.observe.recorders import (
    FATAL_REASONS,
    OTHER,
    RETRY_REASONS,
    SOURCE_KINDS,
    DeliveryRecorder,
    DeliveryResult,
    JobRecorder,
    JournalRecorder,
    LaneRecorder,
    PauseReason,
    RequestRecorder,
    Resolution,
    RunRecorder,
)
from ingest.observe.version import version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

__all__ = ["Metrics"]

# Bounds in seconds, from what the fastest can take to where a person has long noticed. A quantile read off them is off
# by at most one step: a factor of 2 to 2.5 where most values lie, more at the ends.

REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# A server in the next room answers in 5 ms; 60 s is the default timeout.

JOB_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 150, 300, 900, 3600)
# Three fast requests take 50 ms; a job that waits in a long queue or for a lookup takes minutes to an hour.

COMMIT_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
# 0.1 ms is a commit to a good SSD (DESIGN §6); near 1 s a disk is failing or shared with too many.

WAIT_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Under 1 ms nobody waited; 60 s is what a server commonly asks for in Retry-After.


class Metrics(RequestRecorder, LaneRecorder, JobRecorder, DeliveryRecorder, JournalRecorder, RunRecorder):
    """The collectors, and one method for each thing that can happen; what they mean is said at the recorders.

    `registry` None makes a fresh one, so that any number of these live in one process. Methods may be called from any
    thread. What `watch_...` is given is called when someone looks, in the thread that does, and must not block; to
    watch again replaces what was watched.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._readings = Readings()
        self.registry.register(self._readings)

        self._discovered = self._counter("ingest_jobs_discovered", "Jobs admitted to the journal for the first time.")
        jobs = self._counter("ingest_jobs", "Jobs that came to an end, by how they ended.", "outcome")
        self._jobs = {outcome: jobs.labels(outcome) for outcome in Outcome}
        self._job_duration = self._histogram(
            "ingest_job_duration_seconds", "Time from a job's admission to its outcome.", JOB_BUCKETS
        )

        self._request_counter = self._counter(
            "ingest_requests",
            "Requests that ended, by what came back: a status code, or why there is no usable answer.",
            "operation",
            "status",
        )
        self._requests = {
            (operation, str(failure)): self._request_counter.labels(operation, failure)
            for operation in Operation
            for failure in RequestFailure
        }
        durations = self._histogram(
            "ingest_request_duration_seconds", "Time a request took, once let through.", REQUEST_BUCKETS, "operation"
        )
        self._request_durations = {operation: durations.labels(operation) for operation in Operation}
        retries = self._counter("ingest_retries", "Requests that were sent again, by why.", "operation", "reason")
        self._retries = {
            (operation, reason): retries.labels(operation, reason)
            for operation in Operation
            for reason in RETRY_REASONS
        }
        uncertain = self._counter(
            "ingest_uncertain_adds", "Adds whose effect was unknown, by what a lookup found out.", "resolution"
        )
        self._uncertain = {resolution: uncertain.labels(resolution) for resolution in get_args(Resolution)}
        self._upload_bytes = self._counter("ingest_upload_bytes", "Bytes of images that the storage has taken.")

        waits = self._histogram(
            "ingest_lane_wait_seconds", "Time a request waited for its lane to let it through.", WAIT_BUCKETS, "lane"
        )
        self._lane_waits = {lane: waits.labels(lane) for lane in Lane}
        pauses = self._counter(
            "ingest_lane_paused_seconds", "Time for which a lane was told to send nothing, by why.", "lane", "reason"
        )
        self._lane_pauses = {
            (lane, reason): pauses.labels(lane, reason) for lane in Lane for reason in get_args(PauseReason)
        }

        deliveries = self._counter(
            "ingest_deliveries", "Deliveries handed back to their source, by what it was told.", "source", "result"
        )
        self._deliveries = {
            (source, result): deliveries.labels(source, result)
            for source in SOURCE_KINDS
            for result in get_args(DeliveryResult)
        }
        self._journal_commits = self._histogram(
            "ingest_journal_commit_duration_seconds", "Time a commit to the journal took.", COMMIT_BUCKETS
        )

        fatal = Gauge(
            "ingest_fatal",
            "1 while the API refuses every job for this reason, and a person must act.",
            ("reason",),
            registry=self.registry,
        )
        self._fatal = {reason: fatal.labels(reason) for reason in FATAL_REASONS}
        build = Info("ingest_build", "The version of this program.", registry=self.registry)
        build.info({"version": version()})

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, help_text, labels, buckets=buckets, registry=self.registry)

    def discovered(self, n: int = 1) -> None:
        self._discovered.inc(n)

    def settled(self, outcome: Outcome, duration_s: float | None) -> None:
        self._jobs[outcome].inc()
        if duration_s is not None:
            self._job_duration.observe(duration_s)

    def known(self, outcome: Outcome, n: int) -> None:
        self._jobs[outcome].inc(n)

    def request(self, operation: Operation, status: str, duration_s: float) -> None:
        child = self._requests.get((operation, status))
        if child is None:
            # Bounded all the same: a status that is no code counts as unreadable.
            status = status if _is_status_code(status) else RequestFailure.UNREADABLE.value
            child = self._requests[operation, status] = self._request_counter.labels(operation, status)
        child.inc()
        self._request_durations[operation].observe(duration_s)

    def retry(self, operation: Operation, reason: str) -> None:
        self._retries[operation, reason if reason in RETRY_REASONS else OTHER].inc()

    def uncertain(self, resolution: Resolution) -> None:
        self._uncertain[resolution].inc()

    def uploaded(self, n_bytes: int) -> None:
        self._upload_bytes.inc(n_bytes)

    def lane_wait(self, lane: Lane, seconds: float) -> None:
        self._lane_waits[lane].observe(seconds)

    def lane_paused(self, lane: Lane, reason: PauseReason, seconds: float) -> None:
        self._lane_pauses[lane, reason].inc(seconds)

    def watch_lane(
        self,
        lane: Lane,
        *,
        limit: Callable[[], float],
        concurrency: Callable[[], float],
        in_flight: Callable[[], float],
    ) -> None:
        self._readings.watch("ingest_lane_limit_requests_per_second", limit, label_value=lane)
        self._readings.watch("ingest_lane_concurrency_limit", concurrency, label_value=lane)
        self._readings.watch("ingest_lane_requests_in_flight", in_flight, label_value=lane)

    def delivery(self, source: str, result: DeliveryResult, n: int = 1) -> None:
        self._deliveries[source if source in SOURCE_KINDS else OTHER, result].inc(n)

    def journal_commit(self, seconds: float) -> None:
        self._journal_commits.observe(seconds)

    def watch_journal(self, *, free_bytes: Callable[[], float]) -> None:
        self._readings.watch("ingest_journal_free_bytes", free_bytes)

    def last_added(self, unix_s: float) -> None:
        self._readings.watch("ingest_last_added_timestamp_seconds", lambda: unix_s)

    def fatal(self, reason: str | None) -> None:
        in_force = None if reason is None else reason if reason in FATAL_REASONS else OTHER
        for known, child in self._fatal.items():
            child.set(known == in_force)

    def run_completed(self, unix_s: float, exit_code: int) -> None:
        self._readings.watch("ingest_run_completed_timestamp_seconds", lambda: unix_s)
        self._readings.watch("ingest_run_exit_code", lambda: exit_code)

    def watch_jobs(
        self,
        *,
        in_flight: Callable[[], float],
        backlog: Callable[[], float],
        oldest_pending_unix_s: Callable[[], float | None],
        imbalance: Callable[[], float],
    ) -> None:
        self._readings.watch("ingest_jobs_in_flight", in_flight)
        self._readings.watch("ingest_backlog_jobs", backlog)
        self._readings.watch("ingest_oldest_pending_timestamp_seconds", oldest_pending_unix_s)
        self._readings.watch("ingest_journal_imbalance_jobs", imbalance)

    def render(self) -> tuple[bytes, str]:
        """The exposition text, and its content type."""
        return generate_latest(_WithoutCreated(self.registry)), CONTENT_TYPE_LATEST


class _WithoutCreated(Collector):
    """A registry without the `_created` series, which say when this process made a series: `ingest_jobs_created`
    reads like a number of jobs. The library's own switch for them is one for the whole process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def _is_status_code(status: str) -> bool:
    return len(status) == 3 and status.isascii() and status.isdigit() and "100" <= status <= "599"
