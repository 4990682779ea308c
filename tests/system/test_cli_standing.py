"""The words for where a run stands."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

import pytest

from ingest.cli import standing
from ingest.model import Lane, Outcome, RunId
from ingest.observe.status import LaneStatus, Phase, Snapshot

NOON = datetime(2026, 3, 1, 12, 0).astimezone().timestamp()
QUIET = LaneStatus(in_flight=3, concurrency=64, rate=math.inf, paused_for_s=0.0, next_probe_in_s=0.0, silent_since=None)
WELL = Snapshot(
    run_id=RunId("r"),
    phase=Phase.RUNNING,
    discovered=5,
    outcomes=dict.fromkeys(Outcome, 1),
    unchanged=0,
    pending=1,
    in_hand=1,
    parked=0,
    audits=0,
    next_check_in_s=math.inf,
    bytes_uploaded=0,
    requests=0,
    retries=0,
    throttled=0,
    elapsed_s=1.0,
    lanes={Lane.API: QUIET, Lane.STORAGE: QUIET},
)


def told(snapshot: Snapshot) -> list[str]:
    return [trouble.text for trouble in standing.troubles(snapshot, now=NOON + 60)]


def with_api(**change: float | str | None) -> Snapshot:
    return replace(WELL, lanes={**WELL.lanes, Lane.API: replace(QUIET, **change)})


def test_all_is_well() -> None:
    assert told(WELL) == []
    assert standing.done(WELL) == 4
    assert standing.limits(WELL) == "3 of 64 requests at once"
    assert standing.limits(with_api(rate=12.34)) == "3 of 64 requests at once, 12.3/s"


def test_offline() -> None:
    assert told(with_api(silent_since=NOON, next_probe_in_s=30.0)) == [
        "Offline since 12:00; next try in 30 s; nothing is lost"
    ]
    assert told(with_api(silent_since=NOON, next_probe_in_s=math.inf)) == [
        "Offline since 12:00; trying again; nothing is lost"
    ]
    assert told(with_api(silent_since=NOON)) == ["Offline since 12:00; trying again; nothing is lost"]
    assert told(with_api(silent_since=NOON + 59)) == []  # one failure is no outage


def test_refused() -> None:
    assert told(with_api(refusal="401 invalid_token", silent_since=NOON)) == [
        "The API refuses this key (401 invalid_token); waiting for a new one; nothing is lost"
    ]
    assert told(with_api(refusal="404 wrong_scope")) == [
        "The API refuses this key (404 wrong_scope); waiting for a new one; nothing is lost"
    ]
    assert told(with_api(refusal="402 subscription_required")) == [
        "The API refuses this key (402 subscription_required); waiting for another plan; nothing is lost"
    ]


def test_paused_and_checking() -> None:
    assert told(with_api(paused_for_s=12.0)) == ["The API takes no more for the moment; going on in 12 s"]
    assert told(replace(WELL, parked=2, audits=1, next_check_in_s=12.0)) == ["checking 3 adds again in 12 s"]
    assert told(replace(WELL, parked=1)) == ["checking 1 add"]
    assert told(replace(WELL, parked=1, phase=Phase.ENDED)) == []


def test_draining() -> None:
    assert standing.draining(12, 20.0) == "Finishing 12 uploads (20 s). Ctrl-C again stops now; both are safe"
    assert standing.draining(1, 0.5).startswith("Finishing 1 upload (0.5 s).")
    assert standing.draining(0, 20.0).startswith("Finishing what is in hand (20 s).")


def test_ignored() -> None:
    assert standing.ignored({}) is None
    assert standing.ignored({".txt": 3, ".mov": 38}) == "ignored 41: 38 .mov, 3 .txt"
    assert standing.ignored({"": 1, "(excluded)": 1}) == "ignored 2: 1 without an ending, 1 (excluded)"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.42, "0.4 s"), (9.97, "10 s"), (90, "90 s"), (600, "10 min"), (11100, "3 h 5 min")],
)
def test_spans(seconds: float, text: str) -> None:
    assert standing.span(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (20_100_000, "20.1 MB"), (5e12, "5 TB")]
)
def test_amounts(size: float, text: str) -> None:
    assert standing.amount(size) == text
