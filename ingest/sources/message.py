"""What a queue's message is for the pipeline: a job that may be worked on here, or why it is none; and back.

Looks at the file system only to resolve a path; knows no broker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from ingest.model import Job
from ingest.sources.base import NoJob
from ingest.sources.root import OutsideRoot
from ingest.sources.selection import file_name
from ingest.sources.wire import read_job

if TYPE_CHECKING:
    from ingest.sources.root import Root

__all__ = ["Reader", "message_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads messages. `has_pack`: the run names a pack for those that name none."""

    root: Root
    has_pack: bool

    def read(self, body: bytes, place: str) -> Job | NoJob:
        """The job that a message asks for. Its path is absolute and without links; a URL is left as it is. Blocks."""
        job = read_job(body)
        if not isinstance(job, Job):
            return NoJob(place=place, reason="bad_message", detail=f"The message is no job: {job.detail}.")
        if job.pack is None and not self.has_pack:
            return NoJob(place=place, reason="no_pack", detail="The message names no pack, and the run has no --pack.")
        if "://" in job.image:
            return job
        path = self.root.resolve(job.image)
        if isinstance(path, OutsideRoot):
            return NoJob(place=place, reason=path.reason, detail=path.detail)
        # The pack shows the name that was published, not that of a link's target.
        return replace(job, image=path, file_name=job.file_name or file_name(job.image))


def message_of(job: Job) -> bytes:
    """`job` as a message, one JSON object. `ValueError` for a name that is not UTF-8, which JSON can't say."""
    said = {"image": job.image, "pack": job.pack, "file_name": job.file_name, "id": job.id}
    return msgspec.json.encode({name: value for name, value in said.items() if value is not None})
