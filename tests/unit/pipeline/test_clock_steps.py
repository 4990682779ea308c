"""The wall clock steps in the middle of a run: only what is stored and shown has it, and nothing is decided by it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from pipeline_model import BASE, ListSource, Model, System, named, pictures, refused, silence

from ingest.journal.records import Selection
from ingest.journal.sqlite import SqliteJournal
from ingest.journal.tending import SqliteReader
from ingest.model import Lane, Operation, Target
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline_model import Do

    from ingest.api.transport import Answer, Call

HOUR_S = 3600.0
TARGET = Target(BASE)


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S, -365 * 24 * HOUR_S])
@pytest.mark.parametrize("at", [Operation.UPLOAD_FILE, Operation.PUT_FILE, Operation.ADD_IMAGE, Operation.GET_PACK])
async def test_a_clock_that_steps_changes_no_outcome(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: Operation, step_s: float
) -> None:
    true_time, stepped_s = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: true_time() + stepped_s)
    began = time.time()

    async def step(_call: Call, do: Do) -> Answer:
        nonlocal stepped_s
        stepped_s = step_s
        return do()

    # Some are looked up, one is added again and audited, and a pause is asked for: all that waits for a time.
    model.next(
        Operation.ADD_IMAGE,
        *(silence(effect=True), silence(), refused(500, effect=True), refused(429, retry_after="0.05")),
    )
    if at is Operation.ADD_IMAGE:
        model.next(at, *[None] * 4, step)
    else:
        model.next(at, step)
    journal_path = tmp_path / "journal.db"
    async with SqliteJournal.open(journal_path, TARGET) as journal:
        system = System(model, journal)
        async with system.assembled() as pipeline:
            summary = await pipeline.run([ListSource(named(*pictures(tmp_path, 12)))])
            breakers = [pipeline._account.gates[lane].breaker for lane in Lane]
        again = await system.run(ListSource(named(*sorted(tmp_path.glob("*.png")))))
    assert stepped_s == step_s
    assert (summary.added, summary.pending, summary.exit_code) == (12, 0, 0)
    assert 0.0 <= summary.duration_s < HOUR_S
    assert not any(breaker.is_open for breaker in breakers)
    assert (again.unchanged, again.exit_code) == (12, 0)
    assert len(model.packs["pack-1"].urls) == len(set(model.packs["pack-1"].urls)) == 12
    with SqliteReader.open(journal_path, TARGET) as reader:
        for record in reader.records(Selection()):
            assert record.state is State.ADDED
            # Both are what the wall showed at the time: of one hour or the other.
            for stored_at in (record.admitted_at, record.settled_at):
                assert stored_at is not None
                assert min(abs(stored_at - began), abs(stored_at - began - step_s)) < HOUR_S / 2
