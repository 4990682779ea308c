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
    pack: options.Pack = None,
    create_pack: options.CreatePack = None,
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
    duplicates: options.Duplicates = None,
    limit: options.Limit = None,
    max_bytes: options.MaxBytes = None,
    check_urls: options.CheckUrls = None,
    rehost: options.Rehost = None,
    allow_private_hosts: options.AllowPrivateHosts = None,
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
    allow_empty: options.AllowEmpty = None,
    concurrency: options.Concurrency = None,
    rate: options.Rate = None,
    max_memory: options.MaxMemory = None,
    max_attempts: options.MaxAttempts = None,
    timeout: options.Timeout = None,
    drain_timeout: options.DrainTimeout = None,
    settle_delay: options.SettleDelay = None,
    give_up_after: options.GiveUpAfter = None,
    on_fatal: options.OnFatal = None,
    max_rejected: options.MaxRejected = None,
    journal: options.Journal = None,
    json: options.Json = None,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = None,
    log_format: options.LogFormat = None,
    log_level: options.LogLevel = None,
    config: options.Config = None,
) -> int:
    """Add every image of the sources to a pack, then exit.

    What an earlier run added is skipped; what was interrupted is continued. Ctrl-C finishes what is in hand.
    """
    from ingest.cli import running  # noqa: PLC0415 - loads the network and the pipeline

    return running.run(told(ctx))
