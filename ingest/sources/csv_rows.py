"""Jobs in a CSV file: a header, and a row a job.

Of the dialects, the delimiter (comma, semicolon, tab or bar), the quote (" or ') and spaces after a delimiter are told
from the header; a quote within quotes is doubled (RFC 4180). Opens nothing.
"""

from __future__ import annotations

import csv
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from ingest.errors import UsageError
from ingest.observe.text import printable
from ingest.sources.lines import stripped
from ingest.sources.wire import FIELDS, LONGEST_JOB, Misread, job_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ingest.model import Job
    from ingest.sources.lines import Line

__all__ = ["Header", "csv_rows", "dialect_line", "header_of"]

_DELIMITERS: Final = ",;\t|"
_QUOTES: Final = "\"'"
_SHOWN_COLUMNS: Final = 12


class Header(NamedTuple):
    """What the first line tells: how rows are written, and which cell is which field."""

    delimiter: str
    quote: str
    has_spaces: bool
    columns: dict[str, int]
    width: int
    others: tuple[str, ...]


class _Unfinished(Exception):
    """A row does not end where one has to; the text says so."""


def dialect_line(raw: bytes) -> str | None:
    """The delimiter that a line before the header sets, as Excel writes it (`sep=;`); None for any other line."""
    text = stripped(raw).strip(b'"')
    return chr(text[4]) if text[:4].lower() == b"sep=" and len(text) == 5 and text[4] < 128 else None


def header_of(raw: bytes | None, *, shown: str, delimiter: str | None = None) -> Header:
    """Read the header. `UsageError`, with the manifest as `shown`: no column is `image`, or one comes twice."""
    text = "" if raw is None else stripped(raw).decode("utf-8", "replace")
    best: list[str] = []
    for quote in _QUOTES:
        for tried in delimiter or _DELIMITERS:
            has_spaces = f"{tried} " in text
            try:
                cells = next(csv.reader([text], delimiter=tried, quotechar=quote, skipinitialspace=has_spaces), [])
            except csv.Error:
                continue
            names = [_field(cell) for cell in cells]
            if "image" in names:
                return Header(
                    delimiter=tried,
                    quote=quote,
                    has_spaces=has_spaces,
                    columns=_columns(names, shown),
                    width=len(names),
                    others=tuple(cell.strip() for cell, name in zip(cells, names, strict=True) if name not in FIELDS),
                )
            best = max(best, cells, key=len)
    told = ", ".join(printable(cell.strip()[:40]) for cell in best[:_SHOWN_COLUMNS])
    raise UsageError(
        f"{shown} has no column named image in its first line: {told or 'that is empty, or too long'}.",
        code="no_image_column",
        hint="Name the columns in the first line: image (a path or URL), and pack, file_name or id if there are such.",
    )


def _columns(names: Sequence[str], shown: str) -> dict[str, int]:
    for name in FIELDS:
        if names.count(name) > 1:
            raise UsageError(
                f"{shown} has more than one column named {name}.",
                code="ambiguous_column",
                hint="Give all but one of them another name.",
            )
    return {name: names.index(name) for name in FIELDS if name in names}


def _field(cell: str) -> str:
    return cell.strip().lower().replace(" ", "_").replace("-", "_")


def csv_rows(lines: Iterator[Line | None], header: Header) -> Iterator[tuple[int, Job | Misread] | None]:
    """A job a row, by the number of its first line, or why it is none; None whenever `lines` has to wait.

    Rows without any text are no rows. Cells are taken without the spaces around them, and an empty one is as good as
    none. A row that does not end well costs itself alone: the line after its first one begins the next.
    """
    records = _Records(lines, header)
    for line in records.first_lines():
        if line is None:
            yield None
            continue
        try:
            cells = records.cells(line)
            read = _read(cells, header) if any(cell.strip() for cell in cells) else None
        except (csv.Error, UnicodeDecodeError, _Unfinished) as error:
            records.give_back()
            read = Misread("bad_row", _told(error))
        if read is not None:
            yield line.number, read


def _told(error: csv.Error | UnicodeDecodeError | _Unfinished) -> str:
    match error:
        case _Unfinished():
            return str(error)
        case UnicodeDecodeError():
            return f"it is not UTF-8: {error.reason} at byte {error.start + 1}"
        case _:
            return f"it is not CSV: {error}"


def _read(cells: Sequence[str], header: Header) -> Job | Misread:
    if any(cell.strip() for cell in cells[header.width :]):
        return Misread("bad_row", f"it has {len(cells)} cells where the header has {header.width}")
    fields = {name: cells[at].strip() or None for name, at in header.columns.items() if at < len(cells)}
    if any("\n" in text or "\r" in text for text in fields.values() if text is not None):
        raise _Unfinished("a cell of it holds a line end: is there a quote that does not close?")
    return job_of(fields)


class _Records:
    """Lines put together to records; it is itself what `csv.reader` reads from."""

    def __init__(self, lines: Iterator[Line | None], header: Header) -> None:
        self._lines = lines
        self._waiting: deque[Line] = deque()  # read, and no part of a record yet
        self._taken: list[Line] = []  # by the record in hand
        self._taken_bytes = 0
        self._reader = csv.reader(
            self,
            delimiter=header.delimiter,
            quotechar=header.quote,
            skipinitialspace=header.has_spaces,
            strict=True,
        )

    def first_lines(self) -> Iterator[Line | None]:
        """The line that each record begins with."""
        while True:
            if self._waiting:
                yield self._waiting.popleft()
                continue
            try:
                line = next(self._lines)
            except StopIteration:
                return
            yield line

    def cells(self, first: Line) -> list[str]:
        """The record that begins with this line. `csv.Error` or `_Unfinished` where it does not end well."""
        self._taken.clear()
        self._taken_bytes = 0
        self._waiting.appendleft(first)
        try:
            return next(self._reader, [])
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise _Unfinished("a quote in it does not close") from error
            raise

    def give_back(self) -> None:
        """All but the first line of the record in hand are read anew."""
        self._waiting.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._next_line()
        self._taken.append(line)
        self._taken_bytes += LONGEST_JOB + 1 if line.raw is None else len(line.raw)
        if line.raw is None or self._taken_bytes > LONGEST_JOB:
            is_one = len(self._taken) == 1
            raise _Unfinished(f"{'it' if is_one else 'a quoted cell of it'} is longer than {LONGEST_JOB // 1024} KiB")
        if b"\0" in line.raw:
            raise _Unfinished("it holds a NUL character")
        return line.raw.decode()

    def _next_line(self) -> Line:
        # The rest of a record is on its way; whoever does not want it any more ends `lines`.
        for line in self._lines:
            if line is not None:
                return line
        raise StopIteration
