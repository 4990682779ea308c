"""A refused key: who is waited for, what is sent meanwhile, and how it ends."""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from pipeline_model import FLOW, ListSource, Model, Stall, System, check, envelope, named, pictures, refused, until

from ingest.errors import Fatal, Refused
from ingest.model import Lane, Operation
from ingest.pipeline.guard import State
from ingest.settings import ApiSettings, RunSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ingest.api.transport import Answer, Call
    from ingest.model import Summary
    from ingest.pipeline.guard import Guard
    from ingest.pipeline.run import Pipeline

LIST, PUT = Operation.LIST_PACKS, Operation.PUT_FILE
WAIT, EXIT = RunSettings(on_fatal="wait"), RunSettings(on_fatal="exit", key_rotation_s=3600.0)
GIVEN_UP_SOON = RunSettings(on_fatal="exit", key_rotation_s=0.01)


class Workspaces(Model):
    """A server that knows keys; each sees the packs of its own workspace only. A key that it does not know is refused
    from the `after`-th request of the API on."""

    def __init__(self) -> None:
        super().__init__()
        self.workspaces: dict[str, str] = {"old.secret": "ours", "new.secret": "ours", "stranger.secret": "theirs"}
        self.after: dict[str, int] = {}
        self.sent: list[tuple[str, Operation]] = []

    async def exchange(self, call: Call) -> Answer:
        if call.operation is PUT:
            return await super().exchange(call)
        key = call.headers["Authorization"].removeprefix("Bearer ")
        workspace = self.workspaces.get(key)
        if workspace is None or len(self.sent) >= self.after.get(key, 1_000_000):
            self.sent.append((key, call.operation))
            self.log.append(call.operation)
            return envelope(401, error_code="invalid_token")
        self.sent.append((key, call.operation))
        for pack in self.packs.values():
            pack.is_ours = workspace == "ours"
        return await super().exchange(call)

    def refuse(self, key: str = "old.secret", *, after: int = 0) -> None:
        self.after[key] = after

    def restore(self, key: str = "old.secret") -> None:
        self.after.pop(key, None)


@pytest.fixture
def model() -> Workspaces:
    model = Workspaces()
    model.add_pack()
    return model


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("old.secret\n")
    return file


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.pipeline.guard.POLL_S", 0.001)
    monkeypatch.setattr("ingest.policy.vigil.ASK_BASE_S", 0.002)
    monkeypatch.setattr("ingest.policy.vigil.ASK_CAP_S", 0.004)


@pytest.fixture
def never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused is not asked about again within a test, unless there is another key."""
    monkeypatch.setattr("ingest.pipeline.guard._jitter", lambda: 0.999)
    monkeypatch.setattr("ingest.policy.vigil.ASK_BASE_S", 3600.0)
    monkeypatch.setattr("ingest.policy.vigil.ASK_CAP_S", 3600.0)


class Run:
    """A run under way, with what it holds back."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.summary: Summary | None = None

    @property
    def guard(self) -> Guard:
        return self.pipeline._packs._guard

    @property
    def refusal(self) -> str | None:
        return self.pipeline.snapshot().lanes[Lane.API].refusal

    @property
    def fatal(self) -> set[str]:
        """The reasons that `ingest_fatal` tells."""
        told = self.pipeline._recorder.render()[0].decode()
        lines = [line for line in told.splitlines() if line.startswith("ingest_fatal{") and line.endswith(" 1.0")]
        return {line.partition('reason="')[2].partition('"')[0] for line in lines}

    async def waits(self) -> None:
        await until(lambda: self.guard.state is State.WAITING)

    async def __call__(self, source: ListSource) -> None:
        self.summary = await self.pipeline.run([source])
        check(self.pipeline, self.summary)


def running(system: System, paths: list[Path], settings: RunSettings, **flow: float) -> AsyncIterator[Run]:
    return _Running(system, ListSource(named(*paths)), settings, flow)


