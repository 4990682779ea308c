"""Values and processes that the journal's tests share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from ingest.journal.changes import Parked, Released, Settled, Stored
from ingest.journal.records import Candidate, Inspection
from ingest.model import FileStamp, Fingerprint, Locator, Outcome, PackId, RunId, Summary, Target
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingest.journal.changes import Change
    from ingest.journal.records import Record
    from ingest.journal.sqlite import SqliteJournal

TARGET = Target("https://api.example")
PACK = PackId("pack-1")
RUN = RunId("run-1")
STAMP = FileStamp(size_bytes=10, mtime_ns=1_000)
SUMMARY = Summary(
    run_id=RUN,
    discovered=4,
    added=1,
    duplicate=1,
    unchanged=0,
    rejected=1,
    failed=0,
    pending=1,
    bytes_uploaded=10,
    requests=3,
    retries=0,
    throttled=0,
    duration_s=1.5,
    exit_code=1,
    error=None,
)


def candidate(name: str, pack_id: PackId = PACK) -> Candidate:
    locator = Locator(f"/images/{name}")
    return Candidate(key=locator, pack_id=pack_id, locator=locator, file_name=name, stamp=STAMP)


def stored(record: Record) -> Stored:
    fingerprint = Fingerprint(record.job_id.to_bytes(32, "big"))
    inspection = Inspection(fingerprint=fingerprint, content_type="image/png", stamp=STAMP)
    return Stored(job_id=record.job_id, inspection=inspection, url=f"https://cdn.example/{record.job_id}")


def settled(record: Record, outcome: Outcome, reason: str | None = None) -> Settled:
    return Settled(job_id=record.job_id, outcome=outcome, reason=reason)


def changes_to(record: Record, state: State) -> list[Change]:
    """What brings a claimed job to `state`."""
    paths: dict[State, list[Change]] = {
        State.PENDING: [Released(job_id=record.job_id)],
        State.CLAIMED: [],
        State.STORED: [stored(record)],
        State.PARKED: [stored(record), Parked(job_id=record.job_id, reason="timeout")],
        State.ADDED: [stored(record), settled(record, Outcome.ADDED)],
        State.DUPLICATE: [settled(record, Outcome.DUPLICATE)],
        State.REJECTED: [settled(record, Outcome.REJECTED, "not_an_image")],
        State.FAILED: [settled(record, Outcome.FAILED, "http_500")],
    }
    return paths[state]


async def job_in(journal: SqliteJournal, state: State, name: str, *, pack_id: PackId = PACK) -> Record:
    (admission,) = await journal.admit(RUN, [candidate(name, pack_id)])
    record = admission.record
    for change in changes_to(record, state):
        record = await journal.submit(change)
    assert record.state is state
    return record


@contextlib.contextmanager
def child(script: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `script`; killed at the end, if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that the process prints; waits for it."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
