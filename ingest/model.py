"""The values that every part speaks in: jobs, outcomes, fingerprints and file stamps.

Values only: no I/O, no decisions, nothing mutable.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NewType, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

import msgspec

__all__ = [
    "IMAGE_TYPES",
    "ContentType",
    "FileStamp",
    "Fingerprint",
    "Job",
    "JobId",
    "Lane",
    "Locator",
    "Occasion",
    "Operation",
    "Outcome",
    "PackId",
    "RunId",
    "Stretch",
    "Summary",
    "SummaryError",
    "Target",
    "is_url",
]

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Target = NewType("Target", str)
"""A normalised base URL: what an API key is *not*, so that a rotated key continues the same jobs."""

PackId = NewType("PackId", str)
"""The API's id of a pack; unique within a target."""

JobId = NewType("JobId", int)
"""A journal's own number for one job and revision."""

RunId = NewType("RunId", str)
"""One invocation of `run` or `serve`; sorts by time of start."""

Locator = NewType("Locator", str)
"""Absolute path (as `os.fsdecode` gives it: any bytes survive) or URL of an image."""

Fingerprint = NewType("Fingerprint", bytes)
"""BLAKE3 of the source's bytes: 32 bytes."""

ContentType: TypeAlias = Literal["image/jpeg", "image/png", "image/gif", "image/webp", "image/heic", "image/heif"]
"""The image types that Upload File takes (API.md, Details)."""

IMAGE_TYPES: Final[tuple[ContentType, ...]] = (
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/heic",
    "image/heif",
)


def is_url(image: str) -> bool:
    """Whether an image is named by a URL of any scheme, and not by a path. An absolute path never looks like one."""
    return _SCHEME.match(image) is not None


class Outcome(enum.StrEnum):
    """How a job ended, for good: one a job and revision."""

    ADDED = "added"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    FAILED = "failed"


class Lane(enum.StrEnum):
    """An independent set of limits."""

    API = "api"
    STORAGE = "storage"


class Operation(enum.StrEnum):
    """One kind of request; also the value of the metric label `operation`."""

    LIST_PACKS = "list_packs"
    GET_PACK = "get_pack"
    CREATE_PACK = "create_pack"
    UPDATE_PACK = "update_pack"
    DELETE_PACK = "delete_pack"
    ADD_IMAGE = "add_image"
    DELETE_IMAGE = "delete_image"
    UPLOAD_FILE = "upload_file"
    PUT_FILE = "put_file"
    LIST_FILES = "list_files"
    GET_SUBSCRIPTION = "get_subscription"

    @property
    def lane(self) -> Lane:
        """The lane whose limits this request counts against."""
        return Lane.STORAGE if self is Operation.PUT_FILE else Lane.API


class Occasion(enum.IntEnum):
    """Why a source names a job; where one is named on several at once, the lowest counts.

    Only what is named for the first time counts as discovered when its outcome is known already, or another delivery
    waits for it: a source that looks at the same files for ever would count them for ever.
    """

    FIRST = 0  # nobody can say that it was named before
    CHANGED = 1  # something happened to it: what failed is tried again at once
    AGAIN = 2  # it was met once more in looking everything over: what failed is tried again in its time


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One image for one pack, as a caller names it.

    `image` is a path or URL; `pack` an id or exact name, None for the run's own; `file_name` what the pack shows
    (None: the last part of `image`); `id` the caller's own key, which makes it the same job next time (None: `image`).
    """

    image: str
    pack: str | None = None
    file_name: str | None = None
    id: str | None = None


class FileStamp(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What `stat` says of a file's content: equal stamps are taken for equal bytes."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Files that follow each other in one directory, in the order of their names' bytes.

    `directory` is absolute, as `os.path.abspath` would have it, and ends with a slash; directory and name make the
    locator, as a job without an id has it. `stamps` gives (`size_bytes`, `mtime_ns`) by name: a `FileStamp` for each of
    a million files that did not change takes half as long as their `stat`.
    """

    directory: str
    stamps: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryError:
    """Why a run ended early: `code` for programs, `message` and `hint` for people."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one run did. `discovered = added + duplicate + rejected + failed + pending`, always.

    Counts cover every job that this run's sources named, whichever run settled it; `unchanged` is the part of
    `duplicate` whose file was not even opened. `bytes_uploaded` and `duration_s` are of this run alone.
    The fields are the keys of `ingest run --json`, in order.
    """

    run_id: str
    discovered: int
    added: int
    duplicate: int
    unchanged: int
    rejected: int
    failed: int
    pending: int
    bytes_uploaded: int
    requests: int
    retries: int
    throttled: int
    duration_s: float
    exit_code: int
    error: SummaryError | None
