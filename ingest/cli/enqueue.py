"""The `enqueue` command: its options and their help. What it does is in `enqueueing`, imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from ingest.cli import options
from ingest.cli.origins import told

__all__ = ["EPILOG", "enqueue"]

EPILOG = f"""
Examples:

ingest enqueue ~/Pictures --to 'redis://host:6379/0?stream=images'

ingest enqueue /srv/pictures --root /srv/pictures --to 'amqp://user:password@host/vhost?queue=images' --pack Holiday

A job's id is the caller's own, else made of its image as the message names it, the file's size and its time of change:
the same files make the same ids, so whatever is published twice is added once. Stopped in the middle, run it again.

Exit codes: 0 all is published; 1 something could not be; 2 wrong usage, or no image was found; 75 the broker does not
answer; 130, 143 stopped by a signal.
{options.SETTINGS_HELP}"""


def enqueue(
    ctx: typer.Context,
    *,
    source: Annotated[list[str] | None, typer.Argument(metavar="SOURCE", help="Directories and image files.")] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL", help="The queue: redis://, amqp://, nats:// or sqs://.")
    ] = None,
    pack: Annotated[
        str | None,
        typer.Option(
            "--pack",
            metavar="ID|NAME",
            help="The pack that the messages name; else the workers'.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Name paths relative to this directory; else they are absolute.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    give_up_after: Annotated[
        str | None,
        typer.Option(
            "--give-up-after",
            metavar="DURATION|never",
            show_default="30m",
            help="On a broker that went away.",
            rich_help_panel=options.FLOW,
        ),
    ] = None,
    json: options.Json = None,
    log_format: options.LogFormat = None,
    log_level: options.LogLevel = None,
    config: options.Config = None,
) -> int:
    """Publish the images of the sources as jobs to a queue; `ingest run URL` takes them from there.

    Nothing is uploaded, and no key is needed. Every message is confirmed by the broker.
    """
    from ingest.cli import enqueueing  # noqa: PLC0415 - loads the sources

    return enqueueing.enqueue(told(ctx))
