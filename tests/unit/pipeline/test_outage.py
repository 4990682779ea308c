"""An outage, by the requests that the server sees: single probes while it lasts, and no storm when it is over."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from pipeline_model import FLOW, ListSource, Model, System, check, named, pictures, refused, silence, until

from ingest.errors import ImageUnreadable
from ingest.model import Lane, Operation
from ingest.settings import RunSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from pipeline_model import Do, Step, Tracked

    from ingest.api.transport import Answer, Call
    from ingest.model import Summary

CONCURRENCY, MAX_ATTEMPTS = 16, 8
THRESHOLD = 2 * MAX_ATTEMPTS  # as the gate has it
BASE_S, CAP_S = 0.01, 0.04
GIVE_UP_S = 0.3


class Away(Model):
    """A server that is not there from time to time; it notes when requests come, by lane, and how many of a lane there
    were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.came: dict[Lane, list[float]] = {lane: [] for lane in Lane}
        self.open: dict[Lane, int] = dict.fromkeys(Lane, 0)
        self.most: dict[Lane, int] = dict.fromkeys(Lane, 0)

    async def exchange(self, call: Call) -> Answer:
        lane = call.operation.lane
        self.came[lane].append(time.monotonic())
        self.open[lane] += 1
        self.most[lane] = max(self.most[lane], self.open[lane])
        try:
            return await super().exchange(call)
        finally:
            self.open[lane] -= 1

    def begin_anew(self, outage: Step | None) -> None:
        """From here on, this becomes of every request, and what came before is forgotten."""
        for operation in Operation:
            self.always(operation, outage)
        for lane in Lane:
            self.came[lane].clear()
            self.most[lane] = self.open[lane]


@pytest.mark.parametrize(
    "outage", [silence(), refused(500), silence(was_sent=False)], ids=["silence", "500", "unreachable"]
)
async def test_requests_fall_to_single_probes_and_work_resumes_within_the_limits(
    tmp_path: Path, outage: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.policy.breaker.PROBE_BASE_S", BASE_S)
    monkeypatch.setattr("ingest.policy.breaker.PROBE_CAP_S", CAP_S)
    model, summaries = Away(), []
    pack = model.add_pack()
    source = ListSource(named(*pictures(tmp_path, 200)))
    flow = replace(FLOW, concurrency=CONCURRENCY, max_attempts=MAX_ATTEMPTS)
    async with System(model).assembled(flow=flow) as pipeline:
        gates = pipeline._account.gates

        async def run(collect: Callable[[Summary], None]) -> None:
            collect(await pipeline.run([source]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, summaries.append)
            await until(lambda: len(model.came[Lane.API]) > 100)

            model.begin_anew(outage)
            await until(lambda: gates[Lane.API].breaker.is_open)
            assert len(model.came[Lane.API]) <= THRESHOLD + CONCURRENCY

            # What was under way as it opened may end at any time, and well; then a probe comes alone, half a span after
            # the last.
            await until(lambda: gates[Lane.API].breaker.is_open and not gates[Lane.API].in_flight)
            model.most[Lane.API] = 0
            model.came[Lane.API].clear()
            await until(lambda: len(model.came[Lane.API]) >= 12)
            spans = [later - sooner for sooner, later in itertools.pairwise(model.came[Lane.API])]
            assert model.most[Lane.API] == 1
            assert all(span >= CAP_S / 2.0 for span in spans[4:])

            model.begin_anew(None)

        assert model.came[Lane.API]
        assert all(most <= CONCURRENCY for most in model.most.values())
        check(pipeline, summaries[0])
    assert (summaries[0].exit_code, summaries[0].added, summaries[0].failed) == (0, 200, 0)
    assert len(pack.urls) == len(set(pack.urls)) == 200


async def test_an_outage_spends_no_attempt(tmp_path: Path) -> None:
    model = Away()
    model.add_pack()
    system = System(model)
    source = ListSource(named(*pictures(tmp_path, 40)))
    async with system.assembled() as pipeline, anyio.create_task_group() as tasks:
        tasks.start_soon(pipeline.run, [source])
        await until(lambda: len(model.came[Lane.API]) > 10)
        model.begin_anew(silence(was_sent=False))
        await until(lambda: sum(map(len, model.came.values())) > 40)
        model.begin_anew(None)
    assert not any(record.attempts for record in system.journal.records())
    assert pipeline.snapshot().pending == 0


async def test_a_lane_that_has_nothing_to_do_is_not_given_up(model: Model, system: System, tmp_path: Path) -> None:
    paths = pictures(tmp_path, 2)
    silent_s = 0.0

    async def fails_then_is_gone(call: Call, do: Do) -> Answer:
        model.always(Operation.PUT_FILE, is_gone)
        return await silence()(call, do)

    async def is_gone(_call: Call, _do: Do) -> Answer:
        raise ImageUnreadable("gone", reason="missing")

    class Slow(ListSource):
        async def _batches(self) -> AsyncIterator[list[Tracked]]:
            nonlocal silent_s
            yield self.deliveries[:1]
            gate = pipeline._account.gates[Lane.STORAGE]
            # The storage failed once and has nothing to do since, for longer than is waited for.
            await until(lambda: gate.breaker.silent_since is not None and not gate.is_wanted)
            assert gate.breaker.silent_since is not None
            await anyio.sleep(2.0 * GIVE_UP_S)
            silent_s = time.monotonic() - gate.breaker.silent_since
            model.always(Operation.PUT_FILE, None)
            yield self.deliveries[1:]

    model.always(Operation.PUT_FILE, fails_then_is_gone)
    async with system.assembled(flow=replace(FLOW, give_up_after_s=GIVE_UP_S)) as pipeline:
        summary = await pipeline.run([Slow(named(*paths))])
    assert silent_s > GIVE_UP_S
    assert (summary.added, summary.failed, summary.exit_code) == (1, 1, 1)


@pytest.mark.parametrize("operation", [Operation.UPLOAD_FILE, Operation.PUT_FILE, Operation.GET_PACK])
async def test_a_lane_whose_requests_back_off_is_given_up(
    model: Model, system: System, tmp_path: Path, operation: Operation
) -> None:
    model.next(Operation.ADD_IMAGE, silence())  # so that its pack is read
    model.always(operation, silence())
    # Nearly all the time is back-off, of the request itself or of the pack's reads.
    flow = replace(FLOW, give_up_after_s=GIVE_UP_S, backoff_base_s=0.1, backoff_cap_s=0.1, max_attempts=1000)
    run = RunSettings(pack="Motivation")
    summary = await system.run(ListSource(named(*pictures(tmp_path, 1))), flow=flow, run=run)
    assert (summary.exit_code, summary.pending) == (75, 1)
    assert summary.error is not None
    assert summary.error.code == "unreachable"
