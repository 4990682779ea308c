"""Packs and their images as the database holds them.

Speaks the API's answers, but not its HTTP; knows no uploaded bytes, and is used on one thread only.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ingest.sandbox.database import fold, iso, now_ms
from ingest.sandbox.replies import AddedImage, Image, Metadata, Pack, PackList, PackSummary

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from ingest.sandbox.requests import AddImage, CreatePack, Page, UpdatePack

__all__ = ["HeldImage", "HeldPack", "Packs"]

Row: TypeAlias = tuple[Any, ...]  # what sqlite3 gives; each query's columns stand beside its reader


class HeldImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image as the ledger tells it."""

    id: str
    url: str
    file_name: str
    content_type: str
    created_at: str
    status: str
    sha256: str | None


class HeldPack(msgspec.Struct, frozen=True, kw_only=True):
    """A pack as the ledger tells it; `images` in the order of Get pack."""

    id: str
    name: str
    scope: str
    is_public: bool
    created_at: str
    images: list[HeldImage]


class Packs:
    """Every pack of every scope; methods that take a `scope` see no further, and say None or False outside it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def create(self, scope: str, message: CreatePack) -> Pack:
        """A new pack, whatever the names of others."""
        pack_id, name, at_ms = str(uuid.uuid4()), message.name.strip(), now_ms()
        self._db.execute(
            "INSERT INTO packs (id, scope, name, search_text, is_public, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
            (pack_id, scope, name, fold(name), message.is_public, at_ms),
        )
        return Pack(id=pack_id, name=name, image_count=0, is_public=message.is_public, created_at=iso(at_ms), images=[])

    def page(self, scope: str, page: Page, *, search: str, include_public: bool) -> PackList:
        """Newest first (the documentation leaves the order open)."""
        hits = self._db.execute(
            "SELECT id FROM packs WHERE (scope = :scope OR (is_public AND :public)) AND (:search = ''"
            " OR instr(search_text, :search) OR EXISTS (SELECT 1 FROM images"
            " WHERE pack_id = packs.id AND instr(images.search_text, :search))) ORDER BY seq DESC",
            {"scope": scope, "public": include_public, "search": fold(search)},
        ).fetchall()
        shown = hits[page.offset : page.offset + page.limit]
        packs = [self._summary(pack_id) for (pack_id,) in shown]
        return PackList(packs=packs, total=len(hits), limit=page.limit, offset=page.offset)

    def get(self, scope: str, pack_id: str, *, stale_s: float = 0.0) -> Pack | None:
        """A readable pack with its images, but without those that were added within the last `stale_s`."""
        row = self._db.execute(
            "SELECT id, name, is_public, created_at_ms, image_count FROM pack_rows"
            " WHERE id = ? AND (scope = ? OR is_public)",
            (pack_id, scope),
        ).fetchone()
        if row is None:
            return None
        before_ms = now_ms() - int(stale_s * 1000) if stale_s else 2**62
        images = self._db.execute(
            "SELECT id, url, status, description, keywords, model, generated_at_ms, error FROM images"
            " WHERE pack_id = ? AND created_at_ms <= ? ORDER BY created_at_ms, seq",
            (pack_id, before_ms),
        )
        shown = [_image(image) for image in images]
        return _pack((*row[:-1], len(shown)), shown)

    def update(self, scope: str, pack_id: str, message: UpdatePack) -> Pack | None:
        """Change what the message names; the answer shows no images."""
        if not self._owns(scope, pack_id):
            return None
        if isinstance(message.name, str):
            name = message.name.strip()
            self._db.execute("UPDATE packs SET name = ?, search_text = ? WHERE id = ?", (name, fold(name), pack_id))
        if isinstance(message.is_public, bool):
            self._db.execute("UPDATE packs SET is_public = ? WHERE id = ?", (message.is_public, pack_id))
        row = self._db.execute(
            "SELECT id, name, is_public, created_at_ms, image_count FROM pack_rows WHERE id = ?", (pack_id,)
        ).fetchone()
        return _pack(row, [])

    def delete(self, scope: str, pack_id: str) -> bool:
        """Remove a pack with its images."""
        deleted = self._db.execute("DELETE FROM packs WHERE id = ? AND scope = ?", (pack_id, scope))
        return deleted.rowcount == 1

    def add_image(self, scope: str, pack_id: str, message: AddImage) -> AddedImage | None:
        """Append a reference; the same URL twice is two images."""
        if not self._owns(scope, pack_id):
            return None
        image = AddedImage(
            id=str(uuid.uuid4()),
            url=message.image_url,
            file_name=message.file_name,
            content_type=message.content_type,
        )
        self._db.execute(
            "INSERT INTO images (id, pack_id, url, file_name, content_type, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
            (image.id, pack_id, image.url, image.file_name, image.content_type, now_ms()),
        )
        return image

    def delete_image(self, scope: str, pack_id: str, image_id: str) -> bool | None:
        """Remove one image: False when the pack has no such image, None when there is no such pack."""
        if not self._owns(scope, pack_id):
            return None
        deleted = self._db.execute("DELETE FROM images WHERE id = ? AND pack_id = ?", (image_id, pack_id))
        return deleted.rowcount == 1

    def held(self) -> Iterator[HeldPack]:
        """Every pack with every image, oldest first; `sha256` where the bytes of the URL are stored here."""
        packs = self._db.execute("SELECT id, name, scope, is_public, created_at_ms FROM packs ORDER BY seq").fetchall()
        for pack_id, name, scope, is_public, at_ms in packs:
            images = self._db.execute(
                "SELECT images.id, images.url, file_name, images.content_type, images.created_at_ms, status, sha256"
                " FROM images LEFT JOIN files ON files.url = images.url WHERE pack_id = ?"
                " ORDER BY images.created_at_ms, images.seq",
                (pack_id,),
            )
            yield HeldPack(
                id=pack_id,
                name=name,
                scope=scope,
                is_public=bool(is_public),
                created_at=iso(at_ms),
                images=[_held_image(image) for image in images],
            )

    def _summary(self, pack_id: str) -> PackSummary:
        name, is_public, at_ms, count = self._db.execute(
            "SELECT name, is_public, created_at_ms, image_count FROM pack_rows WHERE id = ?", (pack_id,)
        ).fetchone()
        first = self._db.execute(
            "SELECT url FROM images WHERE pack_id = ? ORDER BY created_at_ms, seq LIMIT 1", (pack_id,)
        ).fetchone()
        return PackSummary(
            id=pack_id,
            name=name,
            image_count=count,
            preview_image_url=None if first is None else first[0],
            is_public=bool(is_public),
            created_at=iso(at_ms),
        )

    def _owns(self, scope: str, pack_id: str) -> bool:
        found = self._db.execute("SELECT 1 FROM packs WHERE id = ? AND scope = ?", (pack_id, scope)).fetchone()
        return found is not None


def _pack(row: Row, images: list[Image]) -> Pack:
    pack_id, name, is_public, at_ms, count = row
    return Pack(
        id=pack_id, name=name, image_count=count, is_public=bool(is_public), created_at=iso(at_ms), images=images
    )


def _image(row: Row) -> Image:
    image_id, url, status, description, keywords, model, generated_at_ms, error = row
    metadata = Metadata(
        status=status,
        description=description,
        keywords=msgspec.json.decode(keywords, type=list[str]),
        model=model,
        generated_at=None if generated_at_ms is None else iso(generated_at_ms),
        error=error,
    )
    return Image(id=image_id, url=url, metadata=metadata)


def _held_image(row: Row) -> HeldImage:
    image_id, url, file_name, content_type, at_ms, status, sha256 = row
    return HeldImage(
        id=image_id,
        url=url,
        file_name=file_name,
        content_type=content_type,
        created_at=iso(at_ms),
        status=status,
        sha256=sha256,
    )
