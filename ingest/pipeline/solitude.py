"""Running one job alone: shared for the many, exclusive for a job that may be what killed earlier processes.

A reader-writer lock in which whoever asks for solitude goes first. Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Solitude"]


class Solitude:
    """Many may hold it `shared`, or one `alone`."""

    def __init__(self) -> None:
        self._condition = anyio.Condition()
        self._shared = 0
        self._alone = False
        self._asking = 0  # whoever is alone among them

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Be one of many."""
        if self._is_closed():  # the common way in takes no lock
            async with self._condition:
                while self._is_closed():
                    await self._condition.wait()
        self._shared += 1
        try:
            yield
        finally:
            self._shared -= 1
            if self._is_closed() and not self._shared:
                await self._wake()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be the only one."""
        self._asking += 1
        try:
            async with self._condition:
                while self._alone or self._shared:
                    await self._condition.wait()
                self._alone = True
            try:
                yield
            finally:
                self._alone = False
        finally:
            self._asking -= 1
            await self._wake()

    def _is_closed(self) -> bool:
        return self._asking > 0

    async def _wake(self) -> None:
        with anyio.CancelScope(shield=True):  # the lock is never held across a wait: this is short
            async with self._condition:
                self._condition.notify_all()
