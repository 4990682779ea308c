"""The messages of a queue that are in hand, from their receipt to the end that the broker was told.

Keeps them from being delivered to others meanwhile, and tells the broker how each ended; decides neither.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from ingest.model import Outcome
from ingest.observe.logging import get_logger
from ingest.sources.base import Delivery, NoJob
from ingest.sources.broker import REQUEST_TIMEOUT_S, Burial, Disconnected, pause_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ingest.sources.broker import Broker, Message

__all__ = ["Hand", "QueueDelivery"]

log = get_logger("sources")

TOLD_AT_ONCE: Final = 64


@dataclass(slots=True, kw_only=True)
class _Done:
    """To be acknowledged, after `burial` where there is one. `is_buried`: that much is done already."""

    message: Message
    burial: Burial | None
    is_buried: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Returned:
    """To be given back."""

    message: Message


_Ending: TypeAlias = _Done | _Returned


@dataclass(slots=True, kw_only=True)
class QueueDelivery(Delivery):
    """A message in hand. Both methods only leave word; see `Hand`."""

    message: Message
    end: Callable[[_Ending], None]
    is_ended: bool = False

    async def acknowledge(self, outcome: Outcome, reason: str | None) -> None:
        """See `Delivery.acknowledge`. Raises `Disconnected` where the source was left."""
        burial = None
        if outcome in {Outcome.REJECTED, Outcome.FAILED}:
            detail = self.job.detail if isinstance(self.job, NoJob) else None
            burial = Burial(outcome=outcome, reason=reason, detail=detail)
        self._end(_Done(message=self.message, burial=burial))

    async def release(self) -> None:
        """See `Delivery.release`."""
        self._end(_Returned(message=self.message))

    def _end(self, ending: _Ending) -> None:
        if not self.is_ended:
            self.is_ended = True
            self.end(ending)


class Hand:
    """At most `capacity` messages. `unread`: received, and not handed over yet.

    `untold_since`: for so long the broker has not heard what it is told, on the monotonic clock; None: it does.
    """

    def __init__(self, broker: Broker, *, name: str, capacity: int) -> None:
        self.unread: deque[Message] = deque()
        self.untold_since: float | None = None
        self._broker = broker
        self._name = name
        self._capacity = capacity
        self._held: set[Message] = set()
        self._endings: deque[_Ending] = deque()
        self._is_left = False
        self._ended = anyio.Event()
        self._told = anyio.Event()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def free(self) -> int:
        """How many more may be taken."""
        return self._capacity - len(self._held)

    def take(self, messages: Sequence[Message]) -> None:
        """These are ours."""
        self._held.update(messages)
        self.unread.extend(messages)

    async def changed(self) -> None:
        """Wait until the broker was told of something, or some are ours no longer."""
        await self._told.wait()

    def end(self, ending: _Ending) -> None:
        """The broker is to be told of this soon. Raises `Disconnected` where nobody tells it any more."""
        if self._is_left:
            raise Disconnected("the source was left before this message ended; it is delivered again")
        self._endings.append(ending)
        self._ended.set()

    async def leave(self) -> None:
        """Tell the broker what has ended, and give back everything else. Nothing else may be telling it any more."""
        self._is_left = True
        self.unread.clear()
        ended = {ending.message for ending in self._endings}
        self._endings.extend(_Returned(message=message) for message in self._held - ended)
        await self._tell_all()

    async def tell(self) -> None:
        """Tell the broker of every end, in order, for ever."""
        while True:
            await self._tell_all()
            self._ended = anyio.Event()
            await self._ended.wait()

    async def _tell_all(self) -> None:
        """Tell the broker of every end so far; again where it did not hear."""
        failures = 0
        self.untold_since = None
        while self._endings:
            batch = [self._endings[nth] for nth in range(min(TOLD_AT_ONCE, len(self._endings)))]
            try:
                # Shielded: what is cancelled in the middle would be buried again by whoever goes on.
                with anyio.fail_after(REQUEST_TIMEOUT_S, shield=True):
                    await self._tell(batch)
            except (Disconnected, TimeoutError) as error:
                failures += 1
                self.untold_since = self.untold_since or time.monotonic()
                log.warning("delivery.untold", source=self._name, count=len(batch), error=str(error) or "no answer")
                await anyio.sleep(pause_s(failures))
                continue
            failures, self.untold_since = 0, None
            for ending in batch:
                self._endings.popleft()
                self._held.discard(ending.message)
            self._changed()

    async def _tell(self, batch: Sequence[_Ending]) -> None:
        done = [ending for ending in batch if isinstance(ending, _Done)]
        for ending in done:
            if ending.burial is not None and not ending.is_buried:
                # Before it is acknowledged: dying between the two buries it twice, and never not at all.
                await self._broker.bury(ending.message, ending.burial)
                ending.is_buried = True
        if done:
            await self._broker.finish([ending.message for ending in done])
        if returned := [ending.message for ending in batch if isinstance(ending, _Returned)]:
            await self._broker.give_back(returned)

    async def extend(self) -> None:
        """Keep what is in hand from being delivered to others, for ever."""
        while True:
            await anyio.sleep(self._broker.lease_s / 3)
            if not self._held:
                continue
            ending = {ending.message for ending in self._endings}
            try:
                with anyio.fail_after(REQUEST_TIMEOUT_S):
                    lost = await self._broker.extend(list(self._held - ending))
            except (Disconnected, TimeoutError) as error:
                log.warning("lease.unextended", source=self._name, error=str(error) or "no answer")
                continue
            if lost:
                log.info("lease.lost", source=self._name, count=len(lost))
                self._held.difference_update(lost)
                self.unread = deque(message for message in self.unread if message not in set(lost))
                self._changed()

    def _changed(self) -> None:
        self._told.set()
        self._told = anyio.Event()
