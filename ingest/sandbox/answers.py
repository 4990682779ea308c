"""How the sandbox answers: the envelope of the API, the XML of an S3 storage, a proxy's page.

Knows the shapes only: what is said, and when, is decided by the callers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias
from xml.sax.saxutils import escape

import msgspec
from aiohttp import web

if TYPE_CHECKING:
    from ingest.sandbox.faults import Lane, Operation

__all__ = ["Refusal", "StorageRefusal", "default_error", "envelope", "html_page", "refuse", "refuse_storage"]

Payload: TypeAlias = msgspec.Struct

_encoder: Final = msgspec.json.Encoder()

DOCUMENTED_ERRORS: Final[dict[int, tuple[str | None, str]]] = {
    401: ("invalid_token", "API key not found"),
    402: ("subscription_required", "An active Creator, Professional or Business plan is required"),
    403: ("tier_not_allowed", "Partner API access is not available on the Scheduler tier"),
    429: ("rate_limited", "Too many requests"),
}
"""Status to `error_code` and message, the same on every endpoint of the API."""

DOCUMENTED_FAILURES: Final[dict[str, str]] = {
    "get_pack": "pack_get_failed",
    "create_pack": "pack_create_failed",
    "update_pack": "pack_update_failed",
    "delete_pack": "pack_delete_failed",
    "add_image": "pack_image_add_failed",
    "delete_image": "pack_image_delete_failed",
    "list_files": "list_failed",
    "subscription": "subscription_lookup_failed",
}
"""Operation to the `error_code` of its 500. List packs and Upload file document a 500 without one."""

STORAGE_CODES: Final[dict[int, str]] = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}


class _Success(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool = True
    code: int
    message: str
    data: Payload


class _Failure(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool = False
    code: int
    message: str
    error_code: str | msgspec.UnsetType


class Refusal(Exception):
    """A documented error of the API: ends an operation before it had any effect."""

    def __init__(self, status: int, error_code: str | None, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message


class StorageRefusal(Refusal):
    """An error of the storage; `error_code` is S3's `Code`."""


def envelope(status: int, message: str, data: Payload) -> web.Response:
    """A success of the API."""
    body = _encoder.encode(_Success(code=status, message=message, data=data))
    return web.Response(status=status, body=body, content_type="application/json", charset="utf-8")


def refuse(refusal: Refusal) -> web.Response:
    """The refusal in the dress of its lane."""
    if isinstance(refusal, StorageRefusal):
        return refuse_storage(refusal.status, refusal.error_code or "InternalError", refusal.message)
    failure = _Failure(code=refusal.status, message=refusal.message, error_code=refusal.error_code or msgspec.UNSET)
    body = _encoder.encode(failure)
    return web.Response(status=refusal.status, body=body, content_type="application/json", charset="utf-8")


def refuse_storage(status: int, code: str, message: str) -> web.Response:
    """An error as S3 words it."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    )
    return web.Response(status=status, body=body.encode(), content_type="application/xml")


def default_error(lane: Lane, operation: Operation, status: int, error_code: str | None) -> Refusal:
    """The error that `operation` gives with `status`; an `error_code` that is given wins over the documented one."""
    if lane == "storage":
        code = error_code or STORAGE_CODES.get(status, "InternalError")
        return StorageRefusal(status, code, "The storage could not do that")
    documented, message = DOCUMENTED_ERRORS.get(status, (None, f"The request failed ({status})"))
    if status == 500:
        documented = DOCUMENTED_FAILURES.get(operation)
    return Refusal(status, error_code or documented, message)


def html_page(status: int) -> web.Response:
    """What a proxy says when it means something else than the API."""
    body = f"<!DOCTYPE html><html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
    return web.Response(status=status, body=body.encode(), content_type="text/html", charset="utf-8")