class _Running:
    """Starts a run; leaving waits for its end."""

    def __init__(self, system: System, source: ListSource, settings: RunSettings, flow: dict[str, float]) -> None:
        self._assembled = system.assembled(flow=replace(FLOW, **flow), run=settings)
        self._source = source

    async def __aenter__(self) -> Run:
        run = Run(await self._assembled.__aenter__())
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(run, self._source)
        return run

    async def __aexit__(self, *problem: object) -> None:
        if problem[0] is not None:
            self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(*problem)
        await self._assembled.__aexit__(*problem)


@pytest.fixture
def system(model: Workspaces) -> System:
    return System(model, key="old.secret")


@pytest.fixture
def from_file(model: Workspaces, key_file: Path) -> System:
    system = System(model)
    system.api = ApiSettings(key_file=str(key_file), base_url=system.api.base_url)
    return system


def all_once(model: Workspaces, count: int) -> bool:
    (pack,) = model.packs.values()
    return len(pack.urls) == len(set(pack.urls)) == count and set(model.adds.values()) == {1}


# Wait.


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9, 16])
async def test_a_key_that_is_restored_is_taken_up_where_it_was(system, model, tmp_path, after):
    model.refuse(after=after)
    async with running(system, pictures(tmp_path, 10), WAIT) as run:
        await run.waits()
        assert run.refusal == "401 invalid_token"
        assert run.fatal == {"invalid_token"}
        model.restore()
    assert run.refusal is None
    assert run.fatal == set()
    assert (run.summary.exit_code, run.summary.added, run.summary.failed) == (0, 10, 0)
    assert all_once(model, 10)
    assert not any(record.attempts for record in system.journal.records())


async def test_only_probes_are_sent_and_nothing_is_admitted_while_it_waits(system, model, tmp_path):
    model.refuse(after=8)
    source = ListSource(named(*pictures(tmp_path, 400, kinds=50)), batch_size=4)
    async with _Running(system, source, WAIT, {}) as run:
        await run.waits()
        await until(lambda: model.in_flight == 0)
        asked, admitted = len(model.sent), run.pipeline.snapshot().discovered
        await until(lambda: len(model.sent) >= asked + 5)
        assert {operation for _, operation in model.sent[asked:]} == {LIST}
        assert run.pipeline.snapshot().discovered - admitted <= 4  # the batch that was being admitted
        model.restore()
    assert (run.summary.discovered, run.summary.added, run.summary.duplicate) == (400, 50, 350)
    assert all_once(model, 50)


async def test_what_has_its_ticket_is_put_meanwhile(system, model, tmp_path):
    model.always(PUT, put := Stall())
    async with running(system, pictures(tmp_path, 1), WAIT) as run:
        await put.came.wait()
        model.refuse()
        run.pipeline._account.gates[Lane.API].hold()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run.guard.confirm, Fatal("no", operation=LIST, status=401))
                await run.waits()
                put.go.set()
                await until(lambda: bool(model.objects))
                assert model.count(Operation.ADD_IMAGE) == 0
                model.restore()
        assert not scope.cancel_called
    assert all_once(model, 1)
    assert model.count(Operation.UPLOAD_FILE) == 1


@pytest.mark.parametrize("after", [0, 2, 9])
async def test_a_signal_ends_the_wait_at_once_and_leaves_everything_pending(system, model, tmp_path, after):
    model.refuse(after=after)
    async with running(system, pictures(tmp_path, 10), WAIT, drain_timeout_s=3600.0) as run:
        await run.waits()
        asked = Counter(operation for _, operation in model.sent)
        system.stop.signalled(signal.SIGTERM)
    assert run.summary.exit_code == 143
    assert (run.summary.failed, run.summary.rejected) == (0, 0)
    assert run.guard.state is State.REFUSED
    assert Counter(operation for _, operation in model.sent) - asked <= Counter({LIST: 1})  # a probe under way
    model.restore()
    assert (await system.run(ListSource(named(*sorted(tmp_path.glob("*.png")))))).exit_code == 0
    assert all_once(model, 10)


