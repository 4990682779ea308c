"""A sandbox in this process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from sandbox_client import KEY, Client

from ingest.sandbox import Sandbox, SandboxSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
def serving() -> Callable[..., contextlib.AbstractAsyncContextManager[Client]]:
    """`async with serving(faults=..., ...) as client`: a sandbox with these settings, and a client of it."""

    @contextlib.asynccontextmanager
    async def serve(**settings: Any) -> AsyncIterator[Client]:
        wanted = {"keys": (KEY,), "enrich": False, **settings}
        async with Sandbox(SandboxSettings(**wanted)).serve() as running, aiohttp.ClientSession() as session:
            yield Client(running, session)

    return serve
