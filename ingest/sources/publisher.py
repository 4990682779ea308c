"""A queue as a sink: jobs published in batches, confirmed, and again where the broker went away in the middle.

Chooses no job and no id; knows no protocol: adapters do what `broker.Outlet` says.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from ingest.observe.logging import get_logger
from ingest.sources.broker import REQUEST_TIMEOUT_S, Disconnected, pause_s, unreachable
from ingest.sources.message import message_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ingest.model import Job
    from ingest.sources.broker import Outlet

__all__ = ["QueueSink"]

log = get_logger("sources")


class QueueSink:
    """See `Sink`. A broker that goes away is tried again for `give_up_after_s` (None: for ever), then `GaveUp`."""

    def __init__(
        self,
        name: str,
        *,
        place: str,
        connect: Callable[[], AbstractAsyncContextManager[Outlet]],
        give_up_after_s: float | None,
    ) -> None:
        self.name = name
        self.place = place
        self._connect = connect
        self._give_up_after_s = give_up_after_s

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Callable[[Sequence[Job]], Awaitable[None]]]:
        """See `Sink.open`; makes the queue where there is none and the broker lets us."""
        async with self._connect() as outlet:

            async def publish(jobs: Sequence[Job]) -> None:
                await self._publish(outlet, [message_of(job) for job in jobs])

            yield publish

    async def _publish(self, outlet: Outlet, bodies: Sequence[bytes]) -> None:
        began_at = time.monotonic()
        failures = 0
        while True:
            try:
                with anyio.fail_after(REQUEST_TIMEOUT_S * 3):
                    await outlet.publish(bodies)
            except (Disconnected, TimeoutError) as error:
                failures += 1
                limit_s = self._give_up_after_s
                if limit_s is not None and time.monotonic() - began_at > limit_s:
                    raise unreachable(self.place, str(error) or "no answer") from error
                log.warning("broker.lost", source=self.name, place=self.place, error=str(error) or "no answer")
                await anyio.sleep(pause_s(failures))
            else:
                return
