"""HTTP/1.1 on aiohttp's connections: the head of a request written as it is, and its answer awaited.

aiohttp opens, secures, tunnels and keeps the connections and parses what comes. Its session stays out: what that adds
to each request (cookies, redirects, retries, hooks, timers) is not wanted, and takes half of a request's time (260 µs
for a job's three, 122 without it). Errors come out as aiohttp's own.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from ingest.observe.version import version

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from yarl import URL

    from ingest.api.environment import Proxy

__all__ = ["KEEPALIVE_S", "Route", "Wire", "head", "received"]

KEEPALIVE_S: Final = 3.0
# Node's default server closes a connection idle for 5 s. A request written as that happens may or may not have been
# read, which for an add means a lookup; two seconds stay for the way there and back.

MAX_ROUTES: Final = 256
# A storage may well give every bucket a host of its own.


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way to one origin, and what every request that goes there says."""

    request: aiohttp.ClientRequest  # never sent: the pool knows by it which connection serves
    target: str  # what stands before the path: nothing, or the origin where a proxy has to know it
    lines: str


class Wire:
    """The connections of one lane. Use `open`."""

    def __init__(self, connector: aiohttp.TCPConnector, connect_timeout_s: float) -> None:
        self.connector = connector
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s)
        self._routes: dict[tuple[str, str | None], Route] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, tls: ssl.SSLContext, connect_timeout_s: float) -> AsyncIterator[Wire]:
        """Keep connections, as many as are asked for, until the block is left."""
        connector = aiohttp.TCPConnector(ssl=tls, limit=0, keepalive_timeout=KEEPALIVE_S)
        async with connector:
            yield cls(connector, connect_timeout_s)

    def route(self, url: URL, proxy: Proxy | None) -> Route:
        """The way to where `url` leads; the proxy of one host is always the same."""
        origin = (url.scheme, url.host_port_subcomponent)
        route = self._routes.get(origin)
        if route is None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            route = self._routes[origin] = _route_to(url, proxy)
        return route

    async def connect(self, route: Route) -> tuple[Connection, asyncio.WriteTransport, ResponseHandler]:
        """A connection, kept or fresh, for one request: to close or release, to write to, and to read from.

        Nothing was sent by then.
        """
        while True:
            try:
                connection = await self.connector.connect(route.request, [], self._timeout)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError from error
            transport, protocol = connection.transport, connection.protocol
            if transport is None or protocol is None:  # lost as soon as it was made
                connection.close()
                raise aiohttp.ServerDisconnectedError
            if protocol.should_close:
                # Something came on a kept connection that nobody had asked for: it would be taken for this answer.
                connection.close()
                continue
            protocol.set_response_params(read_until_eof=True)
            return connection, transport, protocol


def head(route: Route, method: str, url: URL, headers: Mapping[str, str], size_bytes: int | None) -> bytes:
    """A request up to its body of `size_bytes`, None without one. `ValueError` where a line would be more than one."""
    own = [f"{name}: {value}\r\n" for name, value in headers.items()]
    if size_bytes is not None:
        own.append(f"Content-Length: {size_bytes}\r\n")
    text = f"{method} {route.target}{url.raw_path_qs} HTTP/1.1\r\n{route.lines}{''.join(own)}"
    lines = 1 + len(route.request.headers) + len(own)
    if not text.count("\r") == text.count("\n") == lines or "\0" in text:
        raise ValueError("a URL or a header holds a line break")
    return f"{text}\r\n".encode()


async def received(protocol: ResponseHandler) -> tuple[int, Mapping[str, str], aiohttp.StreamReader]:
    """Status, headers and the body, still to be read, of the answer; what is merely provisional is passed over."""
    while True:
        message, body = await protocol.read()
        if message.code >= 200 or message.code == 101:
            return message.code, message.headers, body


def _route_to(url: URL, proxy: Proxy | None) -> Route:
    common = {"User-Agent": f"ingest/{version()}", "Accept": "application/json"}
    target = ""
    proxy_headers = None
    if proxy is not None:
        authorization = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
        # A tunnel is asked for with headers of its own; a plain request carries them itself.
        if url.scheme == "https":
            # With the host, which aiohttp would put in later: the pool tells connections apart by these headers.
            proxy_headers = {"Host": url.host_port_subcomponent or "", **common, **authorization}
        else:
            target = str(url.origin())
            common |= authorization
    request = aiohttp.ClientRequest(
        "GET",
        url.origin(),
        headers=common,
        loop=asyncio.get_running_loop(),
        proxy=proxy.url if proxy is not None else None,
        proxy_headers=proxy_headers,
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return Route(request=request, target=target, lines=lines)
