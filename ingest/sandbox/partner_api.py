"""The ten endpoints of the Packs API: from a checked request to its answer.

Only what the documentation says of each endpoint: transport, limits and faults are `exchange`'s, rows are `packs`'
and `files`'. Every endpoint is one synchronous step.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from ingest.sandbox.answers import Refusal, envelope
from ingest.sandbox.replies import Deleted, UploadUrl
from ingest.sandbox.requests import AddImage, CreatePack, UpdatePack, UploadFile, parse, read_page
from ingest.sandbox.subscription import subscription_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from ingest.sandbox.call import Call, Effect, Prepare
    from ingest.sandbox.faults import Operation
    from ingest.sandbox.files import Files
    from ingest.sandbox.keys import ApiKey, Keyring
    from ingest.sandbox.packs import Packs
    from ingest.sandbox.signing import UploadSigner

__all__ = ["PREFIX", "PartnerApi"]

PREFIX: Final = "/api/partner/v1"

PACKS_LIMIT: Final = 20
FILES_LIMIT: Final = 50

Endpoint: TypeAlias = "Callable[[Call, ApiKey], web.Response]"


class PartnerApi:
    """The endpoints, ready to be routed."""

    def __init__(
        self, keyring: Keyring, packs: Packs, files: Files, signer: UploadSigner, *, upload_expires_s: int
    ) -> None:
        self._keyring = keyring
        self._packs = packs
        self._files = files
        self._signer = signer
        self._upload_expires_s = upload_expires_s

    def routes(self) -> list[tuple[str, str, Operation, Prepare]]:
        """Method, path, operation and what prepares it. An id may be empty: that has an answer of its own."""
        pack = PREFIX + "/packs/{pack_id:[^/]*}"
        endpoints: list[tuple[str, str, Operation, Endpoint]] = [
            ("GET", f"{PREFIX}/packs", "list_packs", self.list_packs),
            ("POST", f"{PREFIX}/packs", "create_pack", self.create_pack),
            ("GET", pack, "get_pack", self.get_pack),
            ("PATCH", pack, "update_pack", self.update_pack),
            ("DELETE", pack, "delete_pack", self.delete_pack),
            ("POST", pack + "/images", "add_image", self.add_image),
            ("DELETE", pack + "/images/{image_id:[^/]*}", "delete_image", self.delete_image),
            ("POST", f"{PREFIX}/files", "upload_file", self.upload_file),
            ("GET", f"{PREFIX}/files", "list_files", self.list_files),
            ("GET", f"{PREFIX}/subscription", "subscription", self.subscription),
        ]
        return [(method, path, operation, self._prepare(endpoint)) for method, path, operation, endpoint in endpoints]

    def list_packs(self, call: Call, key: ApiKey) -> web.Response:
        query = call.request.query
        try:
            page = read_page(query, default_limit=PACKS_LIMIT)
        except ValueError as error:
            raise Refusal(422, "invalid_query", str(error)) from error
        packs = self._packs.page(
            key.scope, page, search=query.get("search", ""), include_public=query.get("include_public") != "false"
        )
        return envelope(200, "Packs retrieved", packs)

    def create_pack(self, call: Call, key: ApiKey) -> web.Response:
        return envelope(201, "Pack created", self._packs.create(key.scope, parse(call.body, CreatePack)))

    def get_pack(self, call: Call, key: ApiKey) -> web.Response:
        pack = self._packs.get(key.scope, _pack_id(call), stale_s=call.stale_s)
        if pack is None:
            raise _pack_not_found()
        return envelope(200, "Pack retrieved", pack)

    def update_pack(self, call: Call, key: ApiKey) -> web.Response:
        pack_id = _pack_id(call)
        pack = self._packs.update(key.scope, pack_id, parse(call.body, UpdatePack))
        if pack is None:
            raise _pack_not_found()
        return envelope(200, "Pack updated", pack)

    def delete_pack(self, call: Call, key: ApiKey) -> web.Response:
        pack_id = _pack_id(call)
        if not self._packs.delete(key.scope, pack_id):
            raise _pack_not_found()
        return envelope(200, "Pack deleted", Deleted(pack_id))

    def add_image(self, call: Call, key: ApiKey) -> web.Response:
        pack_id = _pack_id(call)
        image = self._packs.add_image(key.scope, pack_id, parse(call.body, AddImage))
        if image is None:
            raise _pack_not_found()
        return envelope(201, "Pack image added", image)

    def delete_image(self, call: Call, key: ApiKey) -> web.Response:
        pack_id = _pack_id(call)
        image_id = call.request.match_info["image_id"].strip()
        if not image_id:
            raise Refusal(400, "missing_image_id", "Image ID is required")
        is_deleted = self._packs.delete_image(key.scope, pack_id, image_id)
        if is_deleted is None:
            raise Refusal(404, "pack_not_found", "Pack not found")
        if not is_deleted:
            raise Refusal(404, "image_not_found", "Image not found")
        return envelope(200, "Pack image deleted", Deleted(image_id))

    def upload_file(self, call: Call, key: ApiKey) -> web.Response:
        message = parse(call.body, UploadFile)
        # The host by which the client reached us is the one by which it will reach the storage and the CDN.
        host = call.request.host
        origin = f"{call.request.scheme}://{host}"
        object_key, url = self._files.reserve(key.scope, message, cdn=f"{origin}/cdn")
        path = f"/storage/{object_key}"
        query = self._signer.sign(
            path, host=host, content_type=message.content_type, at_s=time.time(), expires_s=self._upload_expires_s
        )
        upload = UploadUrl(
            upload_url=f"{origin}{path}?{query}",
            url=url,
            content_type=message.content_type,
            expires_in=self._upload_expires_s,
        )
        return envelope(201, "Upload URL generated", upload)

    def list_files(self, call: Call, key: ApiKey) -> web.Response:
        query = call.request.query
        kind = query.get("type")
        try:
            page = read_page(query, default_limit=FILES_LIMIT)
        except ValueError as error:
            raise Refusal(400, "invalid_query_parameter", str(error)) from error
        if kind not in (None, "image", "video"):
            raise Refusal(400, "invalid_query_parameter", "type must be image or video")
        files = self._files.page(key.scope, page, kind=kind, context=query.get("context"))
        return envelope(200, "Files retrieved", files)

    def subscription(self, call: Call, key: ApiKey) -> web.Response:
        return envelope(200, "Subscription retrieved", subscription_of(key, datetime.now(UTC)))

    def _prepare(self, endpoint: Endpoint) -> Prepare:
        async def prepare(call: Call) -> Effect:
            return partial(self._answer, endpoint, call)

        return prepare

    def _answer(self, endpoint: Endpoint, call: Call) -> web.Response:
        return endpoint(call, self._authorize(call.request.headers.get("Authorization")))

    def _authorize(self, header: str | None) -> ApiKey:
        """The key that the request shows, when it may use the API at all."""
        if header is None:
            raise Refusal(401, "invalid_token", "API key missing")
        scheme, _, token = header.partition(" ")
        key = self._keyring.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None or key.revoked:
            raise Refusal(401, "invalid_token", "API key not found")
        if key.tier == "none":
            raise Refusal(402, "subscription_required", "An active Creator, Professional or Business plan is required")
        if key.tier == "scheduler":
            raise Refusal(403, "tier_not_allowed", "Partner API access is not available on the Scheduler tier")
        return key


def _pack_id(call: Call) -> str:
    pack_id: str = call.request.match_info["pack_id"].strip()
    if not pack_id:
        raise Refusal(400, "missing_pack_id", "Pack ID is required")
    return pack_id


def _pack_not_found() -> Refusal:
    return Refusal(404, "not_found", "Pack not found")
