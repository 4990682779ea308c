"""How a command ends: every way out as a message of a line or two, an exit code, and with `--json` a run's object.

The exit codes are DESIGN §7's; what raised an error has said by its class which one it is. Retries and repairs nothing.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING

from typer import Abort
from typer.exceptions import TyperException

from ingest.cli import configuration, output, values
from ingest.cli.origins import of_process
from ingest.errors import BUG_EXIT_CODE, MACHINE_ERRNOS, MACHINE_HINT, MachineError, StopError
from ingest.model import Summary, SummaryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

__all__ = ["Crashed", "Signalled", "ending_signals", "signals_raise", "tell"]


class Signalled(BaseException):
    """A signal came where no run could take it; no `KeyboardInterrupt`, which others turn into something."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class Crashed(Exception):
    """A bug ended a run; the cause is chained. `summary` is what the run had done."""

    def __init__(self, summary: Summary) -> None:
        super().__init__("a bug ended the run")
        self.summary = summary


def ending_signals() -> Sequence[signal.Signals]:
    """What ends a command: SIGINT, SIGTERM, and a terminal that was closed, unless `nohup` has that ignored."""
    found = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Raise `Signalled` for what ends a command while inside; an event loop may take the signals over for a while."""

    def raised(number: int, _: FrameType | None) -> None:
        raise Signalled(signal.Signals(number))

    before = {number: signal.signal(number, raised) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(problem: BaseException, arguments: Sequence[str]) -> int:
    """Say what ended the command `arguments`, and return its exit code."""
    code, error = _judged(problem)
    if code == BUG_EXIT_CODE:
        _write_traceback(problem)
    output.message(error.message, error.hint)
    if _wants_summary(arguments):
        done = problem.summary if isinstance(problem, Crashed) else None
        output.json_line(asdict(done) if done is not None else _nothing_done(code, error))
    return code


def _nothing_done(code: int, error: SummaryError) -> dict[str, object]:
    """The object of a run that never began."""
    zeros = dict.fromkeys(Summary.__dataclass_fields__, 0)
    return {**zeros, "run_id": None, "duration_s": 0.0, "exit_code": code, "error": asdict(error)}


def _judged(problem: BaseException) -> tuple[int, SummaryError]:
    """The exit code, and what to say."""
    match problem:
        case StopError():
            return problem.exit_code, SummaryError(code=problem.code, message=str(problem), hint=problem.hint)
        case TyperException():
            command = getattr(getattr(problem, "ctx", None), "command_path", "ingest")
            return 2, SummaryError(code="usage", message=problem.format_message(), hint=f"See `{command} --help`.")
        case Signalled(number=number):
            error = SummaryError(
                code=number.name.lower(), message=f"Stopped by {number.name}.", hint="Run the same command again."
            )
            return 128 + number, error
        case Abort() | EOFError():
            return 2, SummaryError(code="not_confirmed", message="Not confirmed; nothing was done.", hint="")
        case OSError() if problem.errno in MACHINE_ERRNOS:
            error = SummaryError(
                code="machine",
                message=f"This machine can't go on: {problem.strerror}.",
                hint=MACHINE_HINT,
            )
            return MachineError.exit_code, error
        case _:
            error = SummaryError(
                code="bug",
                message="A bug ended the command. The journal is safe.",
                hint="Please report the traceback above; running the same command again may get further.",
            )
            return BUG_EXIT_CODE, error


def _write_traceback(problem: BaseException) -> None:
    from ingest.observe.scrub import Scrubber  # noqa: PLC0415 - for bugs only

    text = "".join(traceback.format_exception(problem))
    output.aside(Scrubber(configuration.secrets()).text(text).rstrip())


def _wants_summary(arguments: Sequence[str]) -> bool:
    """Whether the command is one that owes its JSON object; also where its arguments could not be understood."""
    if next((word for word in arguments if not word.startswith("-")), None) not in {"run", "serve"}:
        return False
    said = [word for word in _before_end_of_options(arguments) if word in {"--json", "--no-json"}]
    flags: dict[str, object] = {"json": said[-1] == "--json"} if said else {}
    for word, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--config":
            flags["config"] = value
        elif word.startswith("--config="):
            flags["config"] = word.removeprefix("--config=")
    try:
        return of_process(flags).one("json", values.truth, False)
    except Exception:  # what is wrong with the settings is told already
        return bool(flags.get("json"))


def _before_end_of_options(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments
