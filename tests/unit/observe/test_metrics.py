"""Metrics: what a scraper reads. Everything is asserted on the exposition text, parsed as Prometheus would."""

import math
from typing import get_args

import pytest
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from ingest.errors import RequestFailure
from ingest.model import Lane, Operation, Outcome
from ingest.observe.metrics import Metrics
from ingest.observe.recorders import (
    FATAL_REASONS,
    RETRY_REASONS,
    SOURCE_KINDS,
    DeliveryResult,
    PauseReason,
    Resolution,
)

EXPECTED = {  # DESIGN §8: name of a sample -> its labels, apart from a histogram's own `le`
    "ingest_jobs_discovered_total": set(),
    "ingest_jobs_total": {"outcome"},
    "ingest_jobs_in_flight": set(),
    "ingest_backlog_jobs": set(),
    "ingest_oldest_pending_timestamp_seconds": set(),
    "ingest_job_duration_seconds_bucket": set(),
    "ingest_journal_imbalance_jobs": set(),
    "ingest_requests_total": {"operation", "status"},
    "ingest_request_duration_seconds_bucket": {"operation"},
    "ingest_retries_total": {"operation", "reason"},
    "ingest_uncertain_adds_total": {"resolution"},
    "ingest_upload_bytes_total": set(),
    "ingest_lane_limit_requests_per_second": {"lane"},
    "ingest_lane_concurrency_limit": {"lane"},
    "ingest_lane_requests_in_flight": {"lane"},
    "ingest_lane_wait_seconds_bucket": {"lane"},
    "ingest_lane_paused_seconds_total": {"lane", "reason"},
    "ingest_fatal": {"reason"},
    "ingest_deliveries_total": {"source", "result"},
    "ingest_journal_commit_duration_seconds_bucket": set(),
    "ingest_journal_free_bytes": set(),
    "ingest_last_added_timestamp_seconds": set(),
    "ingest_run_completed_timestamp_seconds": set(),
    "ingest_run_exit_code": set(),
    "ingest_build_info": {"version"},
}

ABSENT_UNTIL_KNOWN = {
    "ingest_oldest_pending_timestamp_seconds",
    "ingest_lane_limit_requests_per_second",
    "ingest_lane_concurrency_limit",
    "ingest_journal_free_bytes",
    "ingest_last_added_timestamp_seconds",
    "ingest_run_completed_timestamp_seconds",
    "ingest_run_exit_code",
}


def scrape(metrics):
    """Every sample: (name, {label: value}) as a hashable key -> value."""
    body, _ = metrics.render()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def read(metrics, name, **labels):
    return scrape(metrics).get((name, frozenset(labels.items())))


def watch_everything(metrics):
    for lane in Lane:
        metrics.watch_lane(lane, limit=lambda: 5, concurrency=lambda: 4, in_flight=lambda: 3)
    metrics.watch_jobs(in_flight=lambda: 1, backlog=lambda: 2, oldest_pending_unix_s=lambda: 3, imbalance=lambda: 4)
    metrics.watch_journal(free_bytes=lambda: 5)
    metrics.last_added(6)
    metrics.run_completed(7, 0)


def test_the_names_and_labels_are_those_of_the_design():
    metrics = Metrics()
    watch_everything(metrics)
    seen: dict[str, set[str]] = {}
    for name, labels in scrape(metrics):
        if not name.endswith(("_sum", "_count")):
            seen.setdefault(name, set()).update({label for label, _ in labels} - {"le"})
    assert seen == EXPECTED


def test_each_metric_says_what_it_means():
    body, content_type = Metrics().render()
    families = list(text_string_to_metric_families(body.decode()))
    assert content_type.startswith("text/plain")
    assert all(family.documentation.endswith(".") for family in families)


