"""Log lines: constant events with their data in keys, through the standard library's `ingest` logger.

Importing this sets nothing up; records go wherever the application sends them, and what is not emitted is not
rendered. Only `configure` writes anywhere, and it touches no logger but `ingest`.

    log = get_logger("pipeline")
    log.info("job.settled", job=17, outcome="added")
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from ingest.observe.scrub import Scrubber, withhold_signatures
from ingest.observe.text import printable
from ingest.observe.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ingest.observe.scrub import Plain
    from ingest.observe.writer import Stream

    ExcInfo: TypeAlias = BaseException | bool | None
    Render: TypeAlias = Callable[[dict[str, Plain]], str]

__all__ = ["Event", "Logger", "Logs", "configure", "get_logger"]

ROOT: Final = "ingest"

DRAIN_S: Final = 2.0
# How long leaving `configure` waits for a stream that takes nothing.

logging.getLogger(ROOT).addHandler(logging.NullHandler())


class Event:
    """The message of a record: a constant name and its data; text only when someone asks."""

    __slots__ = ("data", "name")

    def __init__(self, name: str, data: Mapping[str, object]) -> None:
        self.name = name
        self.data = data

    def __str__(self) -> str:
        return withhold_signatures(" ".join((self.name, *(f"{key}={value!r}" for key, value in self.data.items()))))


class Logger:
    """Emits events of one part of the program. A level that is off costs one look-up; nothing is rendered.

    `exc_info` is an exception, or True for the one in hand. Values are rendered later and in another thread: hand over
    what doesn't change any more.
    """

    __slots__ = ("_bound", "_logger")

    def __init__(self, logger: logging.Logger, bound: Mapping[str, object]) -> None:
        self._logger = logger
        self._bound = bound

    def bind(self, **data: object) -> Logger:
        """The same logger with `data` in every event."""
        return Logger(self._logger, {**self._bound, **data})

    @property
    def is_debug(self) -> bool:
        """Whether `debug` emits anything: to be asked where its data is worth sparing."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def debug(self, event: str, /, *, exc_info: ExcInfo = None, **data: object) -> None:
        if self._logger.isEnabledFor(logging.DEBUG):
            self._emit(logging.DEBUG, event, exc_info, data)

    def info(self, event: str, /, *, exc_info: ExcInfo = None, **data: object) -> None:
        if self._logger.isEnabledFor(logging.INFO):
            self._emit(logging.INFO, event, exc_info, data)

    def warning(self, event: str, /, *, exc_info: ExcInfo = None, **data: object) -> None:
        if self._logger.isEnabledFor(logging.WARNING):
            self._emit(logging.WARNING, event, exc_info, data)

    def error(self, event: str, /, *, exc_info: ExcInfo = None, **data: object) -> None:
        if self._logger.isEnabledFor(logging.ERROR):
            self._emit(logging.ERROR, event, exc_info, data)

    def exception(self, event: str, /, **data: object) -> None:
        """An error with the traceback of the exception in hand."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._emit(logging.ERROR, event, True, data)

    def _emit(self, level: int, name: str, exc_info: ExcInfo, data: dict[str, object]) -> None:
        event = Event(name, {**self._bound, **data} if self._bound else data)
        self._logger.log(level, event, exc_info=exc_info, stacklevel=3)  # 3: whoever called `info` and the like


def get_logger(part: str) -> Logger:
    """The logger of one part of the program, `ingest.<part>` to the standard library."""
    return Logger(logging.getLogger(f"{ROOT}.{part}"), {})


class Logs:
    """The set-up in force inside `configure`."""

    def __init__(self, scrubber: Scrubber, writer: Writer) -> None:
        self._scrubber = scrubber
        self._writer = writer

    def register_secret(self, secret: str) -> None:
        """Withhold `secret` from every line that is written from here on, for as long as this set-up lasts."""
        self._scrubber.register(secret)

    @property
    def dropped(self) -> int:
        """Lines lost because the stream took them too slowly or not at all."""
        return self._writer.dropped


@contextmanager
def configure(
    format: Literal["auto", "console", "json"] = "auto",  # noqa: A002 - the name of the option
    level: str = "info",
    stream: Stream | None = None,
    *,
    secrets: Iterable[str] = (),
) -> Iterator[Logs]:
    """Write the package's log to `stream` (None: stderr) while inside, and leave the `ingest` logger as it was found.

    `auto` is `console` on a terminal and `json` elsewhere. Logging never blocks: a line that finds the queue full is
    dropped, and the last line says how many were. Leaving waits at most `DRAIN_S` seconds for the stream.
    """
    target: Stream = sys.stderr if stream is None else stream
    is_terminal = _is_terminal(target)
    if format == "json" or (format == "auto" and not is_terminal):
        render: Render = json.dumps
    else:
        render = _console(colors=is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")
    scrubber = Scrubber(secrets)
    logger = logging.getLogger(ROOT)
    before = (logger.handlers[:], logger.level, logger.propagate)
    writer = Writer(target, lambda record: render(_line(record, scrubber)))
    try:
        logger.setLevel(level.upper())
        logger.handlers[:] = [writer]
        logger.propagate = False
        yield Logs(scrubber, writer)
    finally:
        logger.handlers[:], previous_level, logger.propagate = before
        logger.setLevel(previous_level)
        if writer.drain(DRAIN_S) and writer.dropped:
            event = Event("log.dropped", {"lines": writer.dropped})
            writer.write(logging.LogRecord(f"{ROOT}.log", logging.WARNING, "", 0, event, None, None))
        writer.close()


def _is_terminal(stream: Stream) -> bool:
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and bool(isatty())


def _console(*, colors: bool) -> Render:
    from structlog.dev import ConsoleRenderer, plain_traceback  # noqa: PLC0415 - loads rich: 50 ms that JSON can save

    # The plain formatter: the pretty one shows local variables, and with them secrets.
    renderer = ConsoleRenderer(colors=colors, sort_keys=False, exception_formatter=plain_traceback)

    def render(line: dict[str, Plain]) -> str:
        safe = {key: _printable_lines(value) if isinstance(value, str) else value for key, value in line.items()}
        return str(renderer(None, "", safe))

    return render


def _printable_lines(text: str) -> str:
    """A file name may hold an escape sequence, and a terminal would obey it; line ends stay, for tracebacks."""
    return "\n".join(map(printable, text.split("\n")))


def _line(record: logging.LogRecord, scrubber: Scrubber) -> dict[str, Plain]:
    """What one line says, in order, without secrets."""
    event = record.msg if isinstance(record.msg, Event) else Event(record.getMessage(), {})
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    line: dict[str, Plain] = {
        "timestamp": at.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": scrubber.text(event.name),
    }
    line.update((key, scrubber.plain(value)) for key, value in event.data.items())
    if record.exc_info is not None and record.exc_info[0] is not None:
        line["exception"] = scrubber.text("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return line
