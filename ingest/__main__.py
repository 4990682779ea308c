"""`python -m ingest`, and the entry point of the `ingest` command."""

from __future__ import annotations

import sys

from ingest.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
