"""Redis Streams: a consumer group whose dead members' messages are taken over, and a stream of what was not added.

Speaks Redis and decides nothing. An entry has the job as JSON in the field `job`, or its fields `image`, `pack`,
`file_name` and `id` as they are. Acknowledged entries stay in the stream, which other groups may read: trimming it is
its owner's.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from ingest.errors import UsageError
from ingest.sources.broker import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, Disconnected, Message, unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from typing import Any

    from ingest.sources.addresses import RedisAddress
    from ingest.sources.broker import Burial

__all__ = ["RedisBroker"]

JOB: Final = "job"

LONG_IDLE_MS: Final = 7 * 24 * 3600 * 1000
# A message that is given back looks as if nobody had touched it for a week: whoever claims next has it.

LEAVE: Final = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""
# Deleting a consumer that has pending entries would lose them: asked and done in one step.


class RedisBroker:
    """See `Broker` and `Outlet`. Made by `open`."""

    def __init__(self, client: Redis, address: RedisAddress) -> None:
        self._client = client
        self._address = address
        self._consumer = f"ingest-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._claim_due = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, address: RedisAddress, *, is_reader: bool = True) -> AsyncIterator[RedisBroker]:
        """Connect, and make the stream and its group where there are none. `UsageError`, `GaveUp`."""
        client = Redis(
            host=address.host,
            port=address.port,
            db=address.database,
            username=address.user,
            password=address.password,
            ssl=address.is_tls,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=REQUEST_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # whoever asks pauses and asks again
            protocol=2,
            client_name="ingest",
        )
        try:
            broker = cls(client, address)
            try:
                await client.ping()
                if is_reader:
                    await broker._make_group()
            except (AuthenticationError, NoPermissionError, ResponseError) as error:
                raise UsageError(
                    f"{address.place} can't be used: {error}.",
                    code="no_such_source",
                    hint="Check the user and the password in the URL, and that the stream's name is no other key's.",
                ) from error
            except (RedisError, OSError) as error:
                raise unreachable(address.place, error) from error
            try:
                yield broker
            finally:
                if is_reader:
                    await broker._leave()
        finally:
            await client.aclose()

    @property
    def lease_s(self) -> float:
        """See `Broker.lease_s`."""
        return self._address.lease_s

    async def receive(self, limit: int, wait_s: float) -> Sequence[Message]:
        """See `Broker.receive`. What the dead left comes first."""
        with _translated():
            try:
                return await self._claimed(limit) or await self._fresh(limit, wait_s)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                await self._make_group()  # the stream was deleted, or lost by a server that keeps nothing
                return ()

    async def _claimed(self, limit: int) -> Sequence[Message]:
        """What a member of the group has left alone for longer than its lease, asked for now and then."""
        now = time.monotonic()
        if now < self._claim_due:
            return ()
        address = self._address
        _, entries, _ = await self._client.xautoclaim(
            address.stream, address.group, self._consumer, min_idle_time=int(address.lease_s * 1000), count=limit
        )
        if not entries:
            self._claim_due = now + address.lease_s / 4
        return _messages(entries)

    async def _fresh(self, limit: int, wait_s: float) -> Sequence[Message]:
        address = self._address
        answer: Any = await self._client.xreadgroup(
            address.group, self._consumer, {address.stream: ">"}, count=limit, block=max(1, int(wait_s * 1000))
        )
        return [message for _, entries in answer for message in _messages(entries)]

    async def extend(self, messages: Sequence[Message]) -> Sequence[Message]:
        """See `Broker.extend`. Only what is still ours is claimed again: another one may work on the rest."""
        address = self._address
        with _translated():
            async with self._client.pipeline(transaction=False) as pipe:
                for message in messages:
                    pipe.xpending_range(
                        address.stream, address.group, message.receipt, message.receipt, 1, self._consumer
                    )
                ours = [bool(found) for found in await pipe.execute()]
            if kept := [message.receipt for message, is_ours in zip(messages, ours, strict=True) if is_ours]:
                await self._client.xclaim(address.stream, address.group, self._consumer, 0, kept, justid=True)
        return [message for message, is_ours in zip(messages, ours, strict=True) if not is_ours]

    async def bury(self, message: Message, burial: Burial) -> None:
        """See `Broker.bury`."""
        fields: dict[Any, Any] = {JOB: message.body, **burial.fields(message)}
        with _translated():
            await self._client.xadd(self._address.dead, fields)

    async def finish(self, messages: Sequence[Message]) -> None:
        """See `Broker.finish`."""
        with _translated():
            await self._client.xack(
                self._address.stream, self._address.group, *(message.receipt for message in messages)
            )

    async def give_back(self, messages: Sequence[Message]) -> None:
        """See `Broker.give_back`. There is no limit to count against; the entry stays ours until another claims it."""
        address = self._address
        lost = set(await self.extend(messages))
        if kept := [message.receipt for message in messages if message not in lost]:
            with _translated():
                await self._client.xclaim(
                    address.stream, address.group, self._consumer, 0, kept, idle=LONG_IDLE_MS, justid=True
                )

    async def held_elsewhere(self, own: int) -> bool:
        """See `Broker.held_elsewhere`."""
        with _translated():
            pending: Any = await self._client.xpending(self._address.stream, self._address.group)
        return int(pending["pending"]) > own

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """See `Outlet.publish`. As durable as the server's own settings make it (`appendfsync`)."""
        with _translated():
            async with self._client.pipeline(transaction=False) as pipe:
                for body in bodies:
                    pipe.xadd(self._address.stream, {JOB: body})
                await pipe.execute()

    async def _make_group(self) -> None:
        try:
            await self._client.xgroup_create(self._address.stream, self._address.group, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _leave(self) -> None:
        try:
            await self._client.eval(LEAVE, 1, self._address.stream, self._address.group, self._consumer)
        except (RedisError, OSError):
            return  # a member without entries does no harm


def _messages(entries: Sequence[Any]) -> list[Message]:
    now = time.monotonic()
    return [
        Message(body=_body(fields), place=entry_id.decode(), receipt=entry_id, received_at=now)
        for entry_id, fields in entries
        if fields is not None
    ]


def _body(fields: dict[bytes, bytes]) -> bytes:
    if (body := fields.get(JOB.encode())) is not None:
        return body
    # As `XADD images * image /data/a.jpg pack Holiday` writes it.
    return json.dumps(
        {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    ).encode()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise Disconnected(str(error) or type(error).__name__) from error
