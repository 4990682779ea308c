"""What goes over the wire, as typed values: one struct for every object that API.md documents.

Shapes only: fields that are not documented are passed over, one that is missing or of another type makes the answer
unreadable. What an answer *means* is decided in `answers`. Times are text: ISO 8601, UTC, with milliseconds and `Z`.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec

from ingest.api.redaction import without_query

__all__ = [
    "AddedImage",
    "Credits",
    "Deleted",
    "Envelope",
    "ErrorEnvelope",
    "FileEntry",
    "FilePage",
    "ImageMetadata",
    "ImageRef",
    "NewImage",
    "NewPack",
    "NewUpload",
    "Pack",
    "PackChange",
    "PackImage",
    "PackPage",
    "PackScan",
    "PackSummary",
    "Plan",
    "Subscription",
    "UploadTicket",
]

T = TypeVar("T")

NonEmpty: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]


class Envelope(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A success: `data` is there exactly when `ok` is true, and `code` is the HTTP status again."""

    ok: bool
    data: T
    code: int | None = None


class ErrorEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal in the API's own words. All three are required: they tell it from a JSON page of some proxy.

    `code` is the HTTP status again.
    """

    ok: bool
    code: int
    message: str
    error_code: str | None = None


class PackSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A pack as List Packs tells it."""

    id: str
    name: str
    image_count: int
    is_public: bool
    preview_image_url: str | None = None
    created_at: str | None = None


class PackPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of List Packs, of `total` packs that match."""

    packs: tuple[PackSummary, ...]
    total: int
    limit: int
    offset: int


class ImageMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What enrichment, which runs after the add, found out.

    `status` is `pending`, `processing`, `completed` or `failed`; the rest is None until it is known.
    """

    status: str
    description: str | None = None
    keywords: tuple[str, ...] | None = None
    model: str | None = None
    generated_at: str | None = None
    error: str | None = None


class PackImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a pack; its file name is not told."""

    id: str
    url: str
    metadata: ImageMetadata | None = None


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """A pack. `images` are in order of `created_at`, ascending; empty after Create and Update, whatever it holds."""

    id: str
    name: str
    image_count: int
    is_public: bool
    images: tuple[PackImage, ...]
    created_at: str | None = None


class ImageRef(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a pack: the id to delete it by, and its URL in the spelling in which it was asked for."""

    image_id: str
    url: str


class PackScan(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan of a pack found: `found` in pack order, out of `image_count` images in the answer.

    The request was begun at `began_at` (monotonic seconds) and took `duration_s`: what the pack held before that is
    what it tells.
    """

    name: str
    image_count: int
    found: tuple[ImageRef, ...]
    began_at: float = 0.0
    duration_s: float = 0.0


class AddedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image now in a pack. `url` is the server's word for it and may differ from what was sent."""

    id: NonEmpty
    url: NonEmpty
    file_name: str | None = None
    content_type: str | None = None


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """Acknowledges a delete. Only Delete Image surely does; the defaults are for what Delete Pack may leave out."""

    id: str | None = None
    deleted: bool = True


class UploadTicket(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"upload_url": "uploadUrl", "content_type": "contentType", "expires_in_s": "expiresIn"},
):
    """Leave to put one file: PUT to `upload_url` within `expires_in_s` seconds; then it is public at `url`.

    `upload_url` is presigned: whoever has its query string may write. It is neither shown nor stored.
    """

    upload_url: str
    url: str
    content_type: str
    expires_in_s: float

    def __repr__(self) -> str:
        return f"<UploadTicket {without_query(self.upload_url)} -> {self.url}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("upload_url", without_query(self.upload_url)), ("url", self.url)]


class FileEntry(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"content_type": "contentType", "size_bytes": "size", "created_at": "createdAt"},
):
    """A file that this key uploaded."""

    id: str
    url: str
    content_type: str | None = None
    filename: str | None = None
    size_bytes: int | None = None
    created_at: str | None = None


class FilePage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of List Files, of `total` files that match."""

    files: tuple[FileEntry, ...]
    total: int
    limit: int
    offset: int


class Credits(msgspec.Struct, frozen=True, kw_only=True):
    """Credits of the current period; None where the plan has no such limit."""

    limit: float | None = None
    used_this_period: float | None = None
    remaining: float | None = None
    reset_at: str | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is paid for. `status` and `tier` are the API's own words."""

    status: str | None = None
    tier: str | None = None
    billing_interval: str | None = None
    current_period_start: str | None = None
    current_period_end: str | None = None
    renews_at: str | None = None
    canceled_at: str | None = None
    is_paused: bool = False
    paused_until: str | None = None
    credits: Credits | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True, rename={"plan": "subscription"}):
    """Whose key this is: `scope`, and `workspace_id`, None for a personal key; and the `plan`, None without one."""

    scope: str
    workspace_id: str | None = None
    plan: Plan | None = None


class NewPack(msgspec.Struct, frozen=True, kw_only=True):
    """Body of Create Pack."""

    name: str
    is_public: bool


class PackChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of Update Pack; None leaves a field as it is."""

    name: str | None = None
    is_public: bool | None = None


class NewImage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of Add Image by URL; without a `file_name` the server calls it "image"."""

    image_url: str
    file_name: str | None = None


class NewUpload(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"content_type": "contentType", "size_bytes": "size"},
):
    """Body of Upload File."""

    content_type: str
    filename: str | None = None
    size_bytes: int | None = None
