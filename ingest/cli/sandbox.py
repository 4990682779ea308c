"""The `sandbox` command: a local Packs API until Ctrl-C, and what to paste to use it."""

from __future__ import annotations

import errno
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ingest.cli import ending, options, output, values
from ingest.cli.origins import told
from ingest.errors import UsageError

if TYPE_CHECKING:
    from ingest.cli.origins import Origins
    from ingest.sandbox import SandboxSettings

__all__ = ["sandbox"]


def sandbox(
    ctx: typer.Context,
    *,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", show_default="127.0.0.1", help="Where to answer.")
    ] = None,
    port: Annotated[
        str | None, typer.Option("--port", metavar="PORT", show_default="a free one", help="The port there.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DIR", show_default="in memory", help="Keep packs and files here.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", show_default="a fresh one", help="The key to take.")
    ] = None,
    keys: Annotated[
        str | None, typer.Option("--keys", metavar="FILE", help="TOML file of keys, with their scopes and plans.")
    ] = None,
    faults: Annotated[
        str | None, typer.Option("--faults", metavar="FILE", help="TOML file of what goes wrong on purpose.")
    ] = None,
    config: options.Config = None,
) -> None:
    """Serve a local Packs API to try and test against, until Ctrl-C.

    Prints the two lines that point `ingest` and other clients at it. It talks to no other host.
    """
    import sqlite3  # noqa: PLC0415 - loaded when a command runs

    from ingest.cli import looping  # noqa: PLC0415

    try:
        looping.run(_serve(_settings(told(ctx))))
    except ending.Signalled:
        return  # how a server ends
    except (OSError, sqlite3.Error) as error:
        raise _unusable(error) from error


async def _serve(settings: SandboxSettings) -> None:
    import anyio  # noqa: PLC0415 - loaded with the sandbox

    from ingest.cli import looping  # noqa: PLC0415
    from ingest.sandbox import Sandbox  # noqa: PLC0415

    async def serve() -> None:
        async with Sandbox(settings).serve() as running:
            for one in settings.keys[:1]:
                output.line(f"export GENVIRAL_API_KEY={shlex.quote(one.key)}")
            output.line(f"export GENVIRAL_BASE_URL={shlex.quote(running.base_url)}")
            output.flush()
            where = "in memory" if settings.data is None else f"in {settings.data}"
            output.message(f"Sandbox on {running.url}, packs and files {where}. Ctrl-C ends it.")
            await anyio.sleep_forever()

    await looping.until_signalled(serve())


def _settings(origins: Origins) -> SandboxSettings:
    from dataclasses import replace  # noqa: PLC0415

    from ingest.sandbox import ApiKey, SandboxFileError, SandboxSettings  # noqa: PLC0415 - the sandbox's own command

    try:
        settings = SandboxSettings.from_files(
            keys_file=origins.one("keys", Path, None), faults_file=origins.one("faults", Path, None)
        )
    except SandboxFileError as error:
        text, _, hint = str(error).partition("\n")
        raise UsageError(text, code="bad_sandbox_file", hint=hint) from error

    def parsed_key(text: str) -> ApiKey:
        return ApiKey(key=text)

    own = origins.one("key", parsed_key, None)
    if own is None and not settings.keys:
        own = ApiKey.generate()
    return replace(
        settings,
        host=origins.one("host", values.text, settings.host),
        port=origins.one("port", values.whole_number(maximum=65535), settings.port),
        data=origins.one("data", Path, None),
        keys=settings.keys if own is None else (own, *settings.keys),
    )


def _unusable(error: Exception) -> UsageError:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return UsageError(
            "The sandbox can't have that port: it is in use.",
            code="port_in_use",
            hint="Choose another with --port, or leave it out for a free one.",
        )
    told_as = error.strerror if isinstance(error, OSError) else str(error)
    return UsageError(
        f"The sandbox can't start: {told_as or error}.", code="sandbox", hint="Check --host, --port and --data."
    )
