"""What is sent again, how often, and what comes out of it."""

from __future__ import annotations

import time

import anyio
import pytest
from pipeline_model import FLOW, Model, Stall, envelope, page, refused, silence, until

from ingest.api.client import PacksClient
from ingest.api.credentials import Credentials
from ingest.errors import Fatal, Refused, Rejected, Retryable, Uncertain
from ingest.model import Lane, Operation
from ingest.pipeline.gate import Gate, GatedTransport
from ingest.pipeline.guard import Guard
from ingest.pipeline.retry import Few, Once, Patient, Retrying
from ingest.pipeline.scope import Scope
from ingest.pipeline.stop import Stop
from ingest.settings import ApiSettings

LIST = Operation.LIST_PACKS


class Api:
    """A client behind gate, guard and retry; `asleep` are the waits between."""

    def __init__(self, model: Model, metrics, settings: ApiSettings) -> None:
        self.model = model
        self.asleep: list[float] = []
        self.stop = Stop()
        credentials = Credentials(settings)
        self.gates = {lane: Gate(lane, FLOW, rate=None, recorder=metrics) for lane in Lane}
        past_the_gate = PacksClient(model, credentials, "http://api.test/v1")
        self.guard = Guard(
            self.gates[Lane.API],
            credentials,
            scope=Scope(past_the_gate, credentials),
            recorder=metrics,
            stop=self.stop,
        )
        transport = GatedTransport(model, self.gates, recorder=metrics)
        self.client = PacksClient(transport, credentials, "http://api.test/v1")
        self.retrying = Retrying(FLOW, self.gates, self.guard, recorder=metrics, sleep=self._sleep)

    @property
    def verdicts(self) -> list[Refused]:
        return [reason for reason in self.stop._reasons if isinstance(reason, Refused)]

    async def _sleep(self, delay_s: float) -> None:
        self.asleep.append(delay_s)
        await anyio.lowlevel.checkpoint()

    async def list_packs(self, attempts=None):
        return await self.retrying(self.client.list_packs, attempts=attempts or Few())

    async def add(self):
        return await self.retrying(lambda: self.client.add_image("pack-1", "http://cdn.test/1"), attempts=Few())


@pytest.fixture
def api(model, metrics) -> Api:
    return Api(model, metrics, ApiSettings(key="tester.secret"))


class Counting:
    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def spend(self, error: Retryable, *, is_outage: bool) -> bool:
        self.seen.append((error.reason, is_outage))
        return len(self.seen) < 3


async def test_what_is_retryable_is_sent_again(api):
    api.model.next(LIST, refused(500), silence(), page(502))
    assert (await api.list_packs()).total == 1
    assert api.model.count(LIST) == 4
    assert api.retrying.retries == len(api.asleep) == 3
    assert all(0.0 <= delay_s <= FLOW.backoff_cap_s for delay_s in api.asleep)


@pytest.mark.parametrize(("attempts", "requests"), [(Once(), 1), (Few(), 4), (Few(left=2), 2), (Counting(), 3)])
async def test_the_failure_itself_comes_out_when_patience_ends(api, attempts, requests):
    api.model.always(LIST, refused(500, "list_failed"))
    with pytest.raises(Retryable) as raised:
        await api.list_packs(attempts)
    assert raised.value.error_code == "list_failed"
    assert api.model.count(LIST) == requests


async def test_patience_has_no_end(api):
    api.model.next(LIST, *[refused(429, retry_after="0")] * 50)
    assert (await api.list_packs(Patient())).total == 1
    assert api.model.count(LIST) == 51


async def test_beyond_its_budget_a_retry_waits_and_holds_no_place(api, monkeypatch):
    budget, now = api.gates[Lane.API].budget, 1000.0
    monkeypatch.setattr("ingest.pipeline.retry.time.monotonic", lambda: now)
    while not budget.wait_s(now):
        budget.retried(now)
    sleeping, go = anyio.Event(), anyio.Event()

    async def sleep(delay_s: float) -> None:
        nonlocal now
        if api.asleep:  # the wait for the budget; the back-off is behind it
            assert api.gates[Lane.API].in_flight == 0
            sleeping.set()
            await go.wait()
        api.asleep.append(delay_s)
        now += delay_s

    api.retrying._sleep = sleep
    api.model.next(LIST, refused(500))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(api.list_packs)
        await sleeping.wait()
        assert api.model.count(LIST) == 1
        go.set()
    assert api.model.count(LIST) == 2
    assert api.asleep[1] == pytest.approx(0.1, rel=0.2)


