"""Options that several commands share, each written once."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import typer

__all__ = [
    "FLOW",
    "KEPT",
    "SELECTION",
    "SETTINGS_HELP",
    "Config",
    "Exclude",
    "Include",
    "Journal",
    "Json",
    "JsonLines",
    "LogFormat",
    "LogLevel",
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
