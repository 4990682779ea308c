"""What brokers count and limit by themselves: delivering again must not use it up, and a low limit is warned of."""

from __future__ import annotations

import json

import aio_pika
import anyio
import nats
import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from ingest.errors import UsageError
from ingest.model import Outcome
from ingest.sources.queues import queue_source

BODY = json.dumps({"image": "https://a.test/1.jpg", "id": "one"}).encode()


def source_of(queue, **parameters):
    return queue_source(queue.url(**parameters), root=None, has_pack=True, idle_s=20.0, give_up_after_s=60.0)


async def limited(queue, limit: int) -> None:
    """A queue of the broker that gives a message up after so many deliveries."""
    name = queue.name
    if queue.server.name == "amqp":
        async with await queue.connected() as connection:
            channel = await connection.channel()
            arguments = {"x-queue-type": "quorum", "x-delivery-limit": limit}
            await channel.declare_queue(name, durable=True, arguments=arguments)
            await channel.default_exchange.publish(aio_pika.Message(BODY, delivery_mode=2), name)
    elif queue.server.name == "nats":
        client = await nats.connect(f"nats://127.0.0.1:{queue.server.port}")
        stream = client.jetstream()
        await stream.add_stream(name=name, subjects=[f"jobs.{name}"])
        config = ConsumerConfig(durable_name="ingest", ack_policy=AckPolicy.EXPLICIT, ack_wait=2, max_deliver=limit)
        await stream.add_consumer(name, config)
        await client.close()
        await queue.put([BODY])
    elif queue.server.name == "sqs":
        queue.name += "-limited"
        await queue.make(max_receives=str(limit))
        await queue.put([BODY])
    else:
        pytest.skip("it has no limit")


async def test_giving_back_does_not_use_up_a_limit(queue):
    await limited(queue, 2)
    for _ in range(5):
        async with source_of(queue).open() as batches:
            with anyio.fail_after(20):
                (delivery,) = await anext(batches)
            assert delivery.job.id == "one"
            await delivery.release()
    async with source_of(queue).open() as batches:
        with anyio.fail_after(20):
            (delivery,) = await anext(batches)
        await delivery.acknowledge(Outcome.ADDED, None)
    assert await queue.left() == 0
    assert await queue.dead() == []


async def test_a_limit_that_is_too_low_is_warned_of(queue, caplog):
    await limited(queue, 3)
    async with source_of(queue).open():
        pass
    assert "limit.too_low" in caplog.text
    assert "3" in caplog.text


async def test_what_is_in_hand_is_given_back_before_the_brokers_timeout_closes_the_channel(queue, caplog):
    if queue.server.name != "amqp":
        pytest.skip("a lease is extended there")
    await limited(queue, 1)
    async with source_of(queue, ack_timeout=3).open() as batches:
        (held,) = await anext(batches)
        with anyio.fail_after(30):
            # The copy, on the same channel, uncounted; had the broker struck, the limit would have eaten it.
            (again,) = await anext(batches)
        assert again.job == held.job
        await again.acknowledge(Outcome.ADDED, None)
        await held.acknowledge(Outcome.ADDED, None)
    assert "broker.lost" not in caplog.text
    assert await queue.left() == 0


async def test_a_queue_that_is_not_made_here_has_to_be_there(queue):
    if queue.server.name != "sqs":
        pytest.skip("it is made")
    queue.name = "none"
    with pytest.raises(UsageError) as caught:
        await source_of(queue).open().__aenter__()
    assert caught.value.code == "no_such_source"


async def test_a_queue_without_a_dead_letter_place_is_refused(queue):
    if queue.server.name != "sqs":
        pytest.skip("it is made")
    url = "&".join(part for part in queue.url().split("&") if not part.startswith("dead="))
    with pytest.raises(UsageError) as caught:
        await queue_source(url, root=None, has_pack=True, idle_s=1, give_up_after_s=1).open().__aenter__()
    assert caught.value.code == "no_dead_letter_queue"


async def test_the_dead_letter_queue_of_a_redrive_policy_is_taken(queue):
    if queue.server.name != "sqs":
        pytest.skip("there is none")
    await limited(queue, 20)
    url = "&".join(part for part in queue.url().split("&") if not part.startswith("dead="))
    async with queue_source(url, root=None, has_pack=True, idle_s=1, give_up_after_s=1).open() as batches:
        (delivery,) = await anext(batches)
        await delivery.acknowledge(Outcome.FAILED, "missing")
    ((body, said),) = await queue.dead()
    assert body == BODY
    assert said["ingest-reason"] == "missing"


async def test_an_entry_may_have_a_jobs_fields_as_its_own(queue):
    if queue.server.name != "redis":
        pytest.skip("its messages have bodies")
    async with queue.client() as redis:
        await redis.xadd(queue.name, {"image": "https://a.test/1", "pack": "Holiday", "other": "x"})
    async with source_of(queue).open() as batches:
        (delivery,) = await anext(batches)
    assert (delivery.job.image, delivery.job.pack, delivery.job.id) == ("https://a.test/1", "Holiday", None)


async def test_members_that_leave_are_no_longer_in_the_group(queue):
    if queue.server.name != "redis":
        pytest.skip("it has no members")
    async with source_of(queue).open():
        pass
    async with source_of(queue).open(), queue.client() as redis:
        assert len(await redis.xinfo_consumers(queue.name, "ingest")) <= 1
