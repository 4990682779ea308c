"""What must not grow: memory with a million jobs, the opening of their journal, and a run that finds nothing to do.

The files are hard links to a few small ones, in one directory: they cost names and no bytes.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Final

from ingest.policy.lifecycle import State
from tests.benchmarks.journals import write_journal
from tests.benchmarks.measure import Usage, child, median, spread
from tests.benchmarks.pictures import picture
from tests.benchmarks.server import serving
from tests.benchmarks.subjects import Bench, jobs_of
from tests.benchmarks.table import Result
from tests.benchmarks.throughput import in_turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["link", "memory", "second_run", "seen"]

LINKS: Final = 50_000
# ext4 allows 65 000 names a file.

SMALL_BYTES: Final = 2048

NEW_JOBS: Final = 2000


def memory(folder: Path, *, jobs: int) -> Result:
    """Peak memory and times with so many jobs in the journal, and as many files in one directory."""
    bench = Bench(folder)
    began = time.perf_counter()
    files = link(folder / "million", jobs)
    result = Result(
        title=f"Bounds: a journal of {jobs:,} jobs, a directory of {jobs:,} files",
        columns=("", "seconds", "CPU s", "peak MiB"),
    )

    def told(name: str, usage: Usage, seconds: float | None = None) -> None:
        wall_s = usage.wall_s if seconds is None else seconds
        result.rows.append((name, f"{wall_s:.3f}", f"{usage.cpu_s:.2f}", f"{usage.peak_bytes / 2**20:.0f}"))
        result.figures[name] = {"seconds": wall_s, "cpu_s": usage.cpu_s, "peak_bytes": usage.peak_bytes}

    one = folder / "one"
    one.mkdir()
    (one / "new.jpg").write_bytes(picture(SMALL_BYTES))
    with serving() as base_url:
        for state in (State.ADDED, State.PENDING):
            journal = folder / f"{state.value}.db"
            write_journal(journal, base_url, seen(files), state=state)
            opening = child(
                [sys.executable, "-m", "tests.benchmarks.opening", str(journal), base_url],
                environment=os.environ,
                log=folder / "opening.log",
            )
            told(f"open a journal of {jobs:,} {state.value} jobs", opening, float(opening.stdout))
        added, pending = folder / "added.db", folder / "pending.db"
        told("run one new file, the rest added", bench.program([one], base_url, journal=added))
        usage = bench.program([files], base_url, journal=added)
        jobs_of(usage, jobs, as_outcome="unchanged")
        told("run the directory again, all of it added", usage)
        # Equal files would wait for each other; what is wanted here is that many jobs pass.
        limited = ["--limit", str(NEW_JOBS), "--duplicates", "allow"]
        told(f"run {NEW_JOBS} of the pending jobs", bench.program([], base_url, journal=pending, options=limited))
        told(f"run the directory with a fresh journal, --limit {NEW_JOBS}",
             bench.program([files], base_url, options=limited))  # fmt: skip
    for journal in (added, pending):
        journal.unlink()
    shutil.rmtree(files)
    result.notes.append("seconds of opening are those of the opening alone, with the file in the page cache")
    result.notes.append(f"in {time.perf_counter() - began:.0f} s, most of it for making the files and journals")
    return result


def second_run(folder: Path, *, jobs: int, pairs: int) -> Result:
    """A run over so many files that are all added, beside a walk that only looks at them."""
    bench = Bench(folder)
    files, journal = link(folder / "again", jobs), folder / "again.db"
    walk = [sys.executable, "-m", "tests.benchmarks.walking", str(files)]
    with serving() as base_url:
        write_journal(journal, base_url, seen(files), state=State.ADDED)
        runs = in_turn(
            pairs,
            lambda: bench.program([files], base_url, journal=journal),
            lambda: child(walk, environment=os.environ, log=folder / "walk.log"),
        )
        one = folder / "single"
        one.mkdir()
        (one / "new.jpg").write_bytes(picture(SMALL_BYTES))
        start = bench.program([one], base_url)
    for program, _ in runs:
        jobs_of(program, jobs, as_outcome="unchanged")
    shutil.rmtree(files)
    ratio = [program.wall_s / plain.wall_s for program, plain in runs]
    result = Result(
        title=f"Second run: {jobs:,} files, all added, {pairs} pairs",
        columns=("", "wall s", "CPU s", "peak MiB"),
        notes=[
            f"wall, program over walk, median of pairs: {spread(ratio)}",
            f"a run of one file takes {start.wall_s:.2f} s of wall and {start.cpu_s:.2f} s of CPU",
        ],
    )
    for name, turn in (("ingest run, nothing to do", 0), ("os.scandir and stat", 1)):
        usages = [pair[turn] for pair in runs]
        wall_s, cpu_s = median([usage.wall_s for usage in usages]), median([usage.cpu_s for usage in usages])
        peak_bytes = max(usage.peak_bytes for usage in usages)
        result.rows.append((name, f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{peak_bytes / 2**20:.0f}"))
        result.figures[name] = {"wall_s": wall_s, "cpu_s": cpu_s, "peak_bytes": peak_bytes}
    result.figures["ratios"] = {"wall": ratio}
    return result


def link(folder: Path, count: int) -> Path:
    """A new directory of so many small pictures."""
    folder.mkdir()
    hidden = folder / ".first"  # passed over by a walk
    for number in range(count):
        if number % LINKS == 0:
            hidden.unlink(missing_ok=True)
            hidden.write_bytes(picture(SMALL_BYTES))
        os.link(hidden, folder / f"picture-{number:07}.jpg")
    hidden.unlink()
    return folder


def seen(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of each, as a journal has them."""
    for entry in os.scandir(folder):
        status = entry.stat()
        yield entry.path, status.st_size, status.st_mtime_ns
