"""NATS JetStream: a durable pull consumer whose ack wait is extended, and a stream of what was not added.

Speaks NATS and decides nothing. The client mends its connection by itself, and the consumer outlives it.
"""

from __future__ import annotations

import math
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import anyio
from nats.aio.client import Client
from nats.errors import AuthorizationError, InvalidUserCredentialsError, NoServersError
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServiceUnavailableError

from ingest.errors import UsageError
from ingest.observe.logging import get_logger
from ingest.sources.broker import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, Disconnected, Message, unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence

    from nats.aio.msg import Msg
    from nats.js.client import JetStreamContext

    from ingest.sources.addresses import NatsAddress
    from ingest.sources.broker import Burial

__all__ = ["NatsBroker"]

log = get_logger("sources")

LOW_LIMIT: Final = 10
# A `max_deliver` under this may be used up by workers that are killed for reasons of their own.

OURS: Final = ("Nats-Msg-Id", "Nats-Expected-")
# Headers of a message that a copy must not have: the stream would take it for a repetition, and drop it.

RECONNECT_S: Final = 0.5

REFUSED: Final = (AuthorizationError, InvalidUserCredentialsError, BadRequestError, ServiceUnavailableError)


class NatsBroker:
    """See `Broker` and `Outlet`. Made by `open`."""

    def __init__(self, client: Client, address: NatsAddress) -> None:
        self._client = client
        self._stream = client.jetstream(timeout=REQUEST_TIMEOUT_S)
        self._address = address
        self._lease_s = address.lease_s
        self._max_deliver = math.inf
        self._subscription: JetStreamContext.PullSubscription | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, address: NatsAddress, *, is_reader: bool = True) -> AsyncIterator[NatsBroker]:
        """Connect, and make the stream and its consumer where there are none. `UsageError`, `GaveUp`."""
        client = Client()
        try:
            try:
                with anyio.fail_after(CONNECT_TIMEOUT_S):
                    await _connect(client, address)
                    broker = cls(client, address)
                    await broker._prepare(is_reader=is_reader)
            except REFUSED as error:
                raise UsageError(
                    f"{address.place} can't be used: {_said(error)}.",
                    code="no_such_source",
                    hint="Check the user and the password in the URL, that the stream takes the subject, and that the"
                    " server has JetStream on.",
                ) from error
            except (NatsError, OSError, TimeoutError) as error:
                raise unreachable(address.place, _said(error)) from error
            yield broker
        finally:
            with anyio.move_on_after(REQUEST_TIMEOUT_S, shield=True):
                await _close(client)

    @property
    def lease_s(self) -> float:
        """See `Broker.lease_s`: the consumer's ack wait."""
        return self._lease_s

    async def receive(self, limit: int, wait_s: float) -> Sequence[Message]:
        """See `Broker.receive`."""
        self._check()
        assert self._subscription is not None  # noqa: S101 - for the type: a reader has one
        with _translated():
            try:
                # Two at least: for one, the client keeps what comes late.
                found = await self._subscription.fetch(max(2, limit), timeout=wait_s)
            except TimeoutError:  # the client's own is one too
                return ()
        now = time.monotonic()
        return [
            Message(body=msg.data, place=str(msg.metadata.sequence.stream), receipt=msg, received_at=now)
            for msg in found
        ]

    async def extend(self, messages: Sequence[Message]) -> Sequence[Message]:
        """See `Broker.extend`. Nothing tells what is ours no longer."""
        self._check()
        with _translated():
            for message in messages:
                await message.receipt.in_progress()
            await self._client.flush(timeout=int(REQUEST_TIMEOUT_S))
        return ()

    async def bury(self, message: Message, burial: Burial) -> None:
        """See `Broker.bury`."""
        self._check()
        with _translated():
            await self._stream.publish(
                self._address.dead,
                message.body,
                stream=self._address.dead,
                headers={**_headers(message.receipt), **burial.fields(message)},
            )

    async def finish(self, messages: Sequence[Message]) -> None:
        """See `Broker.finish`; the server has taken the acknowledgements when it returns."""
        self._check()
        with _translated():
            await _all(message.receipt.ack_sync(timeout=REQUEST_TIMEOUT_S) for message in messages if _is_open(message))

    async def give_back(self, messages: Sequence[Message]) -> None:
        """See `Broker.give_back`. What may not be delivered once more goes into the stream again instead."""
        self._check()
        with _translated():
            for message in messages:
                msg = message.receipt
                if not _is_open(message):
                    continue
                if msg.metadata.num_delivered >= self._max_deliver:
                    await self._stream.publish(msg.subject, message.body, headers=_headers(msg) or None)
                    await msg.ack_sync(timeout=REQUEST_TIMEOUT_S)
                else:
                    await msg.nak()
            await self._client.flush(timeout=int(REQUEST_TIMEOUT_S))

    async def held_elsewhere(self, own: int) -> bool:
        """See `Broker.held_elsewhere`."""
        self._check()
        with _translated():
            info = await self._stream.consumer_info(self._address.stream, self._address.durable)
        return (info.num_ack_pending or 0) > own

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """See `Outlet.publish`."""
        self._check()
        with _translated():
            await _all(
                self._stream.publish(self._address.subject, body, stream=self._address.stream) for body in bodies
            )

    async def _prepare(self, *, is_reader: bool) -> None:
        address = self._address
        is_pattern = any(word in {"*", ">"} for word in address.subject.split("."))
        if is_pattern and not is_reader:
            raise UsageError(
                f"The subject of {address.place} is a pattern, and nothing can be published to that.",
                code="bad_queue_url",
                hint="Say the subject of these jobs: subject=NAME in the URL.",
            )
        await self._make_stream(address.stream, address.subject)
        if not is_reader:
            return
        await self._make_stream(address.dead, address.dead)
        try:
            info = await self._stream.consumer_info(address.stream, address.durable)
        except NotFoundError:
            info = await self._stream.add_consumer(
                address.stream,
                ConsumerConfig(
                    durable_name=address.durable,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=address.lease_s,
                    max_deliver=-1,
                    filter_subject=address.subject,
                ),
            )
        self._take(info.config)
        self._subscription = await self._stream.pull_subscribe_bind(address.durable, address.stream)

    def _take(self, config: ConsumerConfig) -> None:
        """Go by what the consumer is, whoever made it."""
        name = self._address.durable
        if config.deliver_subject or config.ack_policy != AckPolicy.EXPLICIT:  # which comes as plain text
            raise UsageError(
                f"The consumer {name} of {self._address.place} is no pull consumer with explicit acknowledgements.",
                code="no_such_source",
                hint="Name another one, durable=NAME in the URL; it is made where there is none.",
            )
        self._lease_s = config.ack_wait or self._lease_s
        if config.max_deliver is not None and config.max_deliver > 0:
            self._max_deliver = config.max_deliver
            if config.max_deliver < LOW_LIMIT:
                log.warning(
                    "limit.too_low",
                    consumer=name,
                    limit=config.max_deliver,
                    message=f"The consumer {name} gives a message up after {config.max_deliver} deliveries: workers"
                    f" that are killed may lose it. Set its max_deliver to {LOW_LIMIT} or more, or to -1.",
                )

    async def _make_stream(self, name: str, subject: str) -> None:
        try:
            await self._stream.stream_info(name)
        except NotFoundError:
            await self._stream.add_stream(StreamConfig(name=name, subjects=[subject]))

    def _check(self) -> None:
        if not self._client.is_connected:
            raise Disconnected("the connection is gone")


