"""The object storage and its CDN: bytes in by upload URLs, bytes out by public ones.

Knows nothing of packs or API keys, and refuses the latter: a request that is signed by its URL and carries an
Authorization header has leaked it.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import anyio.to_thread
from aiohttp import hdrs, web

from ingest.sandbox.answers import StorageRefusal

if TYPE_CHECKING:
    from ingest.sandbox.blobs import Blobs, Incoming
    from ingest.sandbox.call import Call, Effect
    from ingest.sandbox.files import Files
    from ingest.sandbox.ledger import Ledger
    from ingest.sandbox.signing import UploadSigner

__all__ = ["Storage"]


class Storage:
    """PUT of presigned objects, GET and HEAD of public ones."""

    def __init__(
        self, files: Files, blobs: Blobs, signer: UploadSigner, ledger: Ledger, *, max_upload_bytes: int
    ) -> None:
        self._files = files
        self._blobs = blobs
        self._signer = signer
        self._ledger = ledger
        self._max_upload_bytes = max_upload_bytes

    async def put(self, call: Call) -> Effect:
        """Take the bytes in. Until the effect nobody sees them, and a body that is cut short leaves nothing."""
        request = call.request
        self._check(request)
        incoming = self._blobs.receive()
        try:
            async for chunk in request.content.iter_any():
                incoming.write(chunk)
        except BaseException:
            incoming.drop()
            raise
        return partial(self._store, request.match_info["object_key"], incoming)

    async def get(self, call: Call) -> Effect:
        """The bytes behind a public URL; HEAD tells their size and type."""
        file = self._files.by_key(call.request.match_info["object_key"])
        if file is None:
            raise StorageRefusal(404, "NoSuchKey", "The specified key does not exist.")
        body = await anyio.to_thread.run_sync(self._blobs.read, file.sha256)
        return partial(self._serve, call.request.method, file.content_type, file.sha256, body)

    def _check(self, request: web.Request) -> None:
        if hdrs.AUTHORIZATION in request.headers:
            self._ledger.storage_authorizations += 1
            raise StorageRefusal(
                400,
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
                "parameter or the Authorization header should be specified",
            )
        self._signer.check(
            request.path,
            request.query,
            host=request.host,
            content_type=request.headers.get(hdrs.CONTENT_TYPE, ""),
            now_s=time.time(),
        )
        if request.content_length is None:
            raise StorageRefusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        if request.content_length > self._max_upload_bytes:
            raise StorageRefusal(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")

    def _store(self, object_key: str, incoming: Incoming) -> web.Response:
        sha256 = incoming.keep()
        self._files.store(object_key, sha256, incoming.size)
        self._ledger.bytes_stored += incoming.size
        return web.Response(headers={hdrs.ETAG: f'"{sha256}"'})

    def _serve(self, method: str, content_type: str, sha256: str, body: bytes) -> web.Response:
        if method == hdrs.METH_GET:
            self._ledger.bytes_served += len(body)
        headers = {hdrs.ETAG: f'"{sha256}"', hdrs.CACHE_CONTROL: "public, max-age=31536000, immutable"}
        return web.Response(body=body, content_type=content_type, headers=headers)
