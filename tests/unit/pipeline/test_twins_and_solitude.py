"""Equal images wait for the one that goes ahead; a suspect job runs alone."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from msgspec.structs import replace

from ingest.journal.records import Record
from ingest.model import Fingerprint, JobId, Locator, PackId, RunId
from ingest.pipeline.solitude import Solitude
from ingest.pipeline.twins import Twins
from ingest.pipeline.work import Work
from ingest.policy.lifecycle import State

SEEN = Fingerprint(b"1" * 32)
OTHER = Fingerprint(b"2" * 32)


def work(number: int, pack_id: str = "pack") -> Work:
    record = Record(
        job_id=JobId(number),
        pack_id=PackId(pack_id),
        key="k",
        revision=1,
        locator=Locator("/a"),
        file_name="a",
        state=State.CLAIMED,
        admitted_at=0.0,
        run_id=RunId("run"),
    )
    return Work(record=record)


def test_the_first_goes_ahead_and_the_rest_come_back_in_order():
    twins, first, second, third = Twins(), work(1), work(2), work(3)
    assert twins.claim(first, SEEN)
    for later in (second, third):
        assert not twins.claim(later, SEEN)
        twins.shelve(later, SEEN)
    assert twins.claim(first, SEEN)  # again is harmless
    assert twins.end(first) == [second, third]
    assert twins.end(first) == []
    assert twins.claim(third, SEEN)


def test_packs_and_contents_are_apart():
    twins = Twins()
    assert twins.claim(work(1), SEEN)
    assert twins.claim(work(2), OTHER)
    assert twins.claim(work(3, "another"), SEEN)


def test_only_the_one_ahead_ends_the_waiting():
    twins, first, second = Twins(), work(1), work(2)
    twins.claim(first, SEEN)
    twins.shelve(second, SEEN)
    assert twins.end(second) == []
    assert twins.end(first) == [second]


def test_one_that_gives_way_waits_with_its_shelf_for_the_other():
    twins, first, second, third = Twins(), work(1), work(2), work(3)
    twins.claim(first, SEEN)
    twins.shelve(second, SEEN)
    twins.give_way(first, third)
    assert twins.end(first) == []
    assert twins.end(third) == [first, second]


def test_a_record_that_moved_on_is_still_the_same_job():
    twins, first = Twins(), work(1)
    twins.claim(first, SEEN)
    first.record = replace(first.record, attempts=3)
    assert twins.claim(first, SEEN)


# Solitude.


async def checkpoints() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


async def test_many_share_and_one_is_alone():
    solitude, inside, most = Solitude(), 0, []

    async def shared() -> None:
        nonlocal inside
        async with solitude.shared():
            inside += 1
            await checkpoints()
            inside -= 1

    async def alone() -> None:
        async with solitude.alone():
            most.append(inside)
            await checkpoints()
            most.append(inside)

    async with anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(alone if number % 5 == 4 else shared)
            await anyio.lowlevel.checkpoint()
    assert most == [0] * 24


async def test_whoever_asks_for_solitude_goes_first():
    solitude, order, leave = Solitude(), [], anyio.Event()

    async def first() -> None:
        async with solitude.shared():
            order.append("first")
            await leave.wait()

    async def alone() -> None:
        async with solitude.alone():
            order.append("alone")
            await checkpoints()

    async def later() -> None:
        async with solitude.shared():
            order.append("later")

    async with anyio.create_task_group() as tasks:
        for ask in (first, alone, later):
            tasks.start_soon(ask)
            await checkpoints()
        assert order == ["first"]
        leave.set()
    assert order == ["first", "alone", "later"]


async def test_a_cancelled_wish_for_solitude_lets_the_others_in():
    solitude, leave, entered = Solitude(), anyio.Event(), anyio.Event()

    async def first() -> None:
        async with solitude.shared():
            await leave.wait()

    async def alone(scope: anyio.CancelScope) -> None:
        with scope:
            async with solitude.alone():
                raise AssertionError

    async def later() -> None:
        async with solitude.shared():
            entered.set()

    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        tasks.start_soon(first)
        await checkpoints()
        tasks.start_soon(alone, scope)
        await checkpoints()
        tasks.start_soon(later)
        await checkpoints()
        assert not entered.is_set()
        scope.cancel()
        await entered.wait()
        leave.set()


async def test_an_error_inside_gives_the_place_back():
    solitude = Solitude()
    for enter in (solitude.alone, solitude.shared, solitude.alone):
        with pytest.raises(ValueError, match="inside"):
            async with enter():
                raise ValueError("inside")