async def test_who_waits_for_the_budget_goes_first_come_first_served(api):
    budget = api.gates[Lane.API].budget
    while not budget.wait_s(time.monotonic()):
        budget.retried(time.monotonic())
    order: list[int] = []

    async def one(number: int) -> None:
        was_refused = False

        async def call() -> None:
            nonlocal was_refused
            if was_refused:
                order.append(number)
                return
            was_refused = True
            await api.client.list_packs()

        api.model.next(LIST, refused(500))
        await api.retrying(call, attempts=Few())

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(one, number)
    assert order == [0, 1, 2, 3]


async def test_a_lane_without_budget_does_not_hold_up_the_other(api):
    for lane in Lane:
        api.gates[lane].budget.balance(time.monotonic())
    storage = api.gates[Lane.STORAGE].budget
    while not storage.wait_s(time.monotonic()):
        storage.retried(time.monotonic())
    api.model.next(LIST, refused(500))
    await api.list_packs()
    assert len(api.asleep) == 1


async def test_a_request_that_is_turned_away_is_made_anew(model, metrics, tmp_path):
    file = tmp_path / "key"
    file.write_text("old.secret")
    api = Api(model, metrics, ApiSettings(key_file=str(file)))
    seen: list[str] = []

    async def noted(call, do):
        seen.append(call.headers["Authorization"])
        return do()

    model.always(LIST, noted)
    gate = api.gates[Lane.API]
    gate.hold()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(api.list_packs)
        await until(lambda: len(gate._waiting) == 3)
        file.write_text("new.secret")
        await api.guard._reread()
        await until(lambda: len(gate._waiting) == 3)
        gate.release()
    assert seen == ["Bearer new.secret"] * 3
    assert api.retrying.retries == 0


async def test_a_refused_lane_is_waited_for_at_its_gate_and_not_beside_it(api):
    api.model.next(LIST, refused(429, retry_after="0"), refused(503, retry_after="0"))
    await api.list_packs()
    assert api.asleep == [0.0, 0.0]


@pytest.mark.parametrize("lane", list(Lane))
async def test_an_outage_of_any_lane_is_told_to_whose_patience_it_is(api, lane):
    attempts = Counting()
    for _ in range(2 * FLOW.max_attempts):
        api.gates[lane].breaker.failed(0.0, jitter=0.0)
    api.model.next(LIST, refused(500, "list_failed"))
    await api.list_packs(attempts)
    assert attempts.seen == [("list_failed", True)]


@pytest.mark.parametrize("status", [400, 404, 413, 422])
async def test_a_rejection_comes_out_at_once(api, status):
    api.model.next(LIST, refused(status))
    with pytest.raises(Rejected):
        await api.list_packs()
    assert api.model.count(LIST) == 1


@pytest.mark.parametrize("step", [refused(500), refused(503, retry_after="1"), page(200), page(404), silence()])
async def test_what_may_have_taken_effect_is_never_sent_again(api, step):
    api.model.next(Operation.ADD_IMAGE, step)
    with pytest.raises(Uncertain):
        await api.add()
    assert api.model.count(Operation.ADD_IMAGE) == 1


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_foreign_page_for_an_add_does_not_hold_the_lane(api, status):
    api.model.next(Operation.ADD_IMAGE, page(status))
    with pytest.raises(Uncertain):
        await api.add()
    assert (await api.list_packs()).total == 1
    assert api.verdicts == []


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_foreign_page_is_one_failure_and_no_refusal(api, status):
    api.model.next(LIST, page(status))
    assert (await api.list_packs()).total == 1
    assert api.verdicts == []
    assert api.model.count(LIST) == 2


@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_token"), (402, "subscription_required"), (403, "tier_not_allowed")]
)
async def test_a_refusal_that_is_confirmed_comes_out_and_shuts_the_lane(api, status, code):
    api.model.always(LIST, refused(status, code))
    with pytest.raises(Fatal) as raised:
        await api.list_packs()
    assert raised.value.status == status
    assert api.model.count(LIST) == 2
    with pytest.raises(Fatal):
        await api.list_packs()
    assert api.model.count(LIST) == 2
    assert [verdict.code for verdict in api.verdicts] == [code]
    assert api.verdicts[0].hint


