"""The Partner API as typed methods, one an endpoint; one call is one request.

Retries nothing, waits for no limit and keeps nothing between calls: whoever calls decides what next, by the class of
the error (see `ingest.errors`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from ingest.api.answers import check_put, decode, failed, unanswered, unreadable
from ingest.api.credentials import Credentials
from ingest.api.messages import (
    AddedImage,
    Deleted,
    Envelope,
    FilePage,
    NewImage,
    NewPack,
    NewUpload,
    Pack,
    PackChange,
    PackPage,
    PackScan,
    Subscription,
    UploadTicket,
)
from ingest.api.packscan import PackScanner, is_same_pack
from ingest.api.redaction import query_values
from ingest.api.target import checked, is_sendable
from ingest.api.transport import Answer, Call, HttpTransport, NoAnswer, Transport
from ingest.errors import ImageChanged, Rejected
from ingest.model import Operation

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection

    from ingest.settings import ApiSettings

__all__ = ["PacksClient"]

T = TypeVar("T")

_encode: Final = msgspec.json.Encoder().encode
_pack: Final = msgspec.json.Decoder(Envelope[Pack])
_pack_page: Final = msgspec.json.Decoder(Envelope[PackPage])
_added_image: Final = msgspec.json.Decoder(Envelope[AddedImage])
_deleted: Final = msgspec.json.Decoder(Envelope[Deleted])
_upload_ticket: Final = msgspec.json.Decoder(Envelope[UploadTicket])
_file_page: Final = msgspec.json.Decoder(Envelope[FilePage])
_subscription: Final = msgspec.json.Decoder(Envelope[Subscription])


class PacksClient:
    """Genviral's Partner API.

        async with PacksClient.connect(ApiSettings(key="public_id.secret")) as client:
            page = await client.list_packs(search="gym")

    Every method sends one request and never a second one. It returns the typed `data` of a success, or raises one of

    - `Retryable`: send it again, not before `retry_after_s`. The network, 408, 425, 429, 5xx, and whatever is not in
      the API's envelope: HTML, an empty body, cut JSON, other types than documented, the code of another status.
    - `Rejected`: 400, 404, 413 or 422. It can't work as it is.
    - `Fatal`: 401, 402 or 403. Nothing will work until a person acts.
    - `Uncertain` (`add_image` and `create_pack` only): it was sent and may have taken effect. Look before repeating it.

    A cancelled call may have taken effect, too. Calls may overlap in any number: the pool opens `concurrency`
    connections and the rest wait, outside their timeout. Ids go into the URL quoted; all other values are sent as they
    are, for the API to judge.
    """

    def __init__(self, transport: Transport, credentials: Credentials, base_url: str) -> None:
        """Use `transport`, which stays the caller's. `UsageError` if `base_url` is no http or https URL of a host."""
        self._transport = transport
        self._credentials = credentials
        self._base_url = checked(base_url)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, settings: ApiSettings, *, concurrency: int = 64) -> AsyncIterator[PacksClient]:
        """Open a client with a connection pool of its own, closed with the block.

        Proxies and certificate authorities come from the environment's usual variables. Raises `UsageError` for a key,
        base URL, proxy or authority that can't be used; sends nothing yet.
        """
        credentials = Credentials(settings)
        checked(settings.base_url)
        async with HttpTransport.open(settings, concurrency) as transport:
            yield cls(transport, credentials, settings.base_url)

    async def list_packs(
        self,
        *,
        search: str | None = None,
        limit: int | None = None,
        offset: int | None = None,
        include_public: bool | None = None,
    ) -> PackPage:
        """One page of packs (`GET /packs`).

        `search` matches part of a name, image description or keyword, in any case: a hit is not a name match. `limit`
        is 1–100, 20 if None; `include_public` brings in other people's public packs, which it does if None.
        """
        query = _query(search=search, limit=limit, offset=offset, include_public=include_public)
        return await self._ask(self._call(Operation.LIST_PACKS, "GET", f"/packs{query}"), _pack_page)

    async def get_pack(self, pack_id: str) -> Pack:
        """A pack with all its images, in order of `created_at` (`GET /packs/{packId}`). `Rejected` 404: not in scope.

        There is no paging: some 600 bytes an image, unreadable beyond 32 MiB. `scan_pack` has no such limit.
        """
        path = f"/packs/{_quoted(Operation.GET_PACK, pack_id=pack_id)}"
        return await self._ask_for(pack_id, self._call(Operation.GET_PACK, "GET", path))

    async def scan_pack(
        self, pack_id: str, wanted: Collection[str], *, on_url: Callable[[str], None] | None = None
    ) -> PackScan:
        """Which of the `wanted` URLs a pack holds (`GET /packs/{packId}`), in memory that does not grow with the pack.

        The answer is all or nothing: a document that is cut short, about another pack, or wrong anywhere that matters,
        is `Retryable`. `on_url` is called at once with each URL of it, and may have been when the answer is none.
        """
        scanner = PackScanner(pack_id, wanted, on_url=on_url)
        path = f"/packs/{_quoted(Operation.GET_PACK, pack_id=pack_id)}"
        call = self._call(Operation.GET_PACK, "GET", path, sink=scanner.feed)
        answer = await self._exchange(call)
        if not 200 <= answer.status < 300:
            raise failed(call, answer)
        try:
            scan = scanner.finish()
        except ValueError as error:
            raise unreadable(call, answer, str(error)) from error
        return msgspec.structs.replace(scan, began_at=answer.began_at, duration_s=answer.duration_s)

    async def create_pack(self, name: str, *, is_public: bool = False) -> Pack:
        """Create a pack (`POST /packs`). `name` is 1–120 characters after trimming and need not be unique.

        `Uncertain`: look for the name before creating it again.
        """
        body = _body(Operation.CREATE_PACK, NewPack(name=name, is_public=is_public))
        return await self._ask(self._call(Operation.CREATE_PACK, "POST", "/packs", body), _pack)

    async def update_pack(self, pack_id: str, *, name: str | None = None, is_public: bool | None = None) -> Pack:
        """Change a pack's name or visibility (`PATCH /packs/{packId}`); None leaves it. `images` comes back empty."""
        path = f"/packs/{_quoted(Operation.UPDATE_PACK, pack_id=pack_id)}"
        body = _body(Operation.UPDATE_PACK, PackChange(name=name, is_public=is_public))
        return await self._ask_for(pack_id, self._call(Operation.UPDATE_PACK, "PATCH", path, body))

    async def delete_pack(self, pack_id: str) -> None:
        """Delete a pack and what it holds (`DELETE /packs/{packId}`). `Rejected` 404: it is gone, or not in scope."""
        path = f"/packs/{_quoted(Operation.DELETE_PACK, pack_id=pack_id)}"
        await self._delete(self._call(Operation.DELETE_PACK, "DELETE", path))

    async def add_image(self, pack_id: str, image_url: str, file_name: str | None = None) -> AddedImage:
        """Add an image by URL (`POST /packs/{packId}/images`); the server stores the URL and does not fetch it.

        `file_name` is 1–255 characters, "image" if None. Adding one URL twice makes two images. `Uncertain`: read the
        pack before adding it again.
        """
        path = f"/packs/{_quoted(Operation.ADD_IMAGE, pack_id=pack_id)}/images"
        body = _body(Operation.ADD_IMAGE, NewImage(image_url=image_url, file_name=file_name))
        # The query of a caller's own URL may be a secret; the server may quote it whole, or any part of it.
        secrets = (image_url.partition("?")[2], *query_values(image_url))
        call = replace(self._call(Operation.ADD_IMAGE, "POST", path, body), secrets=secrets)
        return await self._ask(call, _added_image)

    async def delete_image(self, pack_id: str, image_id: str) -> None:
        """Take an image out of a pack (`DELETE /packs/{packId}/images/{imageId}`).

        `Rejected` 404 with `error_code` `image_not_found`: it is gone already; `pack_not_found`: the pack is, or is not
        in scope.
        """
        pack, image = (
            _quoted(Operation.DELETE_IMAGE, pack_id=pack_id),
            _quoted(Operation.DELETE_IMAGE, image_id=image_id),
        )
        await self._delete(self._call(Operation.DELETE_IMAGE, "DELETE", f"/packs/{pack}/images/{image}"))

    async def upload_file(
        self, content_type: str, *, filename: str | None = None, size_bytes: int | None = None
    ) -> UploadTicket:
        """Reserve an upload (`POST /files`): a presigned URL to put the bytes to, and the URL they will have.

        Every call gives a fresh URL, and one that is not used costs nothing. `content_type` is one of
        `ingest.model.IMAGE_TYPES` or a video's.
        """
        request = NewUpload(content_type=content_type, filename=filename, size_bytes=size_bytes)
        call = self._call(Operation.UPLOAD_FILE, "POST", "/files", _body(Operation.UPLOAD_FILE, request))
        answer = await self._exchange(call)
        ticket = decode(call, answer, _upload_ticket)
        if not (is_sendable(ticket.upload_url) and is_sendable(ticket.url)):
            raise unreadable(call, answer, "something that is no URL")
        return ticket

    async def put_file(
        self, ticket: UploadTicket, body: bytes | AsyncIterable[bytes], *, content_type: str, content_length: int
    ) -> None:
        """Put the bytes where `ticket` says (`PUT uploadUrl`), without the key.

        `content_type` is exactly what was reserved; `body` is `content_length` bytes, whole or as an iterable of
        pieces, which stays the caller's to close. `Retryable` with status 403: the ticket is used or out of date,
        reserve again; `error_code` is the storage's own. `Rejected`: too large. What the iterable raises comes out
        unchanged; `ImageChanged` if it gives another number of bytes.
        """
        if isinstance(body, bytes) and len(body) != content_length:
            raise ImageChanged(f"{len(body)} bytes are to be sent where {content_length} were meant.", reason="changed")
        call = Call(
            operation=Operation.PUT_FILE,
            method="PUT",
            url=ticket.upload_url,
            headers={"Content-Type": content_type},
            body=body,
            content_length=content_length,
        )
        check_put(call, await self._exchange(call))

    async def list_files(
        self,
        *,
        limit: int | None = None,
        offset: int | None = None,
        file_type: str | None = None,
        context: str | None = None,
    ) -> FilePage:
        """One page of the files that were uploaded (`GET /files`). `limit` is 1–100, 50 if None."""
        query = _query(limit=limit, offset=offset, type=file_type, context=context)
        return await self._ask(self._call(Operation.LIST_FILES, "GET", f"/files{query}"), _file_page)

    async def get_subscription(self) -> Subscription:
        """Whose key this is and what is paid for (`GET /subscription`)."""
        return await self._ask(self._call(Operation.GET_SUBSCRIPTION, "GET", "/subscription"), _subscription)

    def _call(
        self,
        operation: Operation,
        method: str,
        path: str,
        body: bytes | None = None,
        sink: Callable[[bytes], None] | None = None,
    ) -> Call:
        headers = {"Authorization": self._credentials.authorization}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return Call(
            operation=operation, method=method, url=f"{self._base_url}{path}", headers=headers, body=body, sink=sink
        )

    async def _exchange(self, call: Call) -> Answer:
        try:
            return await self._transport.exchange(call)
        except NoAnswer as problem:
            raise unanswered(call, problem) from problem

    async def _ask(self, call: Call, decoder: msgspec.json.Decoder[Envelope[T]]) -> T:
        return decode(call, await self._exchange(call), decoder)

    async def _ask_for(self, pack_id: str, call: Call) -> Pack:
        answer = await self._exchange(call)
        pack = decode(call, answer, _pack)
        if not is_same_pack(pack.id, pack_id):
            raise unreadable(call, answer, "a pack other than the one that was asked for")
        return pack

    async def _delete(self, call: Call) -> None:
        answer = await self._exchange(call)
        if not decode(call, answer, _deleted).deleted:
            raise unreadable(call, answer, "an envelope that says it was not deleted")


def _body(operation: Operation, message: msgspec.Struct) -> bytes:
    try:
        return _encode(message)
    except UnicodeEncodeError:
        raise Rejected(
            f"The text for {operation} holds what no JSON can carry, such as a file name that is not UTF-8. Rename it.",
            operation=operation,
            error_code="invalid_json",
        ) from None


def _quoted(operation: Operation, **ids: str) -> str:
    """Ids for a path, each quoted whole. One that would name another endpoint is `Rejected` here, as it is there."""
    ((name, value),) = ids.items()
    try:
        quoted = quote(value, safe="")
    except UnicodeEncodeError:
        quoted = ""
    if quoted in {"", ".", ".."}:
        raise Rejected(
            f"The {name.replace('_', ' ')} {value!r} can't be one. Nothing was sent.",
            operation=operation,
            error_code=f"missing_{name}",
        )
    return quoted


def _query(**values: str | int | bool | None) -> str:
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in values.items()
        if value is not None
    }
    return f"?{urlencode(given, errors='replace')}" if given else ""
