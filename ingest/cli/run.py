"""The `run` command: its options and their help. What it does is in `running`, imported when it runs."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ingest.cli import options
from ingest.cli.origins import told

__all__ = ["EPILOG", "run"]

EPILOG: Final = f"""
Examples:

ingest run ~/Pictures --pack Holiday --create-pack

ingest run a.jpg b.png --pack 22222222-2222-2222-2222-222222222222

ingest run ~/Pictures --pack Holiday --exclude 'raw/*' --limit 10

ingest run list.csv --pack Holiday

ingest run 'redis://host:6379/0?stream=images' --pack Holiday --root /srv/pictures

ingest run

Exit codes: 0 every image is in its pack; 1 some are rejected or failed; 2 wrong usage; 3 the key or plan is refused;
74 this machine can't go on; 75 gave up for now; 130, 143 stopped by a signal; 70 a bug. After 3, 74, 75, 130 and 143
run it again to continue.
{options.SETTINGS_HELP}"""


def run(
    ctx: typer.Context,
    *,
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE", help="Directories, image files, manifests (.jsonl .csv .txt, -: stdin), queues."
        ),
    ] = None,
    pack: Annotated[
        str | None,
        typer.Option(
            "--pack", metavar="ID|NAME", help="The pack, by id or exact name.", rich_help_panel=options.SELECTION
        ),
    ] = None,
    create_pack: Annotated[
        bool | None,
        typer.Option(
            "--create-pack/--no-create-pack", help="Make the pack if there is none.", rich_help_panel=options.SELECTION
        ),
    ] = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N|auto/N",
            help="Only part I (from 0) of N; auto: JOB_COMPLETION_INDEX.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
    duplicates: Annotated[
        str | None,
        typer.Option(
            "--duplicates",
            metavar="skip|allow",
            show_default="skip",
            help="What to do with bytes that the pack has.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option("--limit", metavar="N", help="At most so many new images.", rich_help_panel=options.SELECTION),
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(
            "--max-bytes",
            metavar="SIZE",
            show_default="50MiB",
            help="Larger files are rejected.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
    check_urls: Annotated[
        bool | None,
        typer.Option(
            "--check-urls/--no-check-urls",
            show_default="check",
            help="Ask each URL whether it is an image.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
    rehost: Annotated[
        bool | None,
        typer.Option(
            "--rehost/--no-rehost",
            help="Upload what URLs lead to, and not the URLs.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
    allow_private_hosts: Annotated[
        bool | None,
        typer.Option(
            "--allow-private-hosts/--no-allow-private-hosts",
            help="URLs may lead to private addresses.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
    idle: Annotated[
        str | None,
        typer.Option(
            "--idle",
            metavar="DURATION|never",
            show_default="30s",
            help="A queue without a message for so long is done.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
    root: options.Root = None,
    allow_empty: Annotated[
        bool | None,
        typer.Option(
            "--allow-empty/--no-allow-empty", help="No image found is a success.", rich_help_panel=options.SELECTION
        ),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency",
            metavar="N",
            show_default="64",
            help="Requests at once, at most.",
            rich_help_panel=options.FLOW,
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="N", help="API requests a second, at most.", rich_help_panel=options.FLOW),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            show_default="256MiB",
            help="Image bytes in memory at once.",
            rich_help_panel=options.FLOW,
        ),
    ] = None,
    max_attempts: Annotated[
        str | None,
        typer.Option(
            "--max-attempts",
            metavar="N",
            show_default="8",
            help="Bad answers about one image before it is failed.",
            rich_help_panel=options.FLOW,
        ),
    ] = None,
    timeout: options.Timeout = None,
    drain_timeout: Annotated[
        str | None,
        typer.Option(
            "--drain-timeout",
            metavar="DURATION",
            show_default="20s",
            help="For what is in hand at Ctrl-C or SIGTERM.",
            rich_help_panel=options.FLOW,
        ),
    ] = None,
    settle_delay: options.SettleDelay = None,
    give_up_after: Annotated[
        str | None,
        typer.Option(
            "--give-up-after",
            metavar="DURATION|never",
            show_default="30m",
            help="Without any answer.",
            rich_help_panel=options.FLOW,
        ),
    ] = None,
    on_fatal: Annotated[
        str | None,
        typer.Option(
            "--on-fatal",
            metavar="exit|wait",
            show_default="exit",
            help="When the API refuses the key or plan.",
            rich_help_panel=options.FLOW,
        ),
    ] = None,
    max_rejected: Annotated[
        str | None,
        typer.Option(
            "--max-rejected", metavar="N", help="Stop when so many are rejected.", rich_help_panel=options.FLOW
        ),
    ] = None,
    journal: options.Journal = None,
    json: options.Json = None,
    metrics_port: Annotated[
        str | None,
        typer.Option(
            "--metrics-port", metavar="PORT", help="Serve /metrics and /healthz; 0: any.", rich_help_panel=options.KEPT
        ),
    ] = None,
    metrics_host: Annotated[
        str | None,
        typer.Option(
            "--metrics-host",
            metavar="HOST",
            show_default="127.0.0.1",
            help="Where to serve them.",
            rich_help_panel=options.KEPT,
        ),
    ] = None,
    log_format: options.LogFormat = None,
    log_level: options.LogLevel = None,
    config: options.Config = None,
) -> int:
    """Add every image of the sources to a pack, then exit.

    What an earlier run added is skipped; what was interrupted is continued. Ctrl-C finishes what is in hand.
    """
    from ingest.cli import running  # noqa: PLC0415 - loads the network and the pipeline

    return running.run(told(ctx))