async def test_a_signal_ends_a_probe_that_is_not_answered(system, model, tmp_path):
    model.next(LIST, None, None, refused(401, "invalid_token"), probe := Stall())  # two of them find the pack
    model.next(Operation.UPLOAD_FILE, refused(401, "invalid_token"))
    async with running(system, pictures(tmp_path, 1), WAIT, drain_timeout_s=3600.0) as run:
        await probe.came.wait()
        system.stop.signalled(signal.SIGTERM)
    assert run.summary.exit_code == 143
    assert probe.gone.is_set()


@pytest.mark.usefixtures("never_by_itself")
async def test_a_changed_key_file_is_tried_at_once(from_file, model, key_file, tmp_path):
    model.refuse(after=6)
    async with running(from_file, pictures(tmp_path, 10), WAIT) as run:
        await run.waits()
        refused_so_far = len(model.sent)
        key_file.write_text("new.secret")
    assert run.summary.exit_code == 0
    assert all_once(model, 10)
    assert {key for key, _ in model.sent[refused_so_far:]} == {"new.secret"}


async def test_a_key_of_another_workspace_sends_nothing_for_jobs(from_file, model, key_file, tmp_path):
    model.refuse(after=6)
    async with running(from_file, pictures(tmp_path, 10), WAIT) as run:
        await run.waits()
        key_file.write_text("stranger.secret")
        await until(lambda: run.refusal == "404 wrong_scope")
        assert run.fatal == {"wrong_scope"}
        key_file.write_text("new.secret")
    assert run.summary.exit_code == 0
    assert {operation for key, operation in model.sent if key == "stranger.secret"} == {LIST}
    assert all_once(model, 10)


@pytest.mark.parametrize("after", [0, 6])
async def test_a_key_that_is_rotated_to_another_workspace_before_the_first_refusal_is_found_out(
    from_file, model, key_file, tmp_path, after
):
    journal_knows = RunSettings(on_fatal="wait")
    assert (await from_file.run(ListSource(named(*pictures(tmp_path, 1))), run=journal_knows)).added == 1
    model.sent.clear()
    model.refuse(after=after)
    async with running(from_file, pictures(tmp_path, 9, start=1), WAIT) as run:
        key_file.write_text("stranger.secret")
        await run.waits()
        await until(lambda: run.refusal == "404 wrong_scope")
        key_file.write_text("new.secret")
    assert {operation for key, operation in model.sent if key == "stranger.secret"} == {LIST}
    assert all_once(model, 10)


async def test_a_run_that_begins_with_a_key_of_another_workspace_goes_on_with_the_right_one(
    from_file, model, key_file, tmp_path
):
    assert (await from_file.run(ListSource(named(*pictures(tmp_path, 1))))).added == 1
    key_file.write_text("stranger.secret")
    async with running(from_file, pictures(tmp_path, 5, start=1), WAIT) as run:
        await run.waits()
        assert run.refusal == "404 wrong_scope"
        key_file.write_text("new.secret")
    assert run.summary.exit_code == 0
    assert model.count(Operation.CREATE_PACK) == 0
    assert all_once(model, 6)


async def test_while_a_changed_key_is_not_clearly_taken_nothing_goes_on(from_file, model, key_file, tmp_path):
    async def unclear(call, do):
        return envelope(500) if "new" in call.headers["Authorization"] else do()

    model.refuse(after=6)
    model.always(LIST, unclear)
    async with running(from_file, pictures(tmp_path, 10), WAIT) as run:
        key_file.write_text("new.secret")
        await until(lambda: model.sent.count(("new.secret", LIST)) >= 3)
        assert run.guard.state is State.WAITING
        assert {operation for key, operation in model.sent if key == "new.secret"} == {LIST}
        model.always(LIST, None)
    assert all_once(model, 10)


