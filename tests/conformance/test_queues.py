"""What every queue keeps, on the real broker: `Source`, `Sink`, and what the README says of queues.

A broker joins by a `Queue` in `brokers`. Each is started once for all tests of a process, and restarted by those
that say so.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from brokers.servers import free_port

from ingest.errors import GaveUp, UsageError
from ingest.model import Job, Outcome
from ingest.sources.base import NoJob
from ingest.sources.queues import queue_sink, queue_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from brokers.queues import Queue

    from ingest.sources.base import Delivery
    from ingest.sources.consumer import QueueSource


def source_of(queue: Queue, *, idle_s: float | None = 30.0, root: str | None = None, **parameters) -> QueueSource:
    return queue_source(queue.url(**parameters), root=root, has_pack=True, idle_s=idle_s, give_up_after_s=60.0)


def bodies(count: int, start: int = 0) -> list[bytes]:
    return [
        json.dumps({"image": f"https://a.test/{n}.jpg", "id": f"id-{n}"}).encode() for n in range(start, start + count)
    ]


@asynccontextmanager
async def reading(queue: Queue, **options) -> AsyncIterator[Reading]:
    source = source_of(queue, **options)
    async with source.open() as batches:
        yield Reading(batches)


class Reading:
    def __init__(self, batches) -> None:
        self._batches = batches
        self.seen: list[Delivery] = []

    async def some(self, count: int) -> list[Delivery]:
        """At least so many more deliveries."""
        found: list[Delivery] = []
        while len(found) < count:
            found += await anext(self._batches)
        self.seen += found
        return found

    async def to_the_end(self) -> list[Delivery]:
        found = [delivery async for batch in self._batches for delivery in batch]
        self.seen += found
        return found


def ids(deliveries) -> list[str]:
    return [delivery.job.id for delivery in deliveries]


async def drained(queue: Queue, *, idle_s: float = 0.3) -> list[str]:
    """The ids of everything in the queue, added."""
    async with reading(queue, idle_s=idle_s) as found:
        seen = []
        async for batch in found._batches:
            for delivery in batch:
                seen.append(delivery.job.id)
                await delivery.acknowledge(Outcome.ADDED, None)
    return seen


async def test_it_hands_over_every_job_and_ends_when_none_comes(queue):
    await queue.put(bodies(150))
    async with reading(queue, idle_s=0.3, lease=60) as found:
        deliveries = []
        async for batch in found._batches:
            assert batch
            deliveries += batch
            for delivery in batch:
                await delivery.acknowledge(Outcome.ADDED, None)
        with pytest.raises(StopAsyncIteration):
            await anext(found._batches)
    assert sorted(ids(deliveries)) == sorted(f"id-{n}" for n in range(150))
    assert deliveries[0].job == Job(image=f"https://a.test/{deliveries[0].job.id[3:]}.jpg", id=deliveries[0].job.id)
    assert await queue.left() == 0
    assert await queue.dead() == []


async def test_an_empty_queue_ends_after_idle(queue):
    async with reading(queue, idle_s=0.2) as found:
        assert await found.to_the_end() == []


async def test_without_idle_it_waits_for_ever(queue):
    async with reading(queue, idle_s=None) as found:
        with anyio.move_on_after(2.5) as scope:
            await found.to_the_end()
        assert scope.cancelled_caught
        await queue.put(bodies(1))
        assert ids(await found.some(1)) == ["id-0"]


async def test_what_was_published_is_handed_over(queue):
    jobs = [
        Job(image="/pictures/a b/ä.jpg", pack="Holiday", file_name="ä.jpg", id="one"),
        *(Job(image=f"https://a.test/{n}", id=f"{n}") for n in range(33)),
    ]
    sink = queue_sink(queue.url(), give_up_after_s=10)
    async with sink.open() as publish:
        await publish(jobs)
    async with reading(queue, idle_s=0.3) as found:
        deliveries = await found.to_the_end()
    told = {delivery.job.id: delivery.job for delivery in deliveries if isinstance(delivery.job, Job)}
    assert told == {job.id: job for job in jobs[1:]}
    (refused,) = [delivery.job for delivery in deliveries if isinstance(delivery.job, NoJob)]
    assert refused.reason == "path_without_root"


async def test_published_twice_is_there_twice_under_one_id(queue):
    sink = queue_sink(queue.url(), give_up_after_s=10)
    for _ in range(2):
        async with sink.open() as publish:
            await publish([Job(image="https://a.test/1", id="one")])
    async with reading(queue, idle_s=0.3) as found:
        assert ids(await found.to_the_end()) == ["one", "one"]


async def test_its_name_is_a_label(queue):
    assert source_of(queue).name == queue.server.name == queue_sink(queue.url(), give_up_after_s=None).name


@pytest.mark.parametrize(
    ("outcome", "is_dead"), [(Outcome.ADDED, 0), (Outcome.DUPLICATE, 0), (Outcome.REJECTED, 1), (Outcome.FAILED, 1)]
)
async def test_what_is_rejected_or_failed_goes_to_the_dead_letters(queue, outcome, is_dead):
    (body,) = bodies(1)
    await queue.put([body])
    async with reading(queue) as found:
        (delivery,) = await found.some(1)
        await delivery.acknowledge(outcome, "too_large")
        await delivery.acknowledge(outcome, "too_large")
    dead = await queue.dead()
    assert len(dead) == is_dead
    for found_body, said in dead:
        assert found_body == body
        assert said["ingest-outcome"] == outcome.value
        assert said["ingest-reason"] == "too_large"
        assert said["ingest-message"]
    assert await drained(queue) == []


async def test_messages_that_are_no_jobs_are_told_of_and_block_nothing(queue):
    poison = [b"no json", b"[]", b'{"image": 7}', b'{"image": " "}', b'{"pack": "a"}', b'{"image": "../../etc/passwd"}']
    good = bodies(3)
    await queue.put([*poison[:3], *good, *poison[3:]])
    async with reading(queue, idle_s=0.3) as found:
        async for batch in found._batches:
            found.seen += batch
            for delivery in batch:
                if isinstance(delivery.job, NoJob):
                    await delivery.acknowledge(Outcome.REJECTED, delivery.job.reason)
                else:
                    await delivery.acknowledge(Outcome.ADDED, None)
    assert sorted(ids(d for d in found.seen if isinstance(d.job, Job))) == ["id-0", "id-1", "id-2"]
    refused = [delivery.job for delivery in found.seen if isinstance(delivery.job, NoJob)]
    assert Counter(job.reason for job in refused) == {"bad_message": 5, "path_without_root": 1}
    dead = await queue.dead()
    assert sorted(body for body, _ in dead) == sorted(poison)
    assert all(said["ingest-outcome"] == "rejected" and said["ingest-detail"] for _, said in dead)
    assert await queue.left() == 0


async def test_what_nobody_ended_is_given_back_at_once(queue):
    await queue.put(bodies(40))
    async with reading(queue, prefetch=16, lease=3600) as found:
        await found.some(1)
        await found.seen[0].acknowledge(Outcome.ADDED, None)
    # Under such a lease, only what was given back comes.
    with anyio.fail_after(20):
        async with reading(queue, lease=3600) as again:
            seen = await again.some(39)
    assert sorted(ids(seen)) == sorted({f"id-{n}" for n in range(40)} - {found.seen[0].job.id})


async def test_released_deliveries_come_again_while_it_is_read(queue):
    await queue.put(bodies(3))
    async with reading(queue) as found:
        first = await found.some(3)
        for delivery in first:
            await delivery.release()
        second = await found.some(3)
        for delivery in second:
            await delivery.acknowledge(Outcome.ADDED, None)
    assert sorted(ids(second)) == ["id-0", "id-1", "id-2"]
    assert await queue.left() == 0


async def test_no_more_than_the_prefetch_is_in_hand(queue):
    await queue.put(bodies(20))
    async with reading(queue, prefetch=4, lease=3600) as found:
        held = await found.some(4)
        assert len(held) == 4
        with anyio.move_on_after(2.5) as scope:
            await found.some(1)
        assert scope.cancelled_caught
        for delivery in held[:2]:
            await delivery.acknowledge(Outcome.ADDED, None)
        assert len(await found.some(1)) <= 2
        # What is in hand here is all that others can't have.
        with anyio.fail_after(20):
            async with reading(queue, prefetch=100, lease=3600) as other:
                assert len(await other.some(14 if len(found.seen) == 6 else 15)) + len(found.seen) == 20


async def test_nothing_is_received_while_it_is_not_read(queue):
    async with reading(queue, lease=3600):
        await queue.put(bodies(10))
        if queue.server.name == "amqp":
            return  # the broker sends up to the prefetch ahead, which is given back
        with anyio.fail_after(20):
            async with reading(queue, lease=3600) as other:
                await other.some(10)


async def test_a_slow_consumer_keeps_its_messages_beyond_the_lease(queue):
    await queue.put(bodies(3))
    async with reading(queue) as slow:
        held = await slow.some(3)
        async with reading(queue, idle_s=queue.lease_s * 2.5) as other:
            assert await other.to_the_end() == []
        for delivery in held:
            await delivery.acknowledge(Outcome.ADDED, None)
    assert await queue.left() == 0


async def test_what_a_dead_consumer_held_is_delivered_again(queue):
    await queue.put(bodies(5))
    source = source_of(queue)
    async with dying(source) as batches:
        seen = []
        while len(seen) < 5:
            seen += await anext(batches)
    # An idle end that is shorter than the lease does not miss them.
    assert sorted(await drained(queue, idle_s=0.2)) == [f"id-{n}" for n in range(5)]
    assert await queue.left() == 0


class Boom(Exception):
    pass


@asynccontextmanager
async def dying(source: QueueSource):
    """The source of one that dies at the end of the block: its broker hears of nothing any more."""
    is_dead = False
    connect = source._connect

    @asynccontextmanager
    async def mute():
        async with connect() as broker:
            told = {name: getattr(broker, name) for name in ("extend", "bury", "finish", "give_back")}

            def silenced(name):
                async def call(*args):
                    return () if is_dead else await told[name](*args)

                return call

            for name in told:
                setattr(broker, name, silenced(name))
            yield broker

    source._connect = mute
    async with source.open() as batches:
        try:
            yield batches
        finally:
            is_dead = True


@pytest.mark.timeout(150)  # RabbitMQ takes its time
async def test_a_broker_that_restarts_in_the_middle_loses_nothing(queue):
    """Every job is acknowledged as added by a ledger, as the journal would; some come twice, and none is lost."""
    await queue.put(bodies(60))
    added: Counter[str] = Counter()
    dead = {"id-3", "id-33"}
    async with reading(queue, idle_s=3.0, prefetch=20) as found:
        restarted = False
        async for batch in found._batches:
            for nth, delivery in enumerate(batch):
                added[delivery.job.id] += 1
                outcome = Outcome.REJECTED if delivery.job.id in dead else Outcome.ADDED
                if not restarted and nth == 3:
                    # Some were told, some are on their way, some in hand.
                    await anyio.to_thread.run_sync(queue.server.restart)
                    restarted = True
                await delivery.acknowledge(outcome, "r")
        assert restarted
    assert set(added) == {f"id-{n}" for n in range(60)}
    assert {json.loads(body)["id"] for body, _ in await queue.dead()} == dead
    assert await drained(queue) == []


@pytest.mark.timeout(150)
async def test_publishing_survives_a_restart_of_the_broker(queue):
    sink = queue_sink(queue.url(), give_up_after_s=60)
    async with sink.open() as publish:
        await publish([Job(image="https://a.test/1", id="one")])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, queue.server.restart)
            for number in range(20):
                await publish([Job(image=f"https://a.test/{number}", id=f"{number}-{nth}") for nth in range(5)])
    found = await drained(queue, idle_s=1.0)
    assert set(found) == {"one", *(f"{number}-{nth}" for number in range(20) for nth in range(5))}


async def test_a_broker_that_is_not_there_is_told_on_entering(queue):
    url = queue.url().replace(str(queue.server.port), str(free_port()))
    source = queue_source(url, root=None, has_pack=True, idle_s=1, give_up_after_s=1)
    with pytest.raises(GaveUp) as caught:
        await source.open().__aenter__()
    assert caught.value.code == "broker_unreachable"
    assert "pa%3A" not in str(caught.value)
    assert "ss@w" not in str(caught.value)


async def test_it_may_be_left_unread_and_cancelled(queue):
    await queue.put(bodies(5))
    async with source_of(queue).open():
        pass
    with anyio.CancelScope() as scope:
        async with source_of(queue, lease=3600).open() as batches:
            async for _ in batches:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    with anyio.fail_after(20):
        async with reading(queue, lease=3600) as again:
            assert sorted(ids(await again.some(5))) == [f"id-{n}" for n in range(5)]


async def test_the_callers_error_comes_through(queue):
    await queue.put(bodies(1))

    async def fail() -> None:
        async with source_of(queue).open() as batches:
            await anext(batches)
            raise Boom

    with pytest.raises(Boom):
        await fail()


async def test_a_wrong_password_is_told_without_it(queue):
    if queue.server.name not in {"redis", "amqp"}:
        pytest.skip("it takes everybody")
    url = queue.url().replace("pa%3Ass%40word", "hunter2").replace("guest:guest", "guest:hunter2")
    with pytest.raises(UsageError) as caught:
        await queue_source(url, root=None, has_pack=True, idle_s=1, give_up_after_s=1).open().__aenter__()
    assert caught.value.code == "no_such_source"
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
