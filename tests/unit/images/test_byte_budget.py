"""The byte budget is kept, is fair, and loses nothing to cancellation."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.images.memory import MemoryBudget


async def settle() -> None:
    """Let every task that can go on do so."""
    await anyio.wait_all_tasks_blocked()


class Askers:
    """Tasks that ask for bytes; `granted` has their names in the order in which they got them."""

    def __init__(self, budget: MemoryBudget, group: anyio.abc.TaskGroup) -> None:
        self.granted: list[str] = []
        self._budget = budget
        self._group = group
        self._scopes: dict[str, anyio.CancelScope] = {}

    async def ask(self, name: str, size_bytes: int) -> None:
        self._group.start_soon(self._ask, name, size_bytes)
        await settle()

    async def _ask(self, name: str, size_bytes: int) -> None:
        with anyio.CancelScope() as self._scopes[name]:
            await self._budget.acquire(size_bytes)
            self.granted.append(name)

    def cancel(self, name: str) -> None:
        self._scopes[name].cancel()


@pytest.fixture
async def budget():
    return MemoryBudget(100)


@pytest.fixture
async def askers(budget):
    async with anyio.create_task_group() as group:
        yield Askers(budget, group)
        group.cancel_scope.cancel()


async def test_what_fits_is_granted_at_once(budget, askers):
    await askers.ask("a", 60)
    await askers.ask("b", 40)
    assert askers.granted == ["a", "b"]
    assert budget.held_bytes == 100


async def test_a_small_one_does_not_overtake_a_large_one(budget, askers):
    await askers.ask("first", 60)
    await askers.ask("large", 90)
    await askers.ask("small", 1)
    assert askers.granted == ["first"]
    budget.release(60)
    await settle()
    assert askers.granted == ["first", "large", "small"]


async def test_giving_back_a_part_lets_others_in(budget, askers):
    await askers.ask("a", 100)
    await askers.ask("b", 50)
    budget.release(50)
    await settle()
    assert askers.granted == ["a", "b"]


async def test_more_than_the_whole_budget_goes_alone(budget, askers):
    await askers.ask("small", 1)
    await askers.ask("huge", 1000)
    await askers.ask("next", 1)
    assert askers.granted == ["small"]
    budget.release(1)
    await settle()
    assert askers.granted == ["small", "huge"]
    budget.release(1000)
    await settle()
    assert askers.granted == ["small", "huge", "next"]


async def test_a_cancelled_asker_holds_nothing_and_lets_the_next_one_in(budget, askers):
    await askers.ask("first", 60)
    await askers.ask("large", 90)
    await askers.ask("small", 40)
    askers.cancel("large")
    await settle()
    assert askers.granted == ["first", "small"]
    assert budget.held_bytes == 100


async def test_one_that_is_cancelled_as_it_is_granted_gives_it_back(budget, askers):
    await askers.ask("first", 100)
    unlucky = asyncio.ensure_future(budget.acquire(100))
    await askers.ask("next", 100)
    budget.release(100)
    unlucky.cancel()
    await settle()
    assert unlucky.cancelled()
    assert askers.granted == ["first", "next"]
    assert budget.held_bytes == 100


async def test_no_more_is_given_back_than_was_taken(budget):
    await budget.acquire(10)
    with pytest.raises(ValueError, match="give back 11"):
        budget.release(11)


async def test_nonsense_is_refused(budget):
    with pytest.raises(ValueError, match="-1"):
        await budget.acquire(-1)
    with pytest.raises(ValueError, match="never be used"):
        MemoryBudget(0)


@given(st.lists(st.tuples(st.integers(0, 150), st.sampled_from(["finish", "cancel"])), max_size=12))
def test_everyone_is_served_in_order_and_the_budget_is_kept(asked):
    async def scenario() -> None:
        budget = MemoryBudget(100)
        async with anyio.create_task_group() as group:
            askers = Askers(budget, group)
            for number, (size, _) in enumerate(asked):
                await askers.ask(str(number), size)
            served: list[str] = []
            for number, (_, how) in enumerate(asked):
                if how == "cancel" and str(number) not in askers.granted:
                    askers.cancel(str(number))
                    await settle()
            while len(served) < len(askers.granted):
                largest = max(asked[int(name)][0] for name in askers.granted[len(served) :])
                assert budget.held_bytes <= max(100, largest)
                name = askers.granted[len(served)]
                served.append(name)
                budget.release(asked[int(name)][0])
                await settle()
            assert budget.held_bytes == 0
            assert served == sorted(served, key=int)
            assert {number for number, (_, how) in enumerate(asked) if how == "finish"} <= {
                int(name) for name in served
            }

    anyio.run(scenario)
