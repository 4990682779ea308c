"""What the API answers, field by field, as its documentation shows it.

Shapes only: no state, no checks, no HTTP; the envelope around them is in `answers`.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "AddedImage",
    "Deleted",
    "FileList",
    "FileSummary",
    "Image",
    "Metadata",
    "Pack",
    "PackList",
    "PackSummary",
    "UploadUrl",
]


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What enrichment found out about an image so far."""

    status: str
    description: str | None
    keywords: list[str]
    model: str | None
    generated_at: str | None
    error: str | None


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image as Get pack shows it."""

    id: str
    url: str
    metadata: Metadata


class AddedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image as Add image answers it."""

    id: str
    url: str
    file_name: str
    content_type: str


class PackSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A pack as List packs shows it."""

    id: str
    name: str
    image_count: int
    preview_image_url: str | None
    is_public: bool
    created_at: str


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """A pack as every other endpoint shows it."""

    id: str
    name: str
    image_count: int
    is_public: bool
    created_at: str
    images: list[Image]


class PackList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of packs."""

    packs: list[PackSummary]
    total: int
    limit: int
    offset: int


class Deleted(msgspec.Struct, frozen=True):
    """The answer to a deletion."""

    id: str
    deleted: bool = True


class UploadUrl(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to Upload file."""

    upload_url: str
    url: str
    content_type: str
    expires_in: int


class FileSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A file as List files shows it."""

    id: str
    url: str
    content_type: str
    filename: str | None
    size: int | None
    created_at: str


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of files."""

    files: list[FileSummary]
    total: int
    limit: int
    offset: int
    context: str | None
