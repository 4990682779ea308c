"""Puts the sandbox together and serves it: the only place that knows every part, and the order of their lives.

Installs no signal handler, no logging and no loop policy; prints nothing.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from aiohttp import web

from ingest.sandbox.answers import Refusal, StorageRefusal, refuse
from ingest.sandbox.blobs import Blobs, FolderBlobs, MemoryBlobs
from ingest.sandbox.control import Control
from ingest.sandbox.database import open_database, storage_secret
from ingest.sandbox.enrich import Enricher
from ingest.sandbox.enrichment_queue import EnrichmentQueue
from ingest.sandbox.exchange import Exchange
from ingest.sandbox.files import Files
from ingest.sandbox.keys import Keyring
from ingest.sandbox.ledger import Ledger, LedgerView
from ingest.sandbox.packs import Packs
from ingest.sandbox.partner_api import PREFIX, PartnerApi
from ingest.sandbox.signing import UploadSigner
from ingest.sandbox.storage import Storage

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Iterator

    from aiohttp.typedefs import Handler
    from anyio.abc import TaskGroup

    from ingest.sandbox.call import Prepare
    from ingest.sandbox.faults import Lane, Operation
    from ingest.sandbox.settings import SandboxSettings

__all__ = ["RunningSandbox", "Sandbox"]

# What is being answered at the end may still arrive; what hangs may not hold up the end.
SHUTDOWN_S: Final = 0.2

# API bodies are a name or a URL. The real maximum is unknown.
MAX_API_BODY_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that answers; valid inside the block that `serve` opened."""

    url: str
    _ledger: Ledger

    @property
    def base_url(self) -> str:
        """What `GENVIRAL_BASE_URL` is set to."""
        return self.url + PREFIX

    def ledger(self) -> LedgerView:
        """What the sandbox holds and saw; the same as `GET /sandbox/ledger`. Call it on the sandbox's own thread."""
        return self._ledger.view()


class Sandbox:
    """A local Packs API."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[RunningSandbox]:
        """Answer until the block ends; it owns the socket, the database and every task.

        OSError when the address is taken or the folder can't be used. An exception of the block leaves it as it is,
        in no group.
        """
        failure: BaseException | None = None
        with self._open() as (connection, blobs):
            async with anyio.create_task_group() as tasks:
                ledger, app = self._assemble(connection, blobs, tasks)
                # Cancellation ends what hangs as soon as its client has gone.
                runner = web.AppRunner(
                    app,
                    access_log=None,
                    handler_cancellation=True,
                    auto_decompress=False,
                    shutdown_timeout=SHUTDOWN_S,
                )
                await runner.setup()
                try:
                    site = web.TCPSite(runner, self._settings.host, self._settings.port)
                    await site.start()
                    yield RunningSandbox(_url(runner), ledger)
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:
                    failure = error
                finally:
                    with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 10 * SHUTDOWN_S):
                        await runner.cleanup()
                    tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @contextmanager
    def _open(self) -> Iterator[tuple[sqlite3.Connection, Blobs]]:
        data = self._settings.data
        if data is not None:
            data.mkdir(parents=True, exist_ok=True)
        with open_database(data) as connection:
            yield connection, MemoryBlobs() if data is None else FolderBlobs(data)

    def _assemble(
        self, connection: sqlite3.Connection, blobs: Blobs, tasks: TaskGroup
    ) -> tuple[Ledger, web.Application]:
        settings = self._settings
        packs, files = Packs(connection), Files(connection)
        ledger = Ledger(packs, files)
        keyring = Keyring(settings.keys)
        signer = UploadSigner(storage_secret(connection))
        exchange = Exchange(ledger, tasks, settings.faults, hang_s=settings.hang_s)
        api = PartnerApi(keyring, packs, files, signer, upload_expires_s=settings.upload_expires_s)
        storage = Storage(files, blobs, signer, ledger, max_upload_bytes=settings.max_upload_bytes)

        app = web.Application(client_max_size=MAX_API_BODY_BYTES, middlewares=[_answer_strangers])

        def route(method: str, path: str, operation: Operation, lane: Lane, prepare: Prepare) -> None:
            app.router.add_route(
                method, path, partial(exchange.handle, operation=operation, lane=lane, prepare=prepare)
            )

        for method, path, operation, prepare in api.routes():
            route(method, path, operation, "api", prepare)
        route("PUT", "/storage/{object_key:.+}", "put", "storage", storage.put)
        for method in ("GET", "HEAD"):
            route(method, "/cdn/{object_key:.+}", "cdn", "storage", storage.get)
        app.router.add_routes(Control(ledger, keyring, exchange).routes())

        if settings.enrich:
            tasks.start_soon(Enricher(EnrichmentQueue(connection), files, blobs, delay_s=settings.enrich_delay_s).run)
        return ledger, app


@web.middleware
async def _answer_strangers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What no operation answers: unknown paths, wrong methods, bodies beyond measure."""
    headers: dict[str, str] = {}
    try:
        return await handler(request)
    except web.HTTPNotFound:
        refusal = Refusal(404, "not_found", "Not found")
    except web.HTTPMethodNotAllowed as error:
        refusal = Refusal(405, "method_not_allowed", "Method not allowed")
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    except web.HTTPRequestEntityTooLarge:
        refusal = Refusal(413, "payload_too_large", "Payload too large")
    if request.path.startswith(("/storage", "/cdn")):
        code = "MethodNotAllowed" if refusal.status == 405 else "NoSuchKey"
        refusal = StorageRefusal(refusal.status, code, refusal.message)
    response = refuse(refusal)
    response.headers.update(headers)
    return response


def _url(runner: web.AppRunner) -> str:
    # The address that was bound, as a name such as `localhost` may stand for two, with a port each.
    host, port = runner.addresses[0][:2]
    # A wildcard is no address to connect to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
