"""The rows of a manifest, whatever it is written in: JSON Lines, CSV or a path a line.

Reads from an open file and opens none. A row that is no job is told as such, and costs no other row.
"""

from __future__ import annotations

import codecs
import enum
from typing import TYPE_CHECKING, Final, TypeAlias

from ingest.errors import UsageError
from ingest.observe.logging import get_logger
from ingest.observe.text import printable
from ingest.sources.csv_rows import csv_rows, dialect_line, header_of
from ingest.sources.lines import beginning, lines
from ingest.sources.wire import LONGEST_JOB, Misread, UnknownFields, job_of, read_job

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from ingest.model import Job
    from ingest.sources.lines import Line

__all__ = ["FORMATS", "Format", "Row", "check_beginning", "rows"]

log = get_logger("sources")

Row: TypeAlias = "tuple[int, Job | Misread]"
"""The number of its line, and the job that it names, or why it names none."""

_WIDE: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
# The mark of UTF-32, little end first, begins with that of UTF-16.

_NO_TEXT: Final = bytes({*range(32), 127} - {*b"\t\n\v\f\r\x1b"})
_LOOKED_AT: Final = 64 * 1024
_MOST_STRANGE: Final = 32


class Format(enum.Enum):
    """How a manifest is written."""

    JSON_LINES = enum.auto()
    CSV = enum.auto()
    TEXT = enum.auto()


FORMATS: Final = {
    ".jsonl": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
    ".csv": Format.CSV,
    ".txt": Format.TEXT,
}
"""The endings of manifests' names."""


def rows(descriptor: int, written: Format, *, shown: str, stop: threading.Event) -> Iterator[Row | None]:
    """Every row from the beginning of an open file, in flat memory; None whenever it has to wait. Blocks: for a thread.

    Ends early once `stop` is set. `UsageError`, with the manifest as `shown`, for what is no manifest as a whole;
    `OSError` as the system does.
    """
    begun = yield from beginning(descriptor, stop=stop)
    check_beginning(begun, written, shown=shown)
    begun = begun.removeprefix(codecs.BOM_UTF8)
    read = lines(descriptor, longest=LONGEST_JOB, stop=stop, begun=begun)
    match written:
        case Format.JSON_LINES:
            yield from _json_rows(read, shown)
        case Format.CSV:
            yield from _csv_rows(read, shown)
        case Format.TEXT:
            yield from _text_rows(read)


def check_beginning(begun: bytes, written: Format, *, shown: str) -> None:
    """Raise `UsageError` where the first bytes tell that this is no manifest."""
    if begun.startswith(_WIDE):
        raise UsageError(f"{shown} is written in UTF-16.", code="not_utf8", hint="Save it as UTF-8.")
    looked_at = begun[:_LOOKED_AT]
    strange = len(looked_at) - len(looked_at.translate(None, _NO_TEXT))
    strange += looked_at.decode("utf-8", "replace").count("\ufffd")
    if strange >= _MOST_STRANGE and strange * 10 > len(looked_at):
        raise UsageError(
            f"{shown} holds no text, although its name says so.",
            code="not_text",
            hint="Name an image by another ending; a list of images must be UTF-8.",
        )
    first = begun.removeprefix(codecs.BOM_UTF8).lstrip()
    match written:
        case Format.JSON_LINES if first.startswith(b"["):
            raise UsageError(
                f"{shown} is one JSON array.",
                code="not_json_lines",
                hint='Write one object a line, such as {"image": "a.jpg"}: `jq -c ".[]"` does that.',
            )
        case Format.CSV if len(first) >= LONGEST_JOB or b"\n" in first or b"\r" in first:
            one, *more = first.splitlines()
            delimiter = dialect_line(one)
            if delimiter is None:
                header_of(one, shown=shown)
            elif more:
                header_of(more[0], shown=shown, delimiter=delimiter)
        case _:
            pass


def _json_rows(read: Iterator[Line | None], shown: str) -> Iterator[Row | None]:
    unknown = UnknownFields()
    for line in read:
        if line is None:
            yield None
        elif line.raw is None:
            yield line.number, _too_long()
        elif raw := line.raw.strip():
            yield line.number, read_job(raw, unknown)
    if unknown.counts:
        fields = {printable(name[:40]): count for name, count in unknown.counts.items()}
        log.warning("manifest.fields_ignored", manifest=shown, fields=fields)


def _csv_rows(read: Iterator[Line | None], shown: str) -> Iterator[Row | None]:
    delimiter: str | None = None
    for line in read:
        if line is None:
            yield None
            continue
        if line.raw is not None and not line.raw.strip():
            continue
        if delimiter is None and line.raw is not None and (delimiter := dialect_line(line.raw)) is not None:
            continue
        header = header_of(line.raw, shown=shown, delimiter=delimiter)
        if header.others:
            columns = [printable(name[:40]) for name in header.others[:20]]
            log.warning("manifest.columns_ignored", manifest=shown, count=len(header.others), columns=columns)
        yield from csv_rows(read, header)
        return


def _text_rows(read: Iterator[Line | None]) -> Iterator[Row | None]:
    for line in read:
        if line is None:
            yield None
        elif line.raw is None:
            yield line.number, _too_long()
        else:
            raw = line.raw.strip()
            if raw and not (raw.startswith(b"#") and raw[1:2].strip() == b""):
                yield line.number, _named(raw)


def _named(raw: bytes) -> Job | Misread:
    try:
        return job_of({"image": raw.decode()})
    except UnicodeDecodeError as error:
        return _not_utf8(error)


def _too_long() -> Misread:
    return Misread("bad_row", f"it is longer than {LONGEST_JOB // 1024} KiB")


def _not_utf8(error: UnicodeDecodeError) -> Misread:
    return Misread("bad_row", f"it is not UTF-8: {error.reason} at byte {error.start + 1}")
