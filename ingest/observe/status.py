"""The snapshot: how a run stands at one moment, for whatever shows it.

Values only. Made by the run on request; never sent anywhere by itself.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.model import Lane, Outcome, RunId

__all__ = ["LaneStatus", "Phase", "Snapshot"]


class Phase(enum.StrEnum):
    """What a run is doing as a whole."""

    OPENING = "opening"  # looking up packs, reading the journal
    RUNNING = "running"
    CHECKING = "checking"  # every source is read; only lookups and audits are waited for
    DRAINING = "draining"  # asked to stop: what is in hand is finished
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatus:
    """One lane's limits in force."""

    in_flight: int
    concurrency: int
    rate: float  # requests a second; infinite where nothing limits it
    paused_for_s: float  # until the server wants requests again; 0: no pause
    next_probe_in_s: float  # in an outage; 0: none. Infinite while a probe is out
    silent_since: float | None  # Unix seconds of the first failure with no success after it
    refusal: str | None = None  # what the API says of the key while a person is waited for: `401 invalid_token`


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How a run stands. Counts are deliveries, as in `model.Summary`; durations are seconds."""

    run_id: RunId
    phase: Phase
    discovered: int
    outcomes: Mapping[Outcome, int]
    unchanged: int
    pending: int
    in_hand: int  # jobs that a worker has
    parked: int  # jobs that wait for a lookup
    audits: int  # urls that are checked for a second copy
    next_check_in_s: float  # infinite where nothing is to be checked
    bytes_uploaded: int
    requests: int
    retries: int
    throttled: int
    elapsed_s: float
    lanes: Mapping[Lane, LaneStatus]
