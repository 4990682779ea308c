"""`python -m tests.benchmarks [PART...]`: what the program costs, as tables. See `--help` for the parts.

Runs from the repository's root with the `test` extra installed, on Linux, with nginx, its echo module, wrk and curl;
talks to nobody but a local nginx that it starts. All of it takes some twenty minutes and 3 GB of disk; without names,
all are run. Judges nothing: what the figures must be is not written here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.journal.database import TEMPORARY_FILE_SYSTEMS, file_system
from tests.benchmarks.bounds import memory, second_run
from tests.benchmarks.latency import latency
from tests.benchmarks.limited import limited
from tests.benchmarks.manifests import manifests
from tests.benchmarks.parts import parts
from tests.benchmarks.server import Missing
from tests.benchmarks.sizes import sizes
from tests.benchmarks.throughput import throughput

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.table import Result

PARTS = ("throughput", "parts", "limited", "latency", "bytes", "second", "memory", "manifests")


def main() -> int:
    """The benchmarks that were named, one after another; returns the exit code."""
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or nginx would outlive this process
    benchmarks: dict[str, Callable[[Path], Result]] = {
        "throughput": lambda folder: throughput(folder, pairs=args.pairs, jobs=args.jobs),
        "parts": lambda folder: parts(folder, rounds=args.pairs, jobs=args.jobs),
        "limited": lambda folder: limited(folder, jobs=args.limited),
        "latency": lambda folder: latency(folder, pairs=args.pairs, jobs=args.jobs),
        "bytes": lambda folder: sizes(folder, pairs=args.pairs),
        "second": lambda folder: second_run(folder, jobs=args.journaled // 10, pairs=args.pairs),
        "memory": lambda folder: memory(folder, jobs=args.journaled),
        "manifests": lambda folder: manifests(folder, jobs=args.journaled),
    }
    figures: dict[str, object] = {"machine": _machine()}
    for name in args.part or PARTS:
        folder = Path(tempfile.mkdtemp(prefix="bench-", dir=args.folder))
        if (kind := file_system(folder)) in TEMPORARY_FILE_SYSTEMS:
            print(f"{folder} lies on a {kind}, where a commit costs nothing: see --folder", file=sys.stderr)
        try:
            result = benchmarks[name](folder)
        except Missing as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"{result}\n", flush=True)
        figures[name] = {"title": result.title, **result.figures}
        if args.json is not None:
            args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; all without any")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of runs, in alternating order")
    parser.add_argument("--jobs", type=int, default=6000, help="files of 20 KB")
    parser.add_argument("--limited", type=int, default=5000, help="images against a limit of 100 requests a second")
    parser.add_argument(
        "--journaled", type=int, default=1_000_000, help="jobs in the large journal, and rows of the large manifest"
    )
    parser.add_argument("--folder", type=Path, help="where to work: a local disk")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    args = parser.parse_args()
    if strange := set(args.part) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(strange))}")
    return args


def _machine() -> dict[str, object]:
    return {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}


if __name__ == "__main__":
    sys.exit(main())
