"""Why a run stops: which reason counts, and what it ends."""

from __future__ import annotations

import itertools
import signal

import anyio
import pytest

from ingest.errors import GaveUp, JournalInUse, MachineError, Refused, UsageError
from ingest.pipeline.stop import Stop, Stopped, TooManyRejected

REASONS = [
    (UsageError("usage", code="usage", hint="u"), 2),
    (Refused("refused", code="refused", hint="r"), 3),
    (MachineError("machine", code="machine", hint="m"), 74),
    (signal.SIGINT, 130),
    (GaveUp("gave up", code="gave_up", hint="g"), 75),
    (TooManyRejected("too many", code="max_rejected", hint="t"), 1),
]


def tell(stop: Stop, reason) -> None:
    if isinstance(reason, signal.Signals):
        stop.signalled(reason)
    else:
        stop.because(reason)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(range(len(REASONS)), 2)))
def test_of_two_reasons_the_first_of_the_exit_codes_counts(first, second):
    stop = Stop()
    tell(stop, REASONS[first][0])
    tell(stop, REASONS[second][0])
    assert stop.exit_code == REASONS[min(first, second)][1]


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "sigint"), (signal.SIGTERM, 143, "sigterm")])
def test_a_signal_has_the_code_that_shells_give_it(number, code, name):
    stop = Stop()
    stop.signalled(number)
    assert stop.exit_code == code
    assert stop.error is not None
    assert stop.error.code == name
    assert not stop.hurried.is_set()
    stop.signalled(number)
    assert stop.hurried.is_set()


def test_without_a_reason_there_is_none():
    stop = Stop()
    assert (stop.is_requested, stop.exit_code, stop.error) == (False, None, None)


def test_a_journal_in_use_is_giving_up():
    stop = Stop()
    stop.because(JournalInUse("in use", code="journal_in_use"))
    assert stop.exit_code == 75


async def test_a_sleep_ends_with_the_run():
    stop = Stop()
    await stop.sleep(0.0)
    async with anyio.create_task_group() as tasks:

        async def sleep() -> None:
            with pytest.raises(Stopped):
                await stop.sleep(3600.0)

        tasks.start_soon(sleep)
        await anyio.lowlevel.checkpoint()
        stop.because(REASONS[4][0])
    with pytest.raises(Stopped):
        await stop.sleep(0.0)


async def test_a_block_is_interrupted_wherever_it_waits():
    stop, left = Stop(), []
    async with anyio.create_task_group() as tasks:

        async def block() -> None:
            with stop.interrupts():
                await anyio.sleep_forever()
            left.append("block")

        tasks.start_soon(block)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        stop.signalled(signal.SIGTERM)
    assert left == ["block"]


@pytest.mark.parametrize("signals", [1, 2])
async def test_what_is_not_to_be_cut_ends_first_unless_it_is_hurried(signals):
    stop, left = Stop(), []
    go = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def block() -> None:
            with stop.interrupts():
                with stop.uncut():
                    await go.wait()
                    left.append("uncut")
                await anyio.sleep_forever()

        tasks.start_soon(block)
        await anyio.wait_all_tasks_blocked()
        for _ in range(signals):
            stop.signalled(signal.SIGTERM)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert left == (["uncut"] if signals == 1 else [])


async def test_a_block_begun_after_the_stop_is_interrupted_at_its_first_wait():
    stop = Stop()
    stop.because(REASONS[0][0])
    with stop.interrupts():
        await anyio.sleep_forever()


async def test_a_cancellation_from_outside_passes_through():
    stop = Stop()
    with anyio.CancelScope() as scope:
        with stop.interrupts():
            scope.cancel()
            await anyio.sleep_forever()
        raise AssertionError
    assert scope.cancelled_caught
    assert stop._scopes == []
