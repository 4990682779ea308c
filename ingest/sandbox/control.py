"""The endpoints by which tests look into a running sandbox and change it: `/sandbox/…`.

No part of the API, and for loopback peers only: whoever may call them may make keys.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from ingest.sandbox.faults import FaultPlan
from ingest.sandbox.keys import KeyChange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ingest.sandbox.exchange import Exchange
    from ingest.sandbox.keys import Keyring
    from ingest.sandbox.ledger import Ledger

__all__ = ["Control"]


class _KeyState(msgspec.Struct, frozen=True):
    public_id: str
    scope: str
    tier: str
    revoked: bool


class _Problem(msgspec.Struct, frozen=True):
    error: str


class Control:
    """Ledger, keys and faults of a running sandbox."""

    def __init__(self, ledger: Ledger, keyring: Keyring, exchange: Exchange) -> None:
        self._ledger = ledger
        self._keyring = keyring
        self._exchange = exchange

    def routes(self) -> list[web.RouteDef]:
        """Everything under `/sandbox/`."""
        return [
            web.get("/sandbox/ledger", _loopback_only(self._show_ledger)),
            web.post("/sandbox/reset-ledger", _loopback_only(self._reset_ledger)),
            web.post("/sandbox/keys", _loopback_only(self._change_key)),
            web.put("/sandbox/faults", _loopback_only(self._replace_faults)),
        ]

    async def _show_ledger(self, request: web.Request) -> web.Response:
        return _json(200, self._ledger.view())

    async def _reset_ledger(self, request: web.Request) -> web.Response:
        self._ledger.reset()
        return web.Response(status=204)

    async def _change_key(self, request: web.Request) -> web.Response:
        try:
            key = self._keyring.change(msgspec.json.decode(await request.read(), type=KeyChange))
        except ValueError as error:
            return _json(422, _Problem(str(error)))
        return _json(200, _KeyState(key.public_id, key.scope, key.tier, key.revoked))

    async def _replace_faults(self, request: web.Request) -> web.Response:
        try:
            plan = msgspec.json.decode(await request.read(), type=FaultPlan)
        except ValueError as error:
            return _json(422, _Problem(str(error)))
        self._exchange.replace_plan(plan)
        return _json(200, plan)


def _json(status: int, content: msgspec.Struct) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(content), content_type="application/json")


def _loopback_only(
    handler: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def guarded(request: web.Request) -> web.Response:
        if not _is_loopback(request.remote):
            return _json(403, _Problem("the control endpoints answer this machine only"))
        return await handler(request)

    return guarded


def _is_loopback(remote: str | None) -> bool:
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # a dual-stack socket shows IPv4 peers as IPv6
    return (mapped or address).is_loopback
