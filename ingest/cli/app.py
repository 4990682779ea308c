"""The root of the command line: which commands there are, and the one way in and out.

Parses and delegates; what a command does is imported when it runs.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.cli import ending, files, journals, options, output, packs, serve
from ingest.cli.enqueue import EPILOG as ENQUEUE_EPILOG
from ingest.cli.enqueue import enqueue
from ingest.cli.run import EPILOG, run
from ingest.cli.sandbox import sandbox
from ingest.cli.status import status
from ingest.cli.subscription import subscription
from ingest.cli.verify import verify
from ingest.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "main"]

app = typer.Typer(
    name="ingest",
    help="Puts images into Genviral packs, in bulk, and leaves nothing half done.",
    epilog=(
        "Examples:\n\ningest demo\n\ningest run ~/Pictures --pack Holiday --create-pack\n\ningest failures\n\n"
        "ingest packs list --json\n" + options.SETTINGS_HELP
    ),
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """What is asked without a command."""
    if version:
        from ingest.observe.version import version as installed  # noqa: PLC0415 - 20 ms that only this needs

        output.line(f"ingest {installed()}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        raise UsageError(
            "No command is named.", code="usage", hint="See `ingest --help`; `ingest demo` shows it at work."
        )


app.command(epilog=EPILOG)(run)
app.command(epilog=serve.EPILOG)(serve.serve)


@app.command()
def demo() -> int:
    """Show it at work: a sandbox, a few hundred pictures and a run, in half a minute; leaves nothing behind.

    The sandbox misbehaves a little on purpose: errors, limits, connections that end without an answer.
    """
    from ingest.cli import demonstration  # noqa: PLC0415 - loads the network, the pipeline and the sandbox

    return demonstration.demo()


app.command(epilog=ENQUEUE_EPILOG)(enqueue)
app.command()(status)
app.command()(journals.failures)
app.command()(journals.retry)
app.command()(journals.forget)
app.command()(verify)
app.add_typer(packs.app, name="packs")
app.add_typer(files.app, name="files")
app.command()(subscription)
app.command()(sandbox)


def main() -> int:
    """Run the command that this process was started for, and return its exit code."""
    output.prepare()
    arguments = sys.argv[1:]
    with ending.signals_raise():
        try:
            _refuse_path(arguments)
            code = app(arguments, prog_name="ingest", standalone_mode=False)
            output.flush()
        except SystemExit:
            raise
        except BaseException as problem:
            code = ending.tell(problem, arguments)
        output.flush()
    return int(code or 0)


def _refuse_path(arguments: Sequence[str]) -> None:
    """A path where the command should be: say which command was meant."""
    named = arguments[0] if arguments else ""
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {group.name for group in app.registered_groups if group.name}
    if not named or named.startswith("-") or named in commands:
        return
    if os.path.lexists(named) or os.sep in named or "://" in named:
        raise UsageError(
            f"{named} is no command.", code="usage", hint=f"Did you mean `ingest run {shlex.quote(named)} --pack NAME`?"
        )
