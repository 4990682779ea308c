"""What makes a job the same one next time: its locator and its key, for admission and for shards alike.

Pure: opens and resolves nothing, links least of all.
"""

from __future__ import annotations

import os

from ingest.model import Job, Locator, is_url
from ingest.policy.urls import in_journal

__all__ = ["key_of", "locator_of"]


def locator_of(image: str) -> Locator:
    """The absolute path, or the URL as the journal may hold it."""
    if is_url(image):
        return Locator(in_journal(image))
    return Locator(os.path.abspath(image))  # noqa: PTH100 - text only; pathlib would change odd names


def key_of(job: Job) -> str:
    """The caller's own id with `id:` before it, or else the locator."""
    return f"id:{job.id}" if job.id is not None else locator_of(job.image)
