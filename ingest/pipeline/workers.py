"""The workers: so many loops that take jobs as they are handed out, one at a time each.

Loops, not a task a job: what waits is bounded, and whoever hands out waits while all are busy.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio

from ingest.pipeline.pulse import Pulse
from ingest.pipeline.work import Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from ingest.pipeline.stop import Stop

__all__ = ["Workers"]

WORKERS_PER_SLOT: Final = 3
# A job is in one of three places: at the disk, at the storage, at the API. With three workers for each request that
# may be open neither lane waits for a worker, and the few in back-off are not missed.

FEWEST: Final = 8
# With one request at a time, a job in back-off must still not hold up the rest.


class Workers:
    """Hands jobs from whoever has them to whoever is free, while it is `running`; as the run stops, no more of them."""

    def __init__(self, concurrency: int, stop: Stop) -> None:
        self._count = max(FEWEST, WORKERS_PER_SLOT * concurrency)
        self._stop = stop
        self._send: MemoryObjectSendStream[Work]
        self._receive: MemoryObjectReceiveStream[Work]
        self._returned: deque[Work] = deque()
        self._was_idle = Pulse()
        self.busy = 0

    @contextlib.asynccontextmanager
    async def running(self, deliver: Callable[[Work], Awaitable[None]]) -> AsyncIterator[None]:
        """Deliver what is handed out, while inside; then drop what nobody took, and cancel what is still in hand."""
        self._send, self._receive = anyio.create_memory_object_stream[Work](self._count)
        with self._send, self._receive:
            async with anyio.create_task_group() as tasks:
                for _ in range(self._count):
                    tasks.start_soon(self._work, deliver)
                yield
                tasks.cancel_scope.cancel()

    async def give(self, work: Work) -> None:
        """Hand a job out, waiting for room; while the run stops it stays where the journal has it."""
        if not self._stop.is_requested:
            await self._send.send(work)

    async def give_back(self, work: Work) -> None:
        """Hand out a job that was in hand before, without waiting: outcomes and lookups must not wait for busy workers.

        What comes back is bounded by the open jobs.
        """
        if self._stop.is_requested:
            return
        try:
            self._send.send_nowait(work)
        except anyio.WouldBlock:  # nobody is free, so whoever is next looks here first
            self._returned.append(work)

    async def idle(self) -> None:
        """Wait until no worker has a job in hand."""
        while self.busy:
            await self._was_idle.wait()

    async def _work(self, deliver: Callable[[Work], Awaitable[None]]) -> None:
        while True:
            work = self._returned.popleft() if self._returned else await self._receive.receive()
            if self._stop.is_requested:
                continue
            self.busy += 1
            try:
                await deliver(work)
            finally:
                self.busy -= 1
                if not self.busy:
                    self._was_idle.beat()
