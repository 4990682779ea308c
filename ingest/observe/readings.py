"""Gauges that are read when someone looks, and are absent while there is nothing to read.

Nothing is kept here but the callables: a gauge that someone must remember to update is wrong sooner or later, and a
timestamp of 0 would say 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["READINGS", "Reading", "Readings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One gauge; `zero_for` are the values of its label that read 0 until watched ("" for a gauge without label)."""

    help: str
    label: str | None = None
    zero_for: tuple[str, ...] = ()


READINGS: Final[dict[str, Reading]] = {
    "ingest_jobs_in_flight": Reading(help="Jobs that are being worked on.", zero_for=("",)),
    "ingest_backlog_jobs": Reading(help="Jobs in the journal without an outcome.", zero_for=("",)),
    "ingest_oldest_pending_timestamp_seconds": Reading(
        help="When the oldest job without an outcome was admitted; absent when there is none."
    ),
    "ingest_journal_imbalance_jobs": Reading(
        help="Discovered minus settled minus pending jobs. Anything but 0 is a bug: wake someone.", zero_for=("",)
    ),
    "ingest_lane_limit_requests_per_second": Reading(
        help="Requests a second that the lane lets through; +Inf when nothing bounds it.", label="lane"
    ),
    "ingest_lane_concurrency_limit": Reading(help="Requests at once that the lane lets through.", label="lane"),
    "ingest_lane_requests_in_flight": Reading(
        help="Requests of the lane without an answer.", label="lane", zero_for=("api", "storage")
    ),
    "ingest_journal_free_bytes": Reading(help="Room left on the file system that holds the journal."),
    "ingest_last_added_timestamp_seconds": Reading(
        help="When an image was last added to a pack; absent before the first one in this journal."
    ),
    "ingest_run_completed_timestamp_seconds": Reading(help="When the run ended; absent until then."),
    "ingest_run_exit_code": Reading(help="The exit code of the run; absent until it ended."),
}


class Readings(Collector):
    """Every gauge of `READINGS`, each read through the callable it was last given."""

    def __init__(self) -> None:
        self._reads: dict[tuple[str, str], Callable[[], float | None]] = {
            (name, value): _zero for name, reading in READINGS.items() for value in reading.zero_for
        }

    def watch(self, name: str, read: Callable[[], float | None], *, label_value: str = "") -> None:
        """Read the gauge `name` through `read` from here on; where it gives None the gauge is absent."""
        self._reads[name, label_value] = read

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The empty families: what a registry checks for clashes, without reading anything."""
        for name, reading in READINGS.items():
            yield GaugeMetricFamily(name, reading.help, labels=(reading.label,) if reading.label else ())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {family.name: family for family in self.describe()}
        for (name, label_value), read in self._reads.copy().items():
            value = read()
            if value is not None:
                families[name].add_metric((label_value,) if label_value else (), value)
        yield from families.values()


def _zero() -> float:
    return 0