async def test_the_wait_is_no_silence(system, model, tmp_path):
    model.refuse(after=6)
    limit_s = 0.05
    async with running(system, pictures(tmp_path, 10), WAIT, give_up_after_s=limit_s) as run:
        await run.waits()
        for gate in run.pipeline._account.gates.values():
            gate.breaker.failed(time.monotonic(), jitter=0.0)  # under way as the wait began
        over_at = time.monotonic() + 4 * limit_s
        await until(lambda: time.monotonic() > over_at)
        model.restore()
    assert run.summary.exit_code == 0
    assert all_once(model, 10)


async def test_what_one_request_may_not_do_is_asked_about_ever_more_rarely(system, model, tmp_path, monkeypatch):
    monkeypatch.setattr("ingest.pipeline.guard._jitter", lambda: 0.999)
    monkeypatch.setattr("ingest.policy.vigil.ASK_CAP_S", 3600.0)
    waits: list[float] = []
    model.always(Operation.ADD_IMAGE, refused(403, "tier_not_allowed"))
    async with running(system, pictures(tmp_path, 1), WAIT) as run:
        for _ in range(5):
            await run.waits()
            assert run.refusal == "403 tier_not_allowed"
            waits.append(run.guard._vigil._ask_at - time.monotonic())
            began = model.count(Operation.ADD_IMAGE)
            await until(lambda began=began: model.count(Operation.ADD_IMAGE) > began)
        model.always(Operation.ADD_IMAGE, None)
    assert run.guard._vigil._tries >= 5
    assert waits[-1] > 4 * waits[0]
    assert (run.summary.exit_code, run.summary.failed) == (0, 0)


# Exit.


async def test_without_a_key_file_it_ends_at_once(system, model, tmp_path):
    model.refuse(after=6)
    async with running(system, pictures(tmp_path, 10), EXIT) as run:
        pass
    assert (run.summary.exit_code, run.summary.error.code) == (3, "invalid_token")
    assert run.fatal == {"invalid_token"}


@pytest.mark.usefixtures("never_by_itself")
async def test_with_one_it_waits_for_another_key(from_file, model, key_file, tmp_path):
    model.refuse(after=6)
    async with running(from_file, pictures(tmp_path, 10), EXIT) as run:
        await run.waits()
        assert run.refusal == "401 invalid_token"
        key_file.write_text("new.secret")
    assert run.summary.exit_code == 0
    assert run.fatal == set()
    assert all_once(model, 10)


async def test_a_file_that_stays_as_it_is_ends_it_without_another_request(from_file, model, tmp_path):
    model.refuse(after=6)
    async with running(from_file, pictures(tmp_path, 10), GIVEN_UP_SOON) as run:
        await run.waits()
        await until(lambda: model.in_flight == 0)
        asked = len(model.sent)
    assert (run.summary.exit_code, run.summary.error.code) == (3, "invalid_token")
    assert (run.summary.failed, run.summary.rejected) == (0, 0)
    assert len(model.sent) <= asked + FLOW.concurrency  # what was under way


async def test_another_key_that_is_refused_as_well_is_asked_about_until_it_is_known(
    from_file, model, key_file, tmp_path
):
    model.refuse(after=6)
    model.refuse("new.secret")
    async with running(from_file, pictures(tmp_path, 10), EXIT) as run:
        await run.waits()
        key_file.write_text("new.secret")
        await until(lambda: model.sent.count(("new.secret", LIST)) > 3)
        model.restore("new.secret")
    assert run.summary.exit_code == 0
    assert all_once(model, 10)


async def test_a_signal_ends_that_wait_too(from_file, model, tmp_path):
    model.refuse(after=6)
    async with running(from_file, pictures(tmp_path, 10), EXIT, drain_timeout_s=3600.0) as run:
        await run.waits()
        from_file.stop.signalled(signal.SIGINT)
    assert run.summary.exit_code == 130
    assert not any(isinstance(reason, Refused) for reason in from_file.stop._reasons)
