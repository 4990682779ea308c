"""The same with 50 ms before every answer: the program as it is beside the bare loop's best concurrency.

The best is found by trying, each value once: within the program's own bound, and of any. Then pairs in alternating
order. Nothing here limits requests.
"""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING, Final

from tests.benchmarks.measure import median
from tests.benchmarks.pictures import fill
from tests.benchmarks.server import serving
from tests.benchmarks.subjects import Bench, jobs_of
from tests.benchmarks.table import Result
from tests.benchmarks.throughput import in_turn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.benchmarks.measure import Usage

__all__ = ["latency"]

SIZE_BYTES: Final = 20 * 1024
DELAY_S: Final = 0.05
TRIED: Final = (16, 32, 64, 96, 128, 192, 256, 384, 512)

BOUNDS: Final = {"within 64": 64, "of any": math.inf}
# The program opens 64 requests at once in a lane unless it is told otherwise: with an API whose limits nobody knows,
# more of them is a person's decision.


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
        rivals = {name: _best(tried, bound) for name, bound in BOUNDS.items()}
        runs = {
            name: in_turn(
                pairs,
                lambda: bench.program([source], base_url),
                lambda best=best: bench.bare(source, base_url, concurrency=best),  # type: ignore[misc]
            )
            for name, best in rivals.items()
        }
    shutil.rmtree(source)
    result = Result(
        title=f"50 ms before each answer, no limit: {jobs:,} files of 20 KB, {pairs} pairs",
        columns=("", "jobs/s", "wall s", "CPU us/job"),
    )
    result.rows.append(_row("ingest run, untuned", [program for turn in runs.values() for program, _ in turn], jobs))
    result.figures = {"jobs": jobs, "tried": tried, "best": rivals, "share_of_best": {}}
    for name, turn in runs.items():
        for program, bare in turn:
            jobs_of(program, jobs)
            jobs_of(bare, jobs)
        told = f"bare loop, best fixed concurrency {name} ({rivals[name]})"
        result.rows.append(_row(told, [bare for _, bare in turn], jobs))
        share = median([bare.wall_s / program.wall_s for program, bare in turn])
        result.notes.append(f"share of the best {name}, median of pairs: {share:.2f}")
        result.figures["share_of_best"][name] = share
    told = ", ".join(f"{concurrency}: {rate:,.0f}" for concurrency, rate in tried.items())
    result.notes.append(f"bare loop, jobs/s by concurrency: {told}")
    return result


def _best(tried: Mapping[int, float], bound: float) -> int:
    return max(
        (concurrency for concurrency in tried if concurrency <= bound), key=lambda concurrency: tried[concurrency]
    )


def _row(name: str, usages: Sequence[Usage], jobs: int) -> tuple[str, ...]:
    wall_s, cpu_s = median([usage.wall_s for usage in usages]), median([usage.cpu_s for usage in usages])
    return name, f"{jobs / wall_s:,.0f}", f"{wall_s:.2f}", f"{cpu_s / jobs * 1e6:,.0f}"
