"""The `serve` command: its options and their help. What it does is in `running`, imported when it runs."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ingest.cli import options
from ingest.cli.origins import told

__all__ = ["EPILOG", "serve"]

EPILOG: Final = f"""
Examples:

ingest serve ~/Inbox --pack Holiday --create-pack

ingest serve /data/a /data/b --pack Holiday --settle-files 10s --metrics-port off

Exit codes: 0 a signal ended it, and what was in hand is finished or waits for the next start; 1 --max-rejected is
reached; 2 wrong usage; 74 this machine can't go on; 70 a bug; 129, 130, 143 a second signal cut its end short; 3 and
75 only with --on-fatal exit and --give-up-after TIME. Whatever it was, start it again to continue.
{options.SETTINGS_HELP}"""


def serve(
    ctx: typer.Context,
    *,
    source: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE...", help="Directories to watch, queues.", show_default=False)
    ] = None,
    pack: options.Pack = None,
    create_pack: options.CreatePack = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    duplicates: options.Duplicates = None,
    max_bytes: options.MaxBytes = None,
    check_urls: options.CheckUrls = None,
    rehost: options.Rehost = None,
    allow_private_hosts: options.AllowPrivateHosts = None,
    root: options.Root = None,
    settle_files: Annotated[
        str | None,
        typer.Option(
            "--settle-files",
            metavar="DURATION",
            show_default="2s",
            help="For how long a file must be unchanged to be taken.",
            rich_help_panel=options.SELECTION,
        ),
    ] = None,
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
    """Watch directories, take what comes by queues, and add every image to its pack, until a signal ends it.

    What was added before is skipped. SIGTERM or Ctrl-C finishes what is in hand.
    """
    from ingest.cli import running  # noqa: PLC0415 - loads the network and the pipeline

    return running.serve(told(ctx))
