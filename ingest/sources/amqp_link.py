"""One connection to an AMQP broker: made with what a queue needs, and given up as soon as it does not answer.

Mends nothing: `amqp` makes another one.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import aio_pika
import aiormq.exceptions
import anyio
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ProbableAuthenticationError,
)

from ingest.observe.logging import get_logger
from ingest.sources.broker import CONNECT_TIMEOUT_S, Disconnected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
    from aiormq.abc import FieldTable

    from ingest.sources.addresses import AmqpAddress

__all__ = ["GONE", "REFUSED", "Link", "linked", "said", "translated"]

log = get_logger("sources")

for _name in ("aio_pika", "aiormq"):
    # What they warn of is raised here as well; nothing else may write to a terminal that shows a run.
    logging.getLogger(_name).addHandler(logging.NullHandler())

LOW_LIMIT: Final = 10
# A delivery limit under this may be used up by workers that are killed for reasons of their own.

QUORUM: Final[FieldTable] = {"x-queue-type": "quorum"}
LIMIT: Final = re.compile(r"'x-delivery-limit'.*current is the value '(\d+)'")

REFUSED: Final = (
    AuthenticationError,
    ProbableAuthenticationError,
    aiormq.exceptions.ChannelAccessRefused,
    aiormq.exceptions.ConnectionNotAllowed,
    ChannelPreconditionFailed,
)
GONE: Final = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError)


class Link:
    """One connection with its channel, consumer, and what came and was not received yet."""

    def __init__(self, connection: AbstractConnection, channel: AbstractChannel) -> None:
        self.connection = connection
        self.channel = channel
        self.queue: AbstractQueue | None = None
        self.consumer: str | None = None
        self.arrived: deque[AbstractIncomingMessage] = deque()  # bounded by the channel's prefetch
        self.news = anyio.Event()
        self._is_broken = False

    @property
    def is_open(self) -> bool:
        return not (self._is_broken or self.connection.is_closed or self.channel.is_closed)

    async def arrive(self, incoming: AbstractIncomingMessage) -> None:
        self.arrived.append(incoming)
        self.news.set()

    def break_off(self, *_: object) -> None:
        """Nothing that came over it is ours any more; also where only the other side knows that."""
        self._is_broken = True
        self.news.set()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Translate what goes wrong; who did not answer in time, or badly, is not asked again."""
        try:
            with translated():
                yield
        except Disconnected:
            self.break_off()
            raise


async def linked(address: AmqpAddress, *, is_reader: bool) -> Link:
    """A new connection, which consumes for a reader; makes queues that are missing. Raises what aio-pika does."""
    connection = await aio_pika.connect(
        host=address.host,
        port=address.port,
        login=address.user,
        password=address.password,
        virtualhost=address.vhost,
        ssl=address.is_tls,
        client_properties={"connection_name": "ingest"},
        timeout=CONNECT_TIMEOUT_S,
    )
    try:
        await _declare(connection, address.queue, is_quorum_wanted=True)
        if is_reader:
            await _declare(connection, address.dead, is_quorum_wanted=False)
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        link = Link(connection, channel)
        connection.close_callbacks.add(link.break_off)
        channel.close_callbacks.add(link.break_off)
        if is_reader:
            await channel.set_qos(prefetch_count=address.prefetch)
            link.queue = await channel.get_queue(address.queue, ensure=False)
            link.consumer = await link.queue.consume(link.arrive)
    except BaseException:
        await connection.close()
        raise
    return link


async def _declare(connection: AbstractConnection, name: str, *, is_quorum_wanted: bool) -> None:
    """Make a quorum queue where there is none, and take whatever is there, saying what is amiss with it."""
    channel = await connection.channel()
    try:
        await channel.declare_queue(name, durable=True, arguments=QUORUM)
    except ChannelPreconditionFailed as error:
        told = said(error)
    else:
        await channel.close()
        return
    channel = await connection.channel()
    try:
        await channel.declare_queue(name, passive=True)
    except ChannelNotFoundEntity as error:
        raise Disconnected(f"the queue {name} was deleted meanwhile") from error
    if is_quorum_wanted and (found := LIMIT.search(told)) is not None and int(found[1]) < LOW_LIMIT:
        log.warning(
            "limit.too_low",
            queue=name,
            limit=int(found[1]),
            message=f"The queue {name} gives a message up after {found[1]} deliveries that were not acknowledged: "
            f"workers that are killed may lose it. Set its delivery limit to {LOW_LIMIT} or more.",
        )
    elif is_quorum_wanted and "x-queue-type" in told:
        log.warning(
            "queue.not_quorum",
            queue=name,
            message=f"The queue {name} is no quorum queue: a broker that fails may lose what it confirmed.",
        )
    await channel.close()


def said(error: BaseException) -> str:
    """What an error has to say for people."""
    return str(error) or type(error).__name__


@contextmanager
def translated() -> Iterator[None]:
    """Raise `Disconnected` for whatever goes wrong with a connection."""
    try:
        yield
    except Disconnected:
        raise
    except GONE as error:
        raise Disconnected(said(error)) from error
