"""AMQP 0-9-1, as RabbitMQ speaks it: a quorum queue, confirmed publishing, and a queue of what was not added.

Speaks AMQP and decides nothing. There is no lease: a message is ours while its connection lives, but no longer than the
broker waits for an acknowledgement, so what is in hand for most of that time is given back in good time.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import aio_pika
import anyio
from aio_pika.exceptions import DeliveryError

from ingest.errors import UsageError
from ingest.sources.amqp_link import GONE, REFUSED, Link, linked, said, translated
from ingest.sources.broker import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, Disconnected, Message, unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aio_pika.abc import AbstractIncomingMessage

    from ingest.sources.addresses import AmqpAddress
    from ingest.sources.broker import Burial

__all__ = ["AmqpBroker"]

HELD_FOR: Final = 2 / 3
# Of the broker's acknowledgement timeout: it looks once a minute, and strikes a whole channel at once.

CONFIRM_TIMEOUT_S: Final = REQUEST_TIMEOUT_S / 2
CLOSE_TIMEOUT_S: Final = 3.0
# A connection that is broken is not waited for: closing it says goodbye to nobody.

OURS: Final = ("x-delivery-count", "x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason")
# Headers that the broker keeps for itself; a copy begins without them.


class _NotTaken(Disconnected):
    """A queue refused a message, over a connection that is well."""


class _Receipt(NamedTuple):
    incoming: AbstractIncomingMessage
    link: Link


class AmqpBroker:
    """See `Broker` and `Outlet`. Made by `open`."""

    def __init__(self, address: AmqpAddress) -> None:
        self._address = address
        self._link: Link | None = None
        self._linking = anyio.Lock()
        self._is_reader = True

    @classmethod
    @asynccontextmanager
    async def open(cls, address: AmqpAddress, *, is_reader: bool = True) -> AsyncIterator[AmqpBroker]:
        """Connect, and declare the queues where there are none. `UsageError`, `GaveUp`."""
        broker = cls(address)
        broker._is_reader = is_reader
        try:
            try:
                await broker._linked(is_first=True)
            except REFUSED as error:
                raise UsageError(
                    f"{address.place} can't be used: {said(error)}.",
                    code="no_such_source",
                    hint="Check the user, the password and the virtual host in the URL, and what that user may do.",
                ) from error
            except Disconnected as error:
                raise unreachable(address.place, error) from error
            yield broker
        finally:
            with anyio.move_on_after(REQUEST_TIMEOUT_S, shield=True):
                await broker._unlink()

    @property
    def lease_s(self) -> float:
        """See `Broker.lease_s`: how often `extend` has to look is all that this says."""
        return self._address.ack_timeout_s / 4

    async def receive(self, limit: int, wait_s: float) -> Sequence[Message]:
        """See `Broker.receive`. The broker has sent up to the prefetch ahead; what is not received is given back."""
        link = await self._linked()
        if not link.arrived:
            link.news = anyio.Event()
            with anyio.move_on_after(wait_s):
                await link.news.wait()
        if not link.is_open:
            raise Disconnected("the connection was closed")
        now = time.monotonic()
        return [
            Message(
                body=incoming.body,
                place=incoming.message_id or f"#{incoming.delivery_tag}",
                receipt=_Receipt(incoming, link),
                received_at=now,
            )
            for incoming in (link.arrived.popleft() for _ in range(min(limit, len(link.arrived))))
        ]

    async def extend(self, messages: Sequence[Message]) -> Sequence[Message]:
        """See `Broker.extend`. What comes near the acknowledgement timeout is given back: nothing can renew it."""
        gone = [message for message in messages if not message.receipt.link.is_open]
        oldest = time.monotonic() - self._address.ack_timeout_s * HELD_FOR
        old = [message for message in messages if message.received_at <= oldest and message not in gone]
        await self.give_back(old)
        return gone + old

    async def bury(self, message: Message, burial: Burial) -> None:
        """See `Broker.bury`. What its connection has lost is delivered, and buried, again."""
        if not message.receipt.link.is_open:
            return
        incoming = message.receipt.incoming
        copy = _copy(incoming, headers={**_headers(incoming), **burial.fields(message)})
        await self._publish(message.receipt.link, copy, self._address.dead)

    async def finish(self, messages: Sequence[Message]) -> None:
        """See `Broker.finish`."""
        for message in messages:
            link = message.receipt.link
            if link.is_open:
                with link.used():
                    await message.receipt.incoming.ack()

    async def give_back(self, messages: Sequence[Message]) -> None:
        """See `Broker.give_back`.

        As a copy at the end of the queue: requeueing counts against a delivery limit, and nobody made a mistake.
        """
        for message in messages:
            link, incoming = message.receipt.link, message.receipt.incoming
            if not link.is_open:
                continue
            try:
                await self._publish(link, _copy(incoming, headers=_headers(incoming)), self._address.queue)
            except _NotTaken:
                with link.used():
                    await incoming.nack(requeue=True)  # a full queue takes no copy
            else:
                with link.used():
                    await incoming.ack()

    async def held_elsewhere(self, own: int) -> bool:
        """See `Broker.held_elsewhere`: a queue gives out at once what a closed connection held."""
        return False

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """See `Outlet.publish`."""
        link = await self._linked()
        messages = [
            aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, content_type="application/json")
            for body in bodies
        ]
        failed: list[Disconnected] = []

        async def one(message: aio_pika.Message) -> None:
            try:
                await self._publish(link, message, self._address.queue)
            except Disconnected as error:
                failed.append(error)

        async with anyio.create_task_group() as tasks:
            for message in messages:
                tasks.start_soon(one, message)
        if failed:
            raise failed[0]

    async def _publish(self, link: Link, message: aio_pika.Message, queue: str) -> None:
        with link.used():
            try:
                await link.channel.default_exchange.publish(
                    message, routing_key=queue, mandatory=True, timeout=CONFIRM_TIMEOUT_S
                )
            except DeliveryError as error:
                refusal = error
            else:
                return
        # Returned, where the queue was deleted; or refused by one that is full.
        raise _NotTaken(f"the queue {queue} did not take a message: {said(refusal)}") from refusal

    async def _linked(self, *, is_first: bool = False) -> Link:
        """The connection in use, or another one."""
        async with self._linking:
            if self._link is not None and self._link.is_open:
                return self._link
            await self._unlink()
            try:
                with translated(), anyio.fail_after(CONNECT_TIMEOUT_S):
                    self._link = await linked(self._address, is_reader=self._is_reader)
            except Disconnected as error:
                if is_first and isinstance(error.__cause__, REFUSED):
                    raise error.__cause__ from None
                raise
            return self._link

    async def _unlink(self) -> None:
        """Give back what arrived and was not received, and close."""
        link, self._link = self._link, None
        if link is None:
            return
        try:
            if link.is_open:
                if link.queue is not None and link.consumer is not None:
                    await link.queue.cancel(link.consumer)
                await self.give_back(
                    [
                        Message(body=b"", place="", receipt=_Receipt(incoming, link), received_at=0.0)
                        for incoming in link.arrived
                    ]
                )
        except (*GONE, Disconnected):
            pass  # the broker gives out again what this connection held
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True), suppress(*GONE):
            await link.connection.close()


def _copy(incoming: AbstractIncomingMessage, *, headers: dict[str, str]) -> aio_pika.Message:
    return aio_pika.Message(
        incoming.body,
        headers=dict(headers),
        content_type=incoming.content_type,
        content_encoding=incoming.content_encoding,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        priority=incoming.priority,
        correlation_id=incoming.correlation_id,
        message_id=incoming.message_id,
        type=incoming.type,
        app_id=incoming.app_id,
    )


def _headers(incoming: AbstractIncomingMessage) -> dict[str, str]:
    return {name: value for name, value in incoming.headers.items() if name not in OURS}  # type: ignore[misc]  # any value
