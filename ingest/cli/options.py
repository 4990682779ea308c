"""Options that several commands share, each written once."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import typer

__all__ = [
    "FLOW",
    "KEPT",
    "SELECTION",
    "SETTINGS_HELP",
    "AllowEmpty",
    "AllowPrivateHosts",
    "CheckUrls",
    "Concurrency",
    "Config",
    "CreatePack",
    "DrainTimeout",
    "Duplicates",
    "Exclude",
    "GiveUpAfter",
    "Include",
    "Journal",
    "Json",
    "JsonLines",
    "Limit",
    "LogFormat",
    "LogLevel",
    "MaxAttempts",
    "MaxBytes",
    "MaxMemory",
    "MaxRejected",
    "MetricsHost",
    "MetricsPort",
    "OnFatal",
    "Pack",
    "Rate",
    "Rehost",
    "Root",
    "SettleDelay",
    "Timeout",
]

SELECTION: Final = "Which images, into which pack"
FLOW: Final = "How fast, how long"
KEPT: Final = "What is kept and shown"
# The panels of the help texts.

SETTINGS_HELP: Final = """
Every setting is also a variable, INGEST_ and its name (INGEST_MAX_BYTES=20MB; INGEST_MAX_BYTES_FILE reads it from a
file), and a key in a TOML file (max-bytes = '20MB'): --config FILE, or config.toml in the user's configuration
directory. An option goes before a variable, and a variable before the file. In a variable, a list has one item a line.
The key is never an option: GENVIRAL_API_KEY, or GENVIRAL_API_KEY_FILE; GENVIRAL_BASE_URL says where the API is.
"""

Config: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        show_default="in the user's configuration directory",
        help="TOML file of settings.",
        rich_help_panel=KEPT,
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="Not these; repeatable.", rich_help_panel=SELECTION),
]
Include: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="GLOB", help="Only these; repeatable.", rich_help_panel=SELECTION),
]
Journal: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--journal",
        metavar="PATH",
        show_default="in the user's state directory",
        help="What is done and what is left; keep it.",
        rich_help_panel=KEPT,
    ),
]
Json: TypeAlias = Annotated[
    bool | None, typer.Option("--json/--no-json", help="One JSON object on stdout.", rich_help_panel=KEPT)
]
JsonLines: TypeAlias = Annotated[
    bool | None, typer.Option("--json/--no-json", help="JSON Lines, for programs.", rich_help_panel=KEPT)
]
LogFormat: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--log-format",
        metavar="auto|console|json",
        show_default="auto",
        help="auto: json when not at a terminal.",
        rich_help_panel=KEPT,
    ),
]
LogLevel: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--log-level",
        metavar="LEVEL",
        show_default="info; warning beside the live display",
        help="debug, info, warning or error.",
        rich_help_panel=KEPT,
    ),
]
Root: TypeAlias = Annotated[
    str | None,
    typer.Option("--root", metavar="DIR", help="What paths in messages must lie under.", rich_help_panel=SELECTION),
]
SettleDelay: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--settle-delay",
        metavar="DURATION",
        show_default="30s",
        help="After an add without an answer, before the pack is read.",
        rich_help_panel=FLOW,
    ),
]
Timeout: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        show_default="60s",
        help="Without progress, for one request.",
        rich_help_panel=FLOW,
    ),
]
Pack: TypeAlias = Annotated[
    str | None,
    typer.Option("--pack", metavar="ID|NAME", help="The pack, by id or exact name.", rich_help_panel=SELECTION),
]
CreatePack: TypeAlias = Annotated[
    bool | None,
    typer.Option("--create-pack/--no-create-pack", help="Make the pack if there is none.", rich_help_panel=SELECTION),
]
Duplicates: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--duplicates",
        metavar="skip|allow",
        show_default="skip",
        help="What to do with bytes that the pack has.",
        rich_help_panel=SELECTION,
    ),
]
Limit: TypeAlias = Annotated[
    str | None,
    typer.Option("--limit", metavar="N", help="At most so many new images.", rich_help_panel=SELECTION),
]
MaxBytes: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--max-bytes",
        metavar="SIZE",
        show_default="50MiB",
        help="Larger files are rejected.",
        rich_help_panel=SELECTION,
    ),
]
AllowEmpty: TypeAlias = Annotated[
    bool | None,
    typer.Option("--allow-empty/--no-allow-empty", help="No image found is a success.", rich_help_panel=SELECTION),
]
CheckUrls: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--check-urls/--no-check-urls",
        show_default="check",
        help="Ask each URL whether it is an image.",
        rich_help_panel=SELECTION,
    ),
]
Rehost: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--rehost/--no-rehost",
        help="Upload what URLs lead to, and not the URLs.",
        rich_help_panel=SELECTION,
    ),
]
AllowPrivateHosts: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--allow-private-hosts/--no-allow-private-hosts",
        help="URLs may lead to private addresses.",
        rich_help_panel=SELECTION,
    ),
]
Concurrency: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--concurrency",
        metavar="N",
        show_default="64",
        help="Requests at once, at most.",
        rich_help_panel=FLOW,
    ),
]
Rate: TypeAlias = Annotated[
    str | None,
    typer.Option("--rate", metavar="N", help="API requests a second, at most.", rich_help_panel=FLOW),
]
MaxMemory: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        show_default="256MiB",
        help="Image bytes in memory at once.",
        rich_help_panel=FLOW,
    ),
]
MaxAttempts: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--max-attempts",
        metavar="N",
        show_default="8",
        help="Bad answers about one image before it is failed.",
        rich_help_panel=FLOW,
    ),
]
DrainTimeout: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--drain-timeout",
        metavar="DURATION",
        show_default="20s",
        help="For what is in hand at Ctrl-C or SIGTERM.",
        rich_help_panel=FLOW,
    ),
]
GiveUpAfter: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--give-up-after",
        metavar="DURATION|never",
        show_default="30m; serve: never",
        help="Without any answer.",
        rich_help_panel=FLOW,
    ),
]
OnFatal: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--on-fatal",
        metavar="exit|wait",
        show_default="exit; serve: wait",
        help="When the API refuses the key or plan.",
        rich_help_panel=FLOW,
    ),
]
MaxRejected: TypeAlias = Annotated[
    str | None,
    typer.Option("--max-rejected", metavar="N", help="Stop when so many are rejected.", rich_help_panel=FLOW),
]
MetricsPort: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--metrics-port",
        metavar="PORT|off",
        show_default="off; serve: 9464",
        help="Serve /metrics and /healthz; 0: any.",
        rich_help_panel=KEPT,
    ),
]
MetricsHost: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--metrics-host",
        metavar="HOST",
        show_default="127.0.0.1",
        help="Where to serve them.",
        rich_help_panel=KEPT,
    ),
]
