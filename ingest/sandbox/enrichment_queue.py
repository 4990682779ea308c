"""The images that wait for enrichment, and what became of it, as the database holds them.

Looks at nothing: the work is `enrich`'s. Used on one thread only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ingest.sandbox.database import fold, now_ms

if TYPE_CHECKING:
    import sqlite3

__all__ = ["EnrichmentQueue", "PendingImage"]


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An image that waits for enrichment."""

    id: str
    url: str
    created_at_ms: int


class EnrichmentQueue:
    """`pending → processing → completed | failed`; a step of an image that is gone by then does nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def resume(self) -> None:
        """What was being looked at when a process ended waits again."""
        self._db.execute("UPDATE images SET status = 'pending' WHERE status = 'processing'")

    def oldest(self) -> PendingImage | None:
        """The image that has waited longest."""
        row = self._db.execute(
            "SELECT id, url, created_at_ms FROM images WHERE status = 'pending' ORDER BY created_at_ms, seq LIMIT 1"
        ).fetchone()
        return None if row is None else PendingImage(*row)

    def begin(self, image_id: str) -> None:
        """`pending → processing`."""
        self._db.execute("UPDATE images SET status = 'processing' WHERE id = ?", (image_id,))

    def complete(self, image_id: str, *, model: str, description: str, keywords: tuple[str, ...]) -> None:
        """`processing → completed`; from here on the words are found by searches."""
        search_text = fold("\n".join([description, *keywords]))
        self._db.execute(
            "UPDATE images SET status = 'completed', description = ?, keywords = ?, search_text = ?, model = ?,"
            " generated_at_ms = ? WHERE id = ?",
            (description, msgspec.json.encode(keywords).decode(), search_text, model, now_ms(), image_id),
        )

    def fail(self, image_id: str, error: str) -> None:
        """`processing → failed`."""
        self._db.execute("UPDATE images SET status = 'failed', error = ? WHERE id = ?", (error, image_id))
