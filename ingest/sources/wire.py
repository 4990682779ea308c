"""A job as JSON, `{"image", "pack", "file_name", "id"}`, read into a `Job`: a manifest's line, a queue's message.

The only place that knows the names and bounds of these fields. Opens nothing, resolves no path, and quotes no value of
an image in what it says is wrong: a URL may hold a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from ingest.model import Job

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["FIELDS", "LONGEST_JOB", "Misread", "UnknownFields", "job_of", "read_job"]

FIELDS: Final = ("image", "pack", "file_name", "id")

LONGEST_JOB: Final = 64 * 1024
# Bytes of one job. All four fields at their longest take some 15 KB, escaped; the rest is for what is ignored.

_LONGEST: Final = {"image": 8192, "pack": 120, "file_name": 255, "id": 1024}
# Characters. A path has 4096 bytes at most (PATH_MAX) and a presigned URL some 2000; the pack's and the file's name as
# the API has them (API.md, Details); an id is a key of the journal, and no place for content.

_MAX_UNKNOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Misread:
    """Why something is no job: `reason` for programs, `detail` for people."""

    reason: str
    detail: str


class UnknownFields:
    """Names of fields that were ignored, each with how often; the first few names, since they come from outside."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def note(self, names: Iterable[str]) -> None:
        """These were in one job."""
        for name in names:
            if name in self.counts or len(self.counts) < _MAX_UNKNOWN:
                self.counts[name] = self.counts.get(name, 0) + 1


def read_job(raw: bytes, unknown: UnknownFields | None = None) -> Job | Misread:
    """The job in one JSON object; never raises. Of a field that is there twice the last counts, as JSON has it.

    Fields of other names are ignored, and noted in `unknown`. `null` is as good as nothing; an empty text is wrong.
    """
    if len(raw) > LONGEST_JOB:
        return Misread("bad_row", f"it is longer than {LONGEST_JOB // 1024} KiB")
    try:
        found = msgspec.json.decode(raw)
    except UnicodeDecodeError as error:
        return Misread("bad_row", f"it is not UTF-8: {error.reason}")
    except msgspec.DecodeError as error:
        return Misread("bad_row", f"it is not JSON: {str(error).removeprefix('JSON is malformed: ')}")
    except RecursionError:
        return Misread("bad_row", "it is nested too deeply")
    if not isinstance(found, dict):
        return Misread("bad_row", 'it is not a JSON object, such as {"image": "a.jpg"}')
    if unknown is not None and (others := found.keys() - FIELDS):
        unknown.note(sorted(others))
    return job_of(found)


def job_of(fields: Mapping[str, object]) -> Job | Misread:
    """The job that these fields make, whatever else there is; None is as good as nothing."""
    given: dict[str, str] = {}
    for name in FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if (problem := _problem(name, value)) is not None:
            return Misread(f"bad_{name}", f"its {name} {problem}")
        given[name] = str(value)
    if "image" not in given:
        return Misread("no_image", "it names no image")
    return Job(image=given["image"], pack=given.get("pack"), file_name=given.get("file_name"), id=given.get("id"))


def _problem(name: str, value: object) -> str | None:
    if not isinstance(value, str):
        return 'is not a text: texts stand in quotes, such as "17"'
    if not value.strip():
        return "is empty"
    if len(value) > _LONGEST[name]:
        return f"has {len(value)} characters; {_LONGEST[name]} are the most"
    if "\0" in value:
        return "holds a NUL character"
    return None