def test_every_series_of_a_closed_set_starts_at_zero():
    samples = scrape(Metrics())
    closed = {
        "ingest_jobs_total": [{"outcome": outcome} for outcome in Outcome],
        "ingest_requests_total": [{"operation": o, "status": f} for o in Operation for f in RequestFailure],
        "ingest_retries_total": [{"operation": o, "reason": r} for o in Operation for r in RETRY_REASONS],
        "ingest_uncertain_adds_total": [{"resolution": r} for r in get_args(Resolution)],
        "ingest_lane_paused_seconds_total": [{"lane": x, "reason": r} for x in Lane for r in get_args(PauseReason)],
        "ingest_lane_requests_in_flight": [{"lane": lane} for lane in Lane],
        "ingest_lane_wait_seconds_count": [{"lane": lane} for lane in Lane],
        "ingest_request_duration_seconds_count": [{"operation": operation} for operation in Operation],
        "ingest_fatal": [{"reason": reason} for reason in FATAL_REASONS],
        "ingest_deliveries_total": [{"source": s, "result": r} for s in SOURCE_KINDS for r in get_args(DeliveryResult)],
    }
    for name, series in closed.items():
        assert {labels for sample, labels in samples if sample == name} == {frozenset(x.items()) for x in series}, name
    assert {value for (name, _), value in samples.items() if name != "ingest_build_info"} == {0}


def test_what_is_not_known_yet_is_absent():
    assert {name for name, _ in scrape(Metrics())}.isdisjoint(ABSENT_UNTIL_KNOWN)


def test_no_series_says_when_it_was_made():
    assert not [name for name, _ in scrape(Metrics()) if name.endswith("_created")]


def test_jobs_are_counted_by_outcome_and_timed():
    metrics = Metrics()
    metrics.discovered()
    metrics.discovered(3)
    metrics.settled(Outcome.ADDED, 0.2)
    metrics.settled(Outcome.ADDED, 120.0)
    metrics.settled(Outcome.FAILED, 5000.0)
    assert read(metrics, "ingest_jobs_discovered_total") == 4
    assert read(metrics, "ingest_jobs_total", outcome="added") == 2
    assert read(metrics, "ingest_jobs_total", outcome="failed") == 1
    assert read(metrics, "ingest_job_duration_seconds_bucket", le="0.25") == 1
    assert read(metrics, "ingest_job_duration_seconds_bucket", le="+Inf") == 3


@pytest.mark.parametrize(
    ("status", "counted_as"),
    [
        ("100", "100"),
        ("201", "201"),
        ("599", "599"),
        ("timeout", "timeout"),
        ("tls", "tls"),
        ("600", "unreadable"),
        ("099", "unreadable"),
        ("42", "unreadable"),
        ("2000", "unreadable"),
        ("٤٠٤", "unreadable"),
        ("", "unreadable"),
        ("<html>", "unreadable"),
    ],
)
def test_a_status_is_a_code_or_a_known_failure(status, counted_as):
    metrics = Metrics()
    metrics.request(Operation.ADD_IMAGE, status, 0.02)
    metrics.request(Operation.ADD_IMAGE, status, 0.02)
    assert read(metrics, "ingest_requests_total", operation="add_image", status=counted_as) == 2
    assert read(metrics, "ingest_request_duration_seconds_count", operation="add_image") == 2
    statuses = {dict(labels)["status"] for name, labels in scrape(metrics) if name == "ingest_requests_total"}
    assert statuses == {*RequestFailure, counted_as}


def test_words_outside_their_set_count_as_other():
    metrics = Metrics()
    metrics.retry(Operation.PUT_FILE, "throttled")
    metrics.retry(Operation.PUT_FILE, "a server's own words")
    metrics.delivery("redis", "acknowledged")
    metrics.delivery("my own source", "released")
    before = set(scrape(Metrics()))
    assert read(metrics, "ingest_retries_total", operation="put_file", reason="throttled") == 1
    assert read(metrics, "ingest_retries_total", operation="put_file", reason="other") == 1
    assert read(metrics, "ingest_deliveries_total", source="redis", result="acknowledged") == 1
    assert read(metrics, "ingest_deliveries_total", source="other", result="released") == 1
    assert set(scrape(metrics)) == before


