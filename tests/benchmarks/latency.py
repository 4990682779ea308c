"""The same with 50 ms before every answer: the program as it is beside the bare loop's best concurrency.

The best is found by trying, each value once; then pairs in alternating order. Nothing here limits requests.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from tests.benchmarks.measure import median
from tests.benchmarks.pictures import fill
from tests.benchmarks.server import serving
from tests.benchmarks.subjects import Bench, jobs_of
from tests.benchmarks.table import Result
from tests.benchmarks.throughput import in_turn, ratios

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["latency"]

SIZE_BYTES: Final = 20 * 1024
DELAY_S: Final = 0.05
TRIED: Final = (16, 32, 64, 96, 128, 192, 256, 384, 512)


def latency(folder: Path, *, pairs: int, jobs: int) -> Result:
    """So many pairs of as many jobs, after the search for the rival's best."""
    bench = Bench(folder)
    source = fill(folder / "files", jobs, SIZE_BYTES)
    with serving(delay_s=DELAY_S) as base_url:
        tried = {}
        for concurrency in TRIED:
            usage = bench.bare(source, base_url, concurrency=concurrency)
            jobs_of(usage, jobs)
            tried[concurrency] = jobs / usage.wall_s
        best = max(tried, key=lambda concurrency: tried[concurrency])
        runs = in_turn(
            pairs,
            lambda: bench.program([source], base_url),
            lambda: bench.bare(source, base_url, concurrency=best),
        )
    for program, bare in runs:
        jobs_of(program, jobs)
        jobs_of(bare, jobs)
    shutil.rmtree(source)
    result = Result(
        title=f"50 ms before each answer, no limit: {jobs:,} files of 20 KB, {pairs} pairs",
        columns=("", "jobs/s", "wall s", "CPU us/job"),
    )
    for name, turn in (("ingest run, untuned", 0), (f"bare loop, best fixed concurrency ({best})", 1)):
        wall_s, cpu_s = median([pair[turn].wall_s for pair in runs]), median([pair[turn].cpu_s for pair in runs])
        result.rows.append((name, f"{jobs / wall_s:,.0f}", f"{wall_s:.2f}", f"{cpu_s / jobs * 1e6:,.0f}"))
    told = ", ".join(f"{concurrency}: {rate:,.0f}" for concurrency, rate in tried.items())
    result.notes.append(f"bare loop, jobs/s by concurrency: {told}")
    result.figures = {"jobs": jobs, "tried": tried, "best": best, "ratios": ratios(result, runs)}
    share = median([bare.wall_s / program.wall_s for program, bare in runs])
    result.notes.append(f"share of the best, median of pairs: {share:.2f}")
    result.figures["share_of_best"] = share
    return result