async def _connect(client: Client, address: NatsAddress) -> None:
    problems: list[Exception] = []

    async def noted(error: Exception) -> None:
        problems[:] = [error]
        log.debug("broker.error", place=address.place, error=_said(error))

    async def unremarked() -> None:
        return None

    async def connect(one: Client, *, is_mended: bool) -> None:
        await one.connect(
            f"nats://{address.host}:{address.port}",
            name="ingest",
            user=address.user,
            password=address.password,
            token=address.token,
            connect_timeout=int(CONNECT_TIMEOUT_S),
            allow_reconnect=is_mended,
            reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]  # seconds, whole or not
            max_reconnect_attempts=-1 if is_mended else 1,
            pending_size=0,  # what can't be sent is said so, and not kept for later
            error_cb=noted,
            disconnected_cb=unremarked,
            reconnected_cb=unremarked,
            closed_cb=unremarked,
        )

    # One that mends its connection keeps to itself why it can't be made at all.
    first = Client()
    try:
        await connect(first, is_mended=False)
    except NoServersError as error:
        raise (problems or [error])[0] from None
    finally:
        await _close(first)
    await connect(client, is_mended=True)


async def _close(client: Client) -> None:
    if client.is_connected:
        await client.flush()
    if client.is_connected or client.is_connecting or client.is_reconnecting:
        await client.close()


async def _all(requests: Iterable[Awaitable[object]]) -> None:
    """Every one of these, and the first error of any."""
    errors: list[Exception] = []

    async def one(request: Awaitable[object]) -> None:
        try:
            await request
        except Exception as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for request in requests:
            tasks.start_soon(one, request)
    if errors:
        raise errors[0]


def _is_open(message: Message) -> bool:
    return not message.receipt.is_acked


def _headers(msg: Msg) -> dict[str, str]:
    return {name: value for name, value in (msg.headers or {}).items() if not name.startswith(OURS)}


def _said(error: BaseException) -> str:
    if isinstance(error, APIError) and error.description:
        return str(error.description)
    return str(error) or type(error).__name__


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (NatsError, OSError, TimeoutError) as error:
        raise Disconnected(_said(error)) from error
