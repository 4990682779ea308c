"""The HTTP side: pages for scrapers, probes and people, read-only, on the port of `--metrics-port`.

Nothing here changes anything or asks who is there: a page shows only what anybody who reaches the port may see.
"""

from __future__ import annotations

import errno
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
from aiohttp import hdrs, web

from ingest.errors import UsageError
from ingest.observe.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.typedefs import Handler

    Page: TypeAlias = Callable[[], tuple[bytes, str]]  # a body and its content type

__all__ = ["serve"]

log = get_logger("http")

CLOSE_S: Final = 1.0
# For answers that are being sent when the server closes. A scrape takes milliseconds.

_SILENT: Final = logging.Logger("ingest.http.protocol", logging.CRITICAL + 1)  # noqa: LOG001 - part of no tree
# What aiohttp would log is what port scanners send. `_guard` logs the errors of pages.

_TEXT: Final = "text/plain; charset=utf-8"


@asynccontextmanager
async def serve(host: str, port: int, *, metrics: Page, not_ready: Callable[[], str | None]) -> AsyncIterator[int]:
    """Answer on `host` and `port` while inside; gives the port, which for 0 is one that was free.

    `metrics` gives a body and its content type; `not_ready` says why no work may be taken, None when it may. Both are
    called in the event loop for each request that needs them, so that they see one moment of the program, and must not
    block. Raises `UsageError` when the address can't be had.
    """
    app = web.Application(middlewares=[_guard])
    app.on_response_prepare.append(_add_headers)
    # Every page, in one place. aiohttp answers HEAD as it does GET, and 405 to everything else.
    app.add_routes(
        [
            web.get("/metrics", _shown(metrics)),
            web.get("/healthz", _shown(lambda: (b"ok\n", _TEXT))),
            web.get("/readyz", _probed(not_ready)),
        ]
    )
    runner = web.AppRunner(app, access_log=None, logger=_SILENT, shutdown_timeout=CLOSE_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise _unavailable(host, port, error) from error
        bound: int = runner.addresses[0][1]
        log.info("http.opened", host=host, port=bound)
        yield bound
    finally:
        with anyio.move_on_after(2 * CLOSE_S, shield=True):
            await runner.cleanup()


def _shown(page: Page) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        body, content_type = page()
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})

    return handler


def _probed(not_ready: Callable[[], str | None]) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        reason = not_ready()
        return web.Response(text="ready\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    return handler


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A page that fails says so; its traceback belongs in the log, where secrets are withheld."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception:
        log.exception("page.failed", path=request.path)
        return web.Response(status=500, text="This page failed; the log says why.\n")


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall(hdrs.SERVER, None)  # versions are nobody's business
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _unavailable(host: str, port: int, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"Port {port} on {host} is in use, so metrics can't be served there.",
            code="port_in_use",
            hint="Choose another one with --metrics-port, or end the program that has it; 0 takes any that is free.",
        )
    return UsageError(
        f"Metrics can't be served on {host}, port {port}: {error.strerror or error}.",
        code="address_unavailable",
        hint="Check --metrics-host and --metrics-port; ports below 1024 need privileges.",
    )
