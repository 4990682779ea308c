"""A lane's gate: places, their order, and that none is ever lost."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest
from pipeline_model import FLOW, Model, envelope, page, refused, silence, until

from ingest.api.transport import Answer, Call, NoAnswer
from ingest.errors import Fatal, RequestFailure
from ingest.model import Lane, Operation
from ingest.pipeline.gate import Gate, GatedTransport
from ingest.policy.pacing import SLACK_S

OK = Answer(status=200, headers={})
LOST = NoAnswer("lost", failure=RequestFailure.TIMEOUT, was_sent=True)
REFUSED = Fatal("no", operation=Operation.LIST_PACKS, status=401, error_code="invalid_token")


@pytest.fixture
def gate(metrics) -> Gate:
    return Gate(Lane.API, replace(FLOW, concurrency=2), rate=None, recorder=metrics)


class Queue:
    """Tasks that enter a gate, by number, and what became of each."""

    def __init__(self, gate: Gate, tasks) -> None:
        self.gate = gate
        self.tasks = tasks
        self.entered: list[int] = []
        self.refused: list[int] = []
        self.scopes: dict[int, anyio.CancelScope] = {}

    async def ask(self, *numbers: int) -> None:
        for number in numbers:
            self.tasks.start_soon(self._enter, number)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()

    async def _enter(self, number: int) -> None:
        with anyio.CancelScope() as self.scopes[number]:
            try:
                await self.gate.enter()
            except Fatal:
                self.refused.append(number)
            else:
                self.entered.append(number)


@pytest.fixture
def queue(gate):
    @asynccontextmanager
    async def opened():
        async with anyio.create_task_group() as tasks:
            yield Queue(gate, tasks)
            tasks.cancel_scope.cancel()

    return opened


async def settle_down() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_no_more_than_the_concurrency_and_first_come_first_served(gate, queue):
    async with queue() as waiting:
        await waiting.ask(1, 2, 3, 4, 5)
        assert waiting.entered == [1, 2]
        for count in (3, 4, 5):
            gate.leave(OK)
            await settle_down()
            assert waiting.entered == [1, 2, 3, 4, 5][:count]
            assert gate.in_flight == 2


async def test_who_comes_later_does_not_overtake(gate, queue):
    async with queue() as waiting:
        await waiting.ask(1, 2, 3)
        gate.leave(OK)  # its place is 3's, although 3 has not run yet
        assert gate.in_flight == 2
        await waiting.ask(4)
        assert waiting.entered == [1, 2, 3]
        gate.leave(OK)
        await settle_down()
        assert waiting.entered == [1, 2, 3, 4]


@pytest.mark.parametrize("cancelled", [[3], [4], [5], [3, 4], [4, 5], [3, 4, 5]])
async def test_a_cancelled_wait_holds_no_place_and_keeps_the_order(gate, queue, cancelled):
    async with queue() as waiting:
        await waiting.ask(1, 2, 3, 4, 5)
        for number in cancelled:
            waiting.scopes[number].cancel()
        await settle_down()
        while gate.in_flight:
            gate.leave(OK)
            await settle_down()
        assert waiting.entered == [n for n in (1, 2, 3, 4, 5) if n not in cancelled]


async def test_a_place_given_as_its_wait_is_cancelled_goes_to_the_next(gate, queue):
    async with queue() as waiting:
        await waiting.ask(1, 2)
        given = asyncio.ensure_future(gate.enter())
        await settle_down()
        await waiting.ask(3)
        gate.leave(OK)
        given.cancel()  # it has the place, and does not know yet
        with pytest.raises(asyncio.CancelledError):
            await given
        await settle_down()
        assert waiting.entered == [1, 2, 3]
        assert gate.in_flight == 2


async def test_a_probe_given_as_its_wait_is_cancelled_does_not_block_the_lane(gate, queue):
    async with queue() as waiting:
        gate.hold()
        given = asyncio.ensure_future(gate.enter())
        await settle_down()
        await waiting.ask(1, 2)
        for _ in range(2 * FLOW.max_attempts):
            gate.breaker.failed(0.0, jitter=0.0)  # long ago: a probe is due
        gate.release()
        given.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given
        await settle_down()
        assert waiting.entered == [1]
        assert gate.in_flight == 1


async def test_a_cancelled_probe_lets_the_next_one_go(gate, queue):
    async with queue() as waiting:
        for _ in range(2 * FLOW.max_attempts):
            gate.breaker.failed(0.0, jitter=0.0)
        await gate.enter()
        await waiting.ask(1)
        assert waiting.entered == []
        gate.leave(None)
        await until(lambda: waiting.entered == [1])


async def test_in_an_outage_one_goes_and_its_answer_opens_the_lane(gate, queue):
    async with queue() as waiting:
        for _ in range(2 * FLOW.max_attempts):
            gate.breaker.failed(0.0, jitter=0.0)
        await waiting.ask(1, 2, 3)
        assert waiting.entered == [1]
        gate.leave(OK)
        await settle_down()
        assert waiting.entered == [1, 2, 3]


async def test_held_it_starts_nothing_and_released_it_goes_on_in_order(gate, queue):
    async with queue() as waiting:
        gate.hold()
        await waiting.ask(1, 2, 3)
        await settle_down()
        assert waiting.entered == []
        gate.release()
        await settle_down()
        assert waiting.entered == [1, 2]


async def test_shut_it_refuses_who_waits_and_who_comes(gate, queue):
    async with queue() as waiting:
        await waiting.ask(1, 2, 3, 4)
        waiting.scopes[3].cancel()
        gate.shut(REFUSED)
        await settle_down()
        await waiting.ask(5)
        assert waiting.entered == [1, 2]
        assert waiting.refused == [4, 5]
    gate.leave(OK)
    gate.leave(OK)
    assert gate.in_flight == 0


async def test_a_release_after_the_shutting_opens_nothing(gate):
    gate.hold()
    gate.shut(REFUSED)
    gate.release()
    with pytest.raises(Fatal):
        await gate.enter()


async def test_a_wait_that_is_cancelled_as_the_gate_is_shut_ends_as_cancelled(gate):
    gate.hold()
    waiting = asyncio.ensure_future(gate.enter())
    await settle_down()
    gate.shut(REFUSED)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert gate.in_flight == 0


async def test_a_pause_ends_by_itself(gate, queue):
    async with queue() as waiting:
        await gate.enter()
        gate.leave(Answer(status=429, headers={}), retry_after_s=0.03)
        await waiting.ask(1, 2, 3)
        assert waiting.entered == []
        assert gate.wait_s > 0.0
        await until(lambda: waiting.entered == [1, 2])


async def test_a_pace_lets_one_after_another_through(metrics):
    gate = Gate(Lane.API, replace(FLOW, concurrency=100), rate=200.0, recorder=metrics)
    starts: list[float] = []

    async def one() -> None:
        starts.append(await gate.enter())
        gate.leave(OK, started_at=starts[-1])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(one)
    assert gate.in_flight == 0
    assert len(starts) == 30
    assert starts[-1] - starts[0] >= 29 / 200.0 - SLACK_S - 1e-6


async def test_a_pause_that_is_lengthened_while_others_wait_holds_them(gate, queue):
    async with queue() as waiting:
        await gate.enter()
        await gate.enter()
        gate.leave(Answer(status=429, headers={}), retry_after_s=0.01)
        await waiting.ask(1)
        gate.leave(Answer(status=429, headers={}), retry_after_s=3600.0)
        await anyio.sleep(0.03)  # beyond the first pause
        assert waiting.entered == []


@pytest.mark.parametrize("seed", range(20))
async def test_in_any_disorder_no_place_is_lost_and_none_too_many_is_given(gate, seed):
    dice = random.Random(seed)
    ends = [OK, OK, LOST, Answer(status=500, headers={}), Answer(status=404, headers={}), None]
    most = 0

    async def one(scope: anyio.CancelScope) -> None:
        nonlocal most
        with scope:
            await gate.enter()
            most = max(most, gate.in_flight)
            end = None
            try:
                for _ in range(dice.randrange(4)):
                    await anyio.lowlevel.checkpoint()
                end = dice.choice(ends)
            finally:
                gate.leave(end)
                gate.breaker.answered()  # an outage would slow the test down
                gate.release()

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            scope = anyio.CancelScope()
            tasks.start_soon(one, scope)
            for _ in range(dice.randrange(3)):
                await anyio.lowlevel.checkpoint()
            if dice.random() < 0.3:
                scope.cancel()
            if dice.random() < 0.2:
                gate.hold()
                gate.release()
    assert gate.in_flight == 0
    assert most <= 2
    await gate.enter()
    await gate.enter()
    assert gate.in_flight == 2


# The transport.


def call(operation: Operation = Operation.LIST_PACKS) -> Call:
    return Call(operation=operation, method="GET", url="http://api.test/v1/packs")


@pytest.fixture
def gates(metrics):
    return {lane: Gate(lane, FLOW, rate=None, recorder=metrics) for lane in Lane}


@pytest.mark.parametrize(
    ("step", "is_paused", "failures", "is_held", "throttled"),
    [
        (None, False, 0, False, 0),
        (refused(404), False, 0, False, 0),
        (refused(422), False, 0, False, 0),
        (refused(429), False, 0, False, 1),  # a lone one may be chance, and waits for itself
        (refused(429, retry_after="3"), True, 0, False, 1),
        (refused(429, retry_after="nonsense"), False, 0, False, 1),
        (refused(503, retry_after="3"), True, 0, False, 0),
        (refused(503), False, 1, False, 0),
        (refused(500), False, 1, False, 0),
        (page(502), False, 1, False, 0),
        (silence(), False, 1, False, 0),
        (refused(401, "invalid_token"), False, 0, True, 0),
        (refused(402), False, 0, True, 0),
        (refused(403), False, 0, True, 0),
        (page(403), False, 1, True, 0),
        (page(302), False, 1, False, 0),
        (page(200), False, 1, False, 0),
    ],
)
async def test_what_an_answer_means_for_the_lane(  # noqa: PLR0917 - a table
    model, gates, metrics, step, is_paused, failures, is_held, throttled
):
    model.next(Operation.LIST_PACKS, step)
    transport = GatedTransport(model, gates, recorder=metrics)
    with anyio.CancelScope():
        try:
            await transport.exchange(call())
        except NoAnswer:
            assert failures == 1
    gate = gates[Lane.API]
    assert (gate.wait_s > 0) == is_paused
    assert gate.breaker._failures == failures
    assert (gate.last_failure is not None) == bool(failures)
    assert gate._is_held == is_held
    assert gate.in_flight == 0
    assert (transport.traffic.requests, transport.traffic.throttled) == (1, throttled)
    assert gates[Lane.STORAGE].wait_s == 0.0


async def test_a_refused_ticket_holds_no_lane(gates, metrics):
    class Storage:
        async def exchange(self, _call: Call) -> Answer:
            return envelope(403)

    await GatedTransport(Storage(), gates, recorder=metrics).exchange(call(Operation.PUT_FILE))
    assert not any(gate._is_held for gate in gates.values())


@pytest.mark.parametrize("problem", [ValueError("the body"), anyio.WouldBlock()])
async def test_an_error_of_the_body_gives_the_place_back(gates, metrics, problem):
    class Failing:
        async def exchange(self, _call: Call) -> Answer:
            raise problem

    with pytest.raises(type(problem)):
        await GatedTransport(Failing(), gates, recorder=metrics).exchange(call())
    assert gates[Lane.API].in_flight == 0
    assert gates[Lane.API].breaker._failures == 0


async def test_a_cancelled_request_gives_the_place_back(gates, metrics):
    entered = anyio.Event()

    class Hanging:
        async def exchange(self, _call: Call) -> Answer:
            entered.set()
            await anyio.sleep_forever()
            raise AssertionError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(GatedTransport(Hanging(), gates, recorder=metrics).exchange, call())
        await entered.wait()
        assert gates[Lane.API].in_flight == 1
        tasks.cancel_scope.cancel()
    assert gates[Lane.API].in_flight == 0


async def test_a_shut_lane_sends_nothing(model: Model, gates, metrics):
    gates[Lane.API].shut(REFUSED)
    with pytest.raises(Fatal):
        await GatedTransport(model, gates, recorder=metrics).exchange(call())
    assert model.log == []


async def test_headers_that_say_that_nothing_is_left_hold_the_lane(gates, metrics):
    class Api:
        async def exchange(self, _call: Call) -> Answer:
            headers = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "86400"}
            return Answer(status=200, headers=headers, body=b"{}")

    await GatedTransport(Api(), gates, recorder=metrics).exchange(call())
    assert FLOW.max_retry_after_s - 1.0 < gates[Lane.API].wait_s <= FLOW.max_retry_after_s
    assert gates[Lane.STORAGE].wait_s == 0.0


async def test_places_grow_while_all_are_taken_and_shrink_when_the_server_takes_no_more(metrics):
    gate = Gate(Lane.API, replace(FLOW, concurrency=64), rate=None, recorder=metrics)
    for started_at in [await gate.enter() for _ in range(gate.concurrency)]:
        gate.leave(OK, started_at=started_at)
    grown = gate.concurrency
    assert grown > 4
    for started_at in [await gate.enter() for _ in range(grown)][:4]:
        gate.leave(Answer(status=503, headers={}), started_at=started_at)
    assert gate.concurrency < grown
    assert gate.pacer.rate == float("inf")


async def test_what_was_under_way_at_a_refusal_is_its_echo(metrics):
    gate = Gate(Lane.API, replace(FLOW, concurrency=64), rate=None, recorder=metrics)
    starts = [await gate.enter() for _ in range(4)]
    gate.leave(Answer(status=429, headers={}), started_at=starts[0], retry_after_s=2.0)
    until_first = gate.pacer.paused_until
    for started_at in starts[1:]:
        gate.leave(Answer(status=429, headers={}), started_at=started_at)
    assert gate.pacer.paused_until == until_first