@pytest.mark.parametrize("unclear", [None, refused(500), silence(), page(401), refused(422)])
async def test_a_refusal_that_is_not_confirmed_is_one_failure(api, unclear):
    api.model.next(LIST, refused(401, "invalid_token"), unclear)
    assert (await api.list_packs()).total == 1
    assert api.model.count(LIST) == 3
    assert api.verdicts == []
    assert api.retrying.retries == 1


async def test_a_call_that_is_refused_twice_shuts_the_lane_though_the_key_may_do_other_things(api):
    refusal = refused(403, "tier_not_allowed")
    api.model.next(Operation.ADD_IMAGE, refusal, refusal)
    with pytest.raises(Fatal) as raised:
        await api.add()
    assert raised.value.reason == "tier_not_allowed"
    assert [verdict.code for verdict in api.verdicts] == ["tier_not_allowed"]


async def test_a_hundred_refusals_are_asked_about_once(api):
    api.model.always(Operation.UPLOAD_FILE, refused(401, "invalid_token"))
    probe = Stall(refused(401, "invalid_token"))
    api.model.always(LIST, probe)
    refusals = []

    async def upload() -> None:
        with pytest.raises(Fatal) as raised:
            await api.retrying(lambda: api.client.upload_file("image/png"), attempts=Patient())
        refusals.append(raised.value.status)

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(upload)
        await probe.came.wait()
        probe.go.set()
    assert refusals == [401] * 100
    assert api.model.count(LIST) == 1
    assert api.model.count(Operation.UPLOAD_FILE) <= FLOW.concurrency
    assert len(api.verdicts) == 1


async def test_a_burst_of_refusals_that_are_not_confirmed_is_asked_about_once(api):
    api.model.next(Operation.UPLOAD_FILE, *[refused(401)] * FLOW.concurrency)
    probe = Stall()
    api.model.next(LIST, probe)
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(lambda: api.retrying(lambda: api.client.upload_file("image/png"), attempts=Patient()))
        await until(lambda: api.model.count(Operation.UPLOAD_FILE) == FLOW.concurrency and not probe.gone.is_set())
        await probe.came.wait()
        await until(lambda: api.model.in_flight == 1)  # the rest has been refused
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        probe.go.set()
    assert api.model.count(LIST) == 1
    assert api.model.count(Operation.UPLOAD_FILE) == 20 + FLOW.concurrency
    assert api.verdicts == []


async def test_while_a_refusal_is_asked_about_a_foreign_page_opens_nothing(api):
    api.model.next(Operation.UPLOAD_FILE, refused(401, "invalid_token"), page(403))
    api.model.next(LIST, probe := Stall(refused(401, "invalid_token")))

    async def upload() -> None:
        with pytest.raises(Fatal):
            await api.retrying(lambda: api.client.upload_file("image/png"), attempts=Patient())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upload)
        tasks.start_soon(upload)
        await probe.came.wait()
        await until(lambda: bool(api.asleep))
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert api.model.count(Operation.UPLOAD_FILE) == 2
        probe.go.set()
    assert api.model.count(Operation.UPLOAD_FILE) == 2


async def test_a_rotated_key_file_heals(model, metrics, tmp_path):
    file = tmp_path / "key"
    file.write_text("old.secret")
    api = Api(model, metrics, ApiSettings(key_file=str(file)))
    good = "Bearer new.secret"

    async def checked(call, do):
        return do() if call.headers["Authorization"] == good else envelope(401, error_code="invalid_token")

    model.always(LIST, checked)
    file.write_text("new.secret")
    assert (await api.list_packs()).total == 1
    assert api.verdicts == []


async def test_a_conviction_without_asking_is_final(api):
    error = Fatal("other scope", operation=Operation.GET_PACK, status=404, error_code="wrong_scope")
    with pytest.raises(Fatal):
        await api.guard.convict(error)
    with pytest.raises(Fatal):
        await api.list_packs()
    assert api.model.log == []
    assert [verdict.code for verdict in api.verdicts] == ["wrong_scope"]


async def test_a_wait_that_ends_with_the_run_ends_the_request(api):
    class Stopped(Exception):
        pass

    async def sleep(_delay_s: float) -> None:
        raise Stopped

    api.retrying._sleep = sleep
    api.model.next(LIST, refused(500))
    with pytest.raises(Stopped):
        await api.list_packs()
