"""What the API takes: bodies and query strings, checked to the letter, become values or are refused.

No state and no HTTP. What the documentation leaves open is decided here: fields that it does not name are ignored,
and `null` is never a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from ingest.sandbox.answers import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "UPLOAD_ENDINGS",
    "AddImage",
    "CreatePack",
    "Page",
    "UpdatePack",
    "UploadFile",
    "parse",
    "read_page",
]

MAX_NAME_CHARS: Final = 120
MAX_FILE_NAME_CHARS: Final = 255
MAX_LIMIT: Final = 100

IMAGE_ENDINGS: Final = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/heic": ".heic",
    "image/heif": ".heif",
}
VIDEO_ENDINGS: Final = {
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/x-msvideo": ".avi",
    "video/webm": ".webm",
    "video/x-m4v": ".m4v",
}
UPLOAD_ENDINGS: Final = IMAGE_ENDINGS | VIDEO_ENDINGS

INFERRED_TYPES: Final = {
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".avif": "image/avif",
}

M = TypeVar("M", bound=msgspec.Struct)


class CreatePack(msgspec.Struct, frozen=True):
    """The body of Create pack; `name` is not trimmed yet."""

    name: str
    is_public: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)


class UpdatePack(msgspec.Struct, frozen=True):
    """The body of Update pack: at least one field."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    is_public: bool | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.name is msgspec.UNSET and self.is_public is msgspec.UNSET:
            raise ValueError("at least one of name and is_public is required")
        if self.name is not msgspec.UNSET:
            _check_name(self.name)


class AddImage(msgspec.Struct, frozen=True):
    """The body of Add image."""

    image_url: str
    file_name: str = "image"

    def __post_init__(self) -> None:
        _check_url(self.image_url)
        _check_file_name("file_name", self.file_name)

    @property
    def content_type(self) -> str:
        """Inferred from the ending of the URL's path; its query does not count."""
        path = urlsplit(self.image_url).path.lower()
        return next((kind for ending, kind in INFERRED_TYPES.items() if path.endswith(ending)), "image/jpeg")


class UploadFile(msgspec.Struct, frozen=True, rename="camel"):
    """The body of Upload file."""

    content_type: str
    filename: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.content_type not in UPLOAD_ENDINGS:
            raise ValueError(f"contentType must be one of {', '.join(UPLOAD_ENDINGS)}")
        if self.filename is not None:
            _check_file_name("filename", self.filename)
        if self.size is not None and self.size < 1:
            raise ValueError("size must be at least 1")


class Page(msgspec.Struct, frozen=True):
    """Which part of a list is wanted."""

    limit: int
    offset: int


def parse(body: bytes, message: type[M]) -> M:
    """The body as `message`; `invalid_json` when it is no JSON at all, `invalid_payload` when it says the wrong thing.

    Update pack answers an empty body like an empty object, as its documentation can be read both ways.
    """
    if not body and message is UpdatePack:
        body = b"{}"
    try:
        content: Any = msgspec.json.decode(body)  # typed by the next step, so that both errors keep apart
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "invalid_json", "Invalid JSON body") from error
    try:
        return msgspec.convert(content, message)
    except msgspec.ValidationError as error:
        raise Refusal(422, "invalid_payload", f"Invalid payload: {error}") from error


def read_page(query: Mapping[str, str], *, default_limit: int) -> Page:
    """`limit` and `offset` of a query string; ValueError with a message for people when one is wrong."""
    limit = _whole_number(query.get("limit", str(default_limit)))
    if limit is None or not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit must be an integer between 1 and {MAX_LIMIT}")
    offset = _whole_number(query.get("offset", "0"))
    if offset is None:
        raise ValueError("offset must be an integer of at least 0")
    return Page(limit, offset)


def _whole_number(text: str) -> int | None:
    # 18 digits always fit the database's integers; no list is that long.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _check_name(name: str) -> None:
    if not 1 <= len(name.strip()) <= MAX_NAME_CHARS:
        raise ValueError(f"name must have 1 to {MAX_NAME_CHARS} characters")


def _check_file_name(field: str, name: str) -> None:
    if not 1 <= len(name) <= MAX_FILE_NAME_CHARS:
        raise ValueError(f"{field} must have 1 to {MAX_FILE_NAME_CHARS} characters")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or url.split() != [url]:
        raise ValueError("image_url must be an http or https URL")
