"""Which version of the program this is, for the metrics, the requests and people."""

from __future__ import annotations

from importlib import metadata

__all__ = ["version"]


def version() -> str:
    """The installed version; "unknown" where the program is run from a source tree that is not installed."""
    try:
        return metadata.version("ingest")
    except metadata.PackageNotFoundError:
        return "unknown"
