"""No progress in time ends a block, and nothing else does; told apart from a cancellation from outside."""

import asyncio

import anyio
import pytest

from ingest.api.deadlines import PROGRESS_BYTES, Deadline, Deadlines, Expired


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Block:
    """A task inside a guarded block, waiting for ever."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self.deadline: Deadline
        self.entered = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        with self._deadlines.guard() as self.deadline:
            self.entered.set()
            await asyncio.get_running_loop().create_future()


@pytest.fixture
def awake() -> Clock:
    return Clock()


@pytest.fixture
def elapsed() -> Clock:
    return Clock()


@pytest.fixture
def deadlines(awake: Clock, elapsed: Clock) -> Deadlines:
    return Deadlines(60.0, clock=awake, elapsed=elapsed, sleep_slack_s=5.0)


async def entered(deadlines: Deadlines) -> Block:
    block = Block(deadlines)
    await block.entered.wait()
    return block


def later(seconds: float, *clocks: Clock) -> None:
    for clock in clocks:
        clock.now += seconds


async def end(block: Block) -> None:
    block.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await block.task


async def test_a_block_without_progress_expires(deadlines: Deadlines, awake: Clock, elapsed: Clock) -> None:
    block = await entered(deadlines)
    later(60.0, awake, elapsed)
    deadlines.sweep()
    with pytest.raises(Expired):
        await block.task
    assert block.task.cancelling() == 0


async def test_a_block_lives_until_the_timeout(deadlines: Deadlines, awake: Clock, elapsed: Clock) -> None:
    block = await entered(deadlines)
    later(59.9, awake, elapsed)
    deadlines.sweep()
    await end(block)


async def test_progress_starts_the_time_anew(deadlines: Deadlines, awake: Clock, elapsed: Clock) -> None:
    block = await entered(deadlines)
    for _ in range(5):
        later(59.0, awake, elapsed)
        block.deadline.progress(PROGRESS_BYTES)
        deadlines.sweep()
    await end(block)


async def test_a_drip_is_no_progress(deadlines: Deadlines, awake: Clock, elapsed: Clock) -> None:
    block = await entered(deadlines)
    for _ in range(60):
        later(1.0, awake, elapsed)
        block.deadline.progress(1)
    deadlines.sweep()
    with pytest.raises(Expired):
        await block.task


async def test_small_steps_add_up_to_progress(deadlines: Deadlines, awake: Clock, elapsed: Clock) -> None:
    block = await entered(deadlines)
    for _ in range(16):
        later(30.0, awake, elapsed)
        block.deadline.progress(PROGRESS_BYTES // 2 + 1)
        deadlines.sweep()
    await end(block)


async def test_a_sleep_of_the_machine_ends_every_block(deadlines: Deadlines, elapsed: Clock) -> None:
    blocks = [await entered(deadlines) for _ in range(3)]
    later(6.0, elapsed)
    deadlines.sweep()
    for block in blocks:
        with pytest.raises(Expired):
            await block.task


async def test_a_sleep_is_noticed_once(deadlines: Deadlines, elapsed: Clock) -> None:
    later(6.0, elapsed)
    deadlines.sweep()
    block = await entered(deadlines)
    deadlines.sweep()
    await end(block)


async def test_a_clock_that_drifts_is_no_sleep(deadlines: Deadlines, elapsed: Clock) -> None:
    block = await entered(deadlines)
    for _ in range(100):
        later(1.0, elapsed)
        deadlines.sweep()
    await end(block)


async def test_a_cancellation_from_outside_goes_before(deadlines: Deadlines, awake: Clock, elapsed: Clock) -> None:
    block = await entered(deadlines)
    later(60.0, awake, elapsed)
    deadlines.sweep()
    block.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await block.task


async def test_a_cancelled_scope_outside_stays_the_scopes(deadlines: Deadlines, awake: Clock, elapsed: Clock) -> None:
    scope = anyio.CancelScope()
    is_inside = asyncio.Event()

    async def block() -> None:
        with scope, deadlines.guard():
            is_inside.set()
            await anyio.sleep_forever()

    task = asyncio.create_task(block())
    await is_inside.wait()
    later(60.0, awake, elapsed)
    scope.cancel()
    deadlines.sweep()
    await task
    assert scope.cancelled_caught


async def test_an_expired_block_can_be_caught_inside_a_scope(
    deadlines: Deadlines, awake: Clock, elapsed: Clock
) -> None:
    with anyio.CancelScope() as scope:
        block = await entered(deadlines)
        later(60.0, awake, elapsed)
        deadlines.sweep()
        with pytest.raises(Expired):
            await block.task
        await anyio.lowlevel.checkpoint()
    assert not scope.cancelled_caught


async def test_the_blocks_own_error_is_kept(deadlines: Deadlines, awake: Clock, elapsed: Clock) -> None:
    async def block() -> None:
        with deadlines.guard():
            later(60.0, awake, elapsed)
            deadlines.sweep()
            try:
                await anyio.sleep_forever()
            finally:
                raise KeyError

    with pytest.raises(KeyError):
        await asyncio.create_task(block())


async def test_a_block_that_was_left_is_not_cancelled(deadlines: Deadlines, awake: Clock, elapsed: Clock) -> None:
    with deadlines.guard():
        pass
    later(60.0, awake, elapsed)
    deadlines.sweep()
    await anyio.lowlevel.checkpoint()


async def test_sweeping_runs_on_the_loop() -> None:
    deadlines = Deadlines(0.05)
    with deadlines.sweeping(), pytest.raises(Expired), deadlines.guard():
        await anyio.sleep_forever()


async def test_a_guard_needs_a_task(deadlines: Deadlines) -> None:
    result: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def callback() -> None:
        try:
            with deadlines.guard():
                result.set_result(None)
        except RuntimeError as error:
            result.set_exception(error)

    asyncio.get_running_loop().call_soon(callback)
    with pytest.raises(RuntimeError, match="guards a task"):
        await result
