"""Files: what upload URLs were given out, and which bytes came for them.

Keeps the rows; the bytes are in `blobs`, and who may upload is decided in `storage`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ingest.sandbox.database import iso, now_ms
from ingest.sandbox.replies import FileList, FileSummary
from ingest.sandbox.requests import UPLOAD_ENDINGS, Page, UploadFile

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

__all__ = ["Files", "HeldFile", "StoredFile"]


class HeldFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file as the ledger tells it; `sha256` and `stored_bytes` are null until bytes came."""

    id: str
    url: str
    scope: str
    content_type: str
    filename: str | None
    declared_size: int | None
    stored_bytes: int | None
    sha256: str | None
    puts: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file whose bytes are there."""

    content_type: str
    sha256: str


class Files:
    """Every file of every scope. Used on one thread only."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def reserve(self, scope: str, message: UploadFile, *, cdn: str) -> tuple[str, str]:
        """A fresh object key and its public URL under `cdn`; its bytes come later, or never."""
        file_id = str(uuid.uuid4())
        object_key = f"partner-api/{scope}/{file_id}{UPLOAD_ENDINGS[message.content_type]}"
        url = f"{cdn}/{object_key}"
        self._db.execute(
            "INSERT INTO files (id, scope, object_key, url, content_type, filename, declared_size, created_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (file_id, scope, object_key, url, message.content_type, message.filename, message.size, now_ms()),
        )
        return object_key, url

    def store(self, object_key: str, sha256: str, size: int) -> None:
        """The bytes of a file are there; a second upload takes the place of the first, as in S3."""
        self._db.execute(
            "UPDATE files SET sha256 = ?, stored_size = ?, puts = puts + 1 WHERE object_key = ?",
            (sha256, size, object_key),
        )

    def by_key(self, object_key: str) -> StoredFile | None:
        """The file under this key, None until its bytes are there."""
        return _stored(
            self._db.execute("SELECT content_type, sha256 FROM files WHERE object_key = ?", (object_key,)).fetchone()
        )

    def by_url(self, url: str) -> StoredFile | None:
        """The file under this public URL, whichever port the sandbox had then; None until its bytes are there."""
        return _stored(self._db.execute("SELECT content_type, sha256 FROM files WHERE url = ?", (url,)).fetchone())

    def page(self, scope: str, page: Page, *, kind: str | None, context: str | None) -> FileList:
        """Newest first. A file is listed from the moment its upload URL exists, as the API never hears of the upload.

        `kind` is `image` or `video`. `context` is only repeated: every file here comes from the Partner API, so
        any other context than `all` finds none. `size` is what was stored, until then what was declared.
        """
        hits = self._db.execute(
            "SELECT seq FROM files WHERE scope = ? AND content_type LIKE ? AND ? ORDER BY seq DESC",
            (scope, f"{kind or ''}%", context in (None, "all")),
        ).fetchall()
        shown = hits[page.offset : page.offset + page.limit]
        files = [self._summary(seq) for (seq,) in shown]
        return FileList(files=files, total=len(hits), limit=page.limit, offset=page.offset, context=context)

    def held(self) -> Iterator[HeldFile]:
        """Every file, oldest first."""
        rows = self._db.execute(
            "SELECT id, url, scope, content_type, filename, declared_size, stored_size, sha256, puts"
            " FROM files ORDER BY seq"
        )
        for file_id, url, scope, content_type, filename, declared_size, stored_size, sha256, puts in rows:
            yield HeldFile(
                id=file_id,
                url=url,
                scope=scope,
                content_type=content_type,
                filename=filename,
                declared_size=declared_size,
                stored_bytes=stored_size,
                sha256=sha256,
                puts=puts,
            )

    def _summary(self, seq: int) -> FileSummary:
        file_id, url, content_type, filename, size, at_ms = self._db.execute(
            "SELECT id, url, content_type, filename, coalesce(stored_size, declared_size), created_at_ms"
            " FROM files WHERE seq = ?",
            (seq,),
        ).fetchone()
        return FileSummary(
            id=file_id, url=url, content_type=content_type, filename=filename, size=size, created_at=iso(at_ms)
        )


def _stored(row: tuple[str, str | None] | None) -> StoredFile | None:
    if row is None:
        return None
    content_type, sha256 = row
    return None if sha256 is None else StoredFile(content_type, sha256)
