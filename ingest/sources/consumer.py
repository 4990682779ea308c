"""A queue as a source: jobs handed over while somebody asks for them, whatever broker they are at.

Decides no outcome and knows no protocol: adapters do what `broker.Broker` says, and `hand` keeps what was received.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from ingest.observe.logging import get_logger
from ingest.sources.base import SourceReport
from ingest.sources.broker import REQUEST_TIMEOUT_S, Disconnected, pause_s, unreachable
from ingest.sources.hand import Hand, QueueDelivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ingest.sources.base import Delivery
    from ingest.sources.broker import Broker
    from ingest.sources.message import Reader

__all__ = ["QueueSource"]

log = get_logger("sources")

BATCH: Final = 64
# Messages received at once: one commit of the journal admits them.

WAIT_S: Final = 1.0
# For messages, at a time. A run that is stopped waits no longer than this for what is on its way.

LEAVE_TIMEOUT_S: Final = 10.0
# For what is told to the broker at the end; a message of which it hears nothing is delivered again.


class QueueSource:
    """The jobs of a queue, until nothing has come for `idle_s` while it was read (None: for ever).

    At most `prefetch` messages are in hand, from their receipt to the end that the broker was told. One loop keeps them
    all from being delivered to others, another tells the broker what ended: what is added or a duplicate is
    acknowledged; what is rejected, failed or no job goes to the dead-letter place with its reason and is acknowledged
    then. Leaving the source tells what ended and gives back the rest. A message that a worker held when it died is
    waited for as long as its lease may last, longer than `idle_s` if need be.

    A broker that goes away is looked for until it is back; after `give_up_after_s` without (None: never), the iterator
    raises `GaveUp`. Connecting for the first time is tried once.
    """

    def __init__(
        self,
        name: str,
        *,
        place: str,
        connect: Callable[[], AbstractAsyncContextManager[Broker]],
        reader: Reader,
        prefetch: int,
        idle_s: float | None,
        give_up_after_s: float | None,
    ) -> None:
        self.name = name
        self.origin = place
        self.report = SourceReport()
        self._connect = connect
        self._reader = reader
        self._prefetch = prefetch
        self._idle_s = idle_s
        self._give_up_after_s = give_up_after_s

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        """Connect, and make what is missing at the broker. See `Source.open`."""
        problem: Exception | None = None
        async with self._connect() as broker:
            hand = Hand(broker, name=self.name, capacity=self._prefetch)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(hand.extend)
                    tasks.start_soon(hand.tell)
                    try:
                        yield _Batches(self, broker, hand, self._reader)
                    except Exception as error:  # raised below, in no group
                        problem = error
                    tasks.cancel_scope.cancel()
            finally:
                # By nobody else: a cancellation has ended the tasks.
                with anyio.move_on_after(LEAVE_TIMEOUT_S, shield=True):
                    await hand.leave()
        if problem is not None:
            raise problem

    def retells(self, place: str) -> bool:
        """See `RefusingSource.retells`: a message comes until it is acknowledged, and then no more."""
        return False

    @property
    def idle_s(self) -> float | None:
        """See the class."""
        return self._idle_s

    @property
    def give_up_after_s(self) -> float | None:
        """See the class."""
        return self._give_up_after_s


class _Batches:
    """The iterator: receives when it is asked, and only then."""

    def __init__(self, source: QueueSource, broker: Broker, hand: Hand, reader: Reader) -> None:
        self._source = source
        self._broker = broker
        self._hand = hand
        self._reader = reader
        self._failures = 0
        self._lost_at: float | None = None
        self._is_drained = False

    def __aiter__(self) -> AsyncIterator[Sequence[Delivery]]:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        quiet_since = time.monotonic()
        is_idle = False
        while not self._is_drained:
            while self._hand.free <= 0 and not self._hand.unread:
                with anyio.move_on_after(WAIT_S):
                    await self._hand.changed()
                self._give_up(self._hand.untold_since, "no answer")
                quiet_since = time.monotonic()  # nothing was asked for meanwhile
            await self._receive()
            if self._hand.unread:
                return await self._deliveries()
            if self._lost_at is not None:
                quiet_since, is_idle = time.monotonic(), False
            elif is_idle:
                self._is_drained = True
            else:
                # Looked into once more then: what others held may have come back since the last look.
                is_idle = await self._is_idle(time.monotonic() - quiet_since)
        raise StopAsyncIteration

    async def _receive(self) -> None:
        """Take what there is into the hand; after a failure, pause."""
        hand = self._hand
        wait_s = WAIT_S if self._source.idle_s is None else min(WAIT_S, self._source.idle_s)
        try:
            if not hand.unread:
                # Shielded: what is on its way must arrive, or nobody would have it until its lease ends.
                with anyio.fail_after(wait_s + REQUEST_TIMEOUT_S, shield=True):
                    hand.take(await self._broker.receive(min(BATCH, hand.free), wait_s))
            self._failures, self._lost_at = 0, None
        except (Disconnected, TimeoutError) as error:
            self._failures += 1
            self._lost_at = self._lost_at or time.monotonic()
            log.warning(
                "broker.lost", source=self._source.name, place=self._source.origin, error=str(error) or "no answer"
            )
            self._give_up(self._lost_at, str(error) or "no answer")
            await anyio.sleep(pause_s(self._failures))
        await anyio.lowlevel.checkpoint()

    def _give_up(self, since: float | None, problem: str) -> None:
        """Raise `GaveUp` where the broker has been away for too long."""
        limit_s = self._source.give_up_after_s
        if since is not None and limit_s is not None and time.monotonic() - since > limit_s:
            raise unreachable(self._source.origin, problem)

    async def _deliveries(self) -> Sequence[Delivery]:
        messages = list(self._hand.unread)
        jobs = await anyio.to_thread.run_sync(
            lambda: [self._reader.read(message.body, message.place) for message in messages]
        )
        self._hand.unread.clear()
        return [
            QueueDelivery(job=job, place=message.place, message=message, end=self._hand.end)
            for job, message in zip(jobs, messages, strict=True)
        ]

    async def _is_idle(self, quiet_s: float) -> bool:
        idle_s = self._source.idle_s
        if idle_s is None or quiet_s < idle_s:
            return False
        # One and a half: the lease of what died a moment ago, and until the broker has noticed.
        if quiet_s >= self._broker.lease_s * 1.5:
            return True
        try:
            with anyio.fail_after(REQUEST_TIMEOUT_S):
                return not await self._broker.held_elsewhere(len(self._hand))
        except (Disconnected, TimeoutError):
            return False
