"""What is written to stdout and stderr: lines, JSON lines, tables and messages.

Nothing here decides what is said. Names of files are shown as `printable` has them, and JSON is ASCII, so that a name
of any bytes comes out whole. Whoever stops reading is no error: the rest goes nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

import typer

from ingest.errors import MachineError, UsageError
from ingest.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Drawn",
    "aside",
    "confirm",
    "flush",
    "is_terminal",
    "json_line",
    "line",
    "message",
    "prepare",
    "table",
    "when",
]

LAST_STANDARD_DESCRIPTOR: Final = 2


def prepare() -> None:
    """Make both streams take every text; one that this system's encoding can't say is escaped.

    What was closed when the program was started goes nowhere, and its number to no file of ours: the event loop would
    take it for its own, and abort when it is closed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= LAST_STANDARD_DESCRIPTOR:
        pass
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, encoding="utf-8")  # noqa: SIM115 - a descriptor, for as long as we run
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it, at something that can do more than print lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def line(text: str = "") -> None:
    """One line of the result."""
    with _nobody_reads(sys.stdout):
        sys.stdout.write(f"{text}\n")


def json_line(content: Mapping[str, Any]) -> None:
    """One JSON object of the result, on a line of its own."""
    line(json.dumps(content, ensure_ascii=True, default=str))


def message(text: str, hint: str = "") -> None:
    """A line or two for a person, on stderr."""
    aside("\n".join([f"ingest: {text}", *(f"  {part}" for part in hint.splitlines())]))


def aside(text: str) -> None:
    """Whole lines on stderr, which nobody may read."""
    with _nobody_reads(sys.stderr):
        sys.stderr.write("".join(f"{printable(part)}\n" for part in text.split("\n")))
        sys.stderr.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns under their names; numbers to the right. Never cut short, but folded to a terminal's width."""
    from rich.console import Console  # noqa: PLC0415 - 50 ms that JSON and errors can save
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    content = [list(row) for row in rows]
    for index, column in enumerate(columns):
        is_number = bool(content) and all(isinstance(row[index], int | float) for row in content)
        shown.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in content:
        shown.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    # Where nobody looks nothing is folded: a line is a row.
    width = None if is_terminal(sys.stdout) else 100_000
    console = Console(file=sys.stdout, width=width, highlight=False)
    with _nobody_reads(sys.stdout), console.capture() as captured:
        console.print(shown)
    for text in captured.get().splitlines():
        line(text.rstrip())


def when(unix_s: float) -> str:
    """A time as people here tell it."""
    return f"{datetime.fromtimestamp(unix_s).astimezone():%Y-%m-%d %H:%M}"


def confirm(question: str, *, is_confirmed: bool) -> None:
    """Ask before something is lost. `UsageError` where nobody is there to be asked; `typer.Abort` for a no."""
    if is_confirmed:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{question} Nobody is there to answer.", code="not_confirmed", hint="Say --yes if that is what you want."
        )
    typer.confirm(question, abort=True, err=True)


class Drawn:
    """stderr for who draws on it: once nobody looks, what is drawn goes nowhere."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or lose, all of it."""
        with _nobody_reads(self._stream):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Let what was written be seen."""
        with _nobody_reads(self._stream):
            self._stream.flush()


def flush() -> None:
    """Write what is left of the result."""
    with _nobody_reads(sys.stdout):
        sys.stdout.flush()


@contextlib.contextmanager
def _nobody_reads(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Not `isatty`: a terminal that was closed is none any more.
        is_device = stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
        # The rest, and what the interpreter flushes at its end, goes where it disturbs nobody.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        is_gone = isinstance(error, BrokenPipeError) or (error.errno == errno.EIO and is_device)
        if stream is not sys.stderr and not is_gone:
            raise MachineError(
                f"The result can't be written to stdout: {error.strerror}.",
                code="machine",
                hint="Make room where stdout leads, and ask again; what is in the journal is safe.",
            ) from error
