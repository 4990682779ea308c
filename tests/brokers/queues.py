"""Queues on those brokers, seen past the program: what is put in, what is left, and what was dead-lettered."""

from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aio_pika
import anyio
import anyio.to_thread
import boto3
import nats
from redis.asyncio import Redis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .servers import Server

numbers = itertools.count()


class Queue:
    """A fresh queue. `url` is what a user writes."""

    lease_s = 1.0
    delivery_is_counted = True

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"q{os.getpid()}-{next(numbers)}"

    def url(self, **parameters: object) -> str:
        raise NotImplementedError

    async def make(self) -> None:
        """What the program doesn't make."""

    async def put(self, bodies: Sequence[bytes]) -> None:
        raise NotImplementedError

    async def dead(self) -> list[tuple[bytes, dict[str, str]]]:
        """Body and reason of what was dead-lettered."""
        raise NotImplementedError

    async def left(self) -> int:
        """Messages that are not acknowledged: ready or in somebody's hand."""
        raise NotImplementedError


class RedisQueue(Queue):
    def url(self, **parameters: object) -> str:
        said = {"stream": self.name, "lease": self.lease_s, **parameters}
        return f"redis://:pa%3Ass%40word@127.0.0.1:{self.server.port}/0?{urlencode(said)}"

    def client(self) -> Redis:
        return Redis(port=self.server.port, password="pa:ss@word", protocol=2)

    async def put(self, bodies: Sequence[bytes]) -> None:
        async with self.client() as redis:
            for body in bodies:
                await redis.xadd(self.name, {"job": body})

    async def dead(self) -> list[tuple[bytes, dict[str, str]]]:
        async with self.client() as redis:
            entries = await redis.xrange(f"{self.name}:dead")
        return [
            (fields.pop(b"job"), {name.decode(): value.decode() for name, value in fields.items()})
            for _, fields in entries
        ]

    async def left(self) -> int:
        async with self.client() as redis:
            (group,) = await redis.xinfo_groups(self.name)
        return group["pending"] + (group["lag"] or 0)


class AmqpQueue(Queue):
    def url(self, **parameters: object) -> str:
        parameters.pop("lease", None)
        said = {"queue": self.name, "ack_timeout": 30, **parameters}
        return f"amqp://guest:guest@127.0.0.1:{self.server.port}/?{urlencode(said)}"

    def connected(self):
        return aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{self.server.port}/")

    async def put(self, bodies: Sequence[bytes]) -> None:
        async with await self.connected() as connection:
            channel = await connection.channel()
            await channel.declare_queue(self.name, durable=True, arguments={"x-queue-type": "quorum"})
            for body in bodies:
                message = aio_pika.Message(body, delivery_mode=2)
                await channel.default_exchange.publish(message, self.name)

    async def dead(self) -> list[tuple[bytes, dict[str, str]]]:
        found = []
        async with await self.connected() as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(f"{self.name}.dead")
            # Left unacknowledged: closing the channel puts them back.
            while (message := await queue.get(fail=False)) is not None:
                found.append((message.body, {name: str(value) for name, value in message.headers.items()}))
        return found

    async def left(self) -> int:
        # Counts what is ready; nobody holds any when a test asks.
        async with await self.connected() as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(self.name, passive=True)
            return queue.declaration_result.message_count or 0


class NatsQueue(Queue):
    def url(self, **parameters: object) -> str:
        said = {"stream": self.name, "subject": f"jobs.{self.name}", "lease": self.lease_s, **parameters}
        return f"nats://127.0.0.1:{self.server.port}?{urlencode(said)}"

    async def put(self, bodies: Sequence[bytes]) -> None:
        client = await nats.connect(f"nats://127.0.0.1:{self.server.port}")
        stream = client.jetstream()
        await stream.add_stream(name=self.name, subjects=[f"jobs.{self.name}"])
        for body in bodies:
            await stream.publish(f"jobs.{self.name}", body)
        await client.close()

    async def dead(self) -> list[tuple[bytes, dict[str, str]]]:
        client = await nats.connect(f"nats://127.0.0.1:{self.server.port}")
        stream = client.jetstream()
        state = (await stream.stream_info(f"{self.name}_DEAD")).state
        found = []
        for number in range(state.first_seq, state.first_seq + state.messages):
            message = await stream.get_msg(f"{self.name}_DEAD", number)
            found.append((message.data, dict(message.headers or {})))
        await client.close()
        return found

    async def left(self) -> int:
        client = await nats.connect(f"nats://127.0.0.1:{self.server.port}")
        info = await client.jetstream().consumer_info(self.name, "ingest")
        await client.close()
        return info.num_pending + info.num_ack_pending


class SqsQueue(Queue):
    lease_s = 2.0

    def url(self, **parameters: object) -> str:
        said = {
            "region": "eu-central-1",
            "endpoint": f"http://127.0.0.1:{self.server.port}",
            "dead": f"{self.name}-dead",
            "lease": self.lease_s,
            **parameters,
        }
        return f"sqs://{self.name}?{urlencode(said)}"

    def client(self) -> Any:
        return boto3.client(
            "sqs", region_name="eu-central-1", endpoint_url=f"http://127.0.0.1:{self.server.port}",
            aws_access_key_id="testing", aws_secret_access_key="testing",
        )  # fmt: skip

    async def make(self, **attributes: str) -> None:
        def made() -> None:
            client = self.client()
            dead = client.create_queue(QueueName=f"{self.name}-dead")["QueueUrl"]
            if "max_receives" in attributes:
                names = ["QueueArn"]
                arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=names)["Attributes"]["QueueArn"]
                policy = {"deadLetterTargetArn": arn, "maxReceiveCount": attributes["max_receives"]}
                client.create_queue(QueueName=self.name, Attributes={"RedrivePolicy": json.dumps(policy)})
            else:
                client.create_queue(QueueName=self.name)
            client.close()

        await anyio.to_thread.run_sync(made)

    async def put(self, bodies: Sequence[bytes]) -> None:
        def sent() -> None:
            client = self.client()
            url = client.get_queue_url(QueueName=self.name)["QueueUrl"]
            for body in bodies:
                client.send_message(QueueUrl=url, MessageBody=body.decode())
            client.close()

        await anyio.to_thread.run_sync(sent)

    async def dead(self) -> list[tuple[bytes, dict[str, str]]]:
        def received() -> list[tuple[bytes, dict[str, str]]]:
            client = self.client()
            url = client.get_queue_url(QueueName=f"{self.name}-dead")["QueueUrl"]
            found: dict[str, tuple[bytes, dict[str, str]]] = {}
            while True:
                answer = client.receive_message(
                    QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=5, MessageAttributeNames=["All"],
                    WaitTimeSeconds=0,
                )  # fmt: skip
                if not answer.get("Messages"):
                    break
                for raw in answer["Messages"]:
                    said = {name: each["StringValue"] for name, each in raw.get("MessageAttributes", {}).items()}
                    found[raw["MessageId"]] = (raw["Body"].encode(), said)
            client.close()
            return list(found.values())

        return await anyio.to_thread.run_sync(received)

    async def left(self) -> int:
        def counted() -> int:
            client = self.client()
            url = client.get_queue_url(QueueName=self.name)["QueueUrl"]
            names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            told = client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            client.close()
            return sum(int(told[name]) for name in names)

        return await anyio.to_thread.run_sync(counted)