def test_one_fatal_reason_is_in_force_at_a_time():
    metrics = Metrics()
    for reason, shown in [("invalid_token", "invalid_token"), ("tier_not_allowed", "tier_not_allowed"), ("?", "other")]:
        metrics.fatal(reason)
        in_force = [r for r in FATAL_REASONS if read(metrics, "ingest_fatal", reason=r) == 1]
        assert in_force == [shown]
    metrics.fatal(None)
    assert all(read(metrics, "ingest_fatal", reason=reason) == 0 for reason in FATAL_REASONS)


def test_the_rest_is_recorded_where_it_belongs():
    metrics = Metrics()
    metrics.uncertain("found")
    metrics.uploaded(1000)
    metrics.uploaded(24)
    metrics.lane_wait(Lane.API, 0.02)
    metrics.lane_paused(Lane.API, "retry_after", 1.5)
    metrics.lane_paused(Lane.API, "retry_after", 2)
    metrics.journal_commit(0.0002)
    metrics.last_added(1_700_000_000.5)
    metrics.run_completed(1_700_000_001, 75)
    assert read(metrics, "ingest_uncertain_adds_total", resolution="found") == 1
    assert read(metrics, "ingest_upload_bytes_total") == 1024
    assert read(metrics, "ingest_lane_wait_seconds_sum", lane="api") == 0.02
    assert read(metrics, "ingest_lane_paused_seconds_total", lane="api", reason="retry_after") == 3.5
    assert read(metrics, "ingest_journal_commit_duration_seconds_bucket", le="0.00025") == 1
    assert read(metrics, "ingest_last_added_timestamp_seconds") == 1_700_000_000.5
    assert read(metrics, "ingest_run_completed_timestamp_seconds") == 1_700_000_001
    assert read(metrics, "ingest_run_exit_code") == 75


def test_gauges_are_read_when_someone_looks():
    metrics = Metrics()
    state = {"limit": math.inf, "oldest": 17.0, "in_flight": 1.0}
    metrics.watch_lane(
        Lane.API, limit=lambda: state["limit"], concurrency=lambda: 64, in_flight=lambda: state["in_flight"]
    )
    metrics.watch_jobs(
        in_flight=lambda: 1,
        backlog=lambda: 2,
        oldest_pending_unix_s=lambda: state["oldest"],
        imbalance=lambda: -3,
    )
    assert read(metrics, "ingest_lane_limit_requests_per_second", lane="api") == math.inf
    assert read(metrics, "ingest_lane_limit_requests_per_second", lane="storage") is None
    assert read(metrics, "ingest_lane_requests_in_flight", lane="api") == 1
    assert read(metrics, "ingest_lane_requests_in_flight", lane="storage") == 0
    assert read(metrics, "ingest_oldest_pending_timestamp_seconds") == 17
    assert read(metrics, "ingest_journal_imbalance_jobs") == -3

    state.update(limit=2.5, oldest=None, in_flight=9)
    assert read(metrics, "ingest_lane_limit_requests_per_second", lane="api") == 2.5
    assert read(metrics, "ingest_lane_requests_in_flight", lane="api") == 9
    assert read(metrics, "ingest_oldest_pending_timestamp_seconds") is None


def test_watching_again_replaces_what_was_watched():
    metrics = Metrics()
    metrics.watch_journal(free_bytes=lambda: 1)
    metrics.watch_journal(free_bytes=lambda: 2)
    assert read(metrics, "ingest_journal_free_bytes") == 2


def test_two_in_one_process_do_not_meet():
    one, two = Metrics(), Metrics()
    one.discovered()
    assert read(one, "ingest_jobs_discovered_total") == 1
    assert read(two, "ingest_jobs_discovered_total") == 0


def test_the_default_registry_is_left_alone():
    before = {metric.name for metric in REGISTRY.collect()}
    Metrics().discovered()
    assert {metric.name for metric in REGISTRY.collect()} == before


def test_a_given_registry_is_used_and_takes_only_one():
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    assert metrics.registry is registry
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry)
