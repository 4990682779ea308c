"""Where the time of a job goes: the layers of `layers`, one upon another, from the bare loop to the whole program."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from tests.benchmarks.layers import LAYERS
from tests.benchmarks.measure import median
from tests.benchmarks.pictures import fill
from tests.benchmarks.server import serving
from tests.benchmarks.subjects import Bench, jobs_of
from tests.benchmarks.table import Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.benchmarks.measure import Usage

__all__ = ["parts"]

SIZE_BYTES: Final = 20 * 1024

TOLD: Final = {
    "bare": "bare aiohttp loop",
    "client": "our client alone: typed answers, deadlines, no session",
    "lanes": "+ gates, retries, metrics",
    "pipeline": "+ jobs: directory, threads, BLAKE3, lifecycle, journal in memory",
    "journal": "+ SQLite journal, FULL",
    "run": "+ the command: start, log, metrics' server",
}


def parts(folder: Path, *, rounds: int, jobs: int) -> Result:
    """So many rounds through all layers, there and back in turn, of as many jobs each."""
    bench = Bench(folder)
    source = fill(folder / "files", jobs, SIZE_BYTES)
    used: dict[str, list[Usage]] = {name: [] for name in TOLD}
    with serving() as base_url:
        measured: dict[str, Callable[[], Usage]] = {
            "bare": lambda: bench.bare(source, base_url),
            **{layer: lambda layer=layer: bench.layer(layer, source, base_url) for layer in LAYERS},  # type: ignore[misc]
            "run": lambda: bench.program([source], base_url),
        }
        for number in range(rounds):
            for name in TOLD if number % 2 == 0 else reversed(TOLD):
                used[name].append(measured[name]())
                jobs_of(used[name][-1], jobs)
    shutil.rmtree(source)
    result = Result(
        title=f"Where the time goes: {jobs:,} files of 20 KB, {rounds} rounds",
        columns=("", "CPU us/job", "of it this part", "over bare", "jobs/s"),
    )
    before_us = 0.0
    for name, usages in used.items():
        cpu_us = median([usage.cpu_s / jobs * 1e6 for usage in usages])
        over = median([usage.cpu_s / bare.cpu_s for usage, bare in zip(usages, used["bare"], strict=True)])
        rate = jobs / median([usage.wall_s for usage in usages])
        result.rows.append((TOLD[name], f"{cpu_us:,.0f}", f"{cpu_us - before_us:+,.0f}", f"{over:.2f}", f"{rate:,.0f}"))
        result.figures[name] = {"cpu_us": cpu_us, "over_bare": over, "jobs_per_s": rate}
        before_us = cpu_us
    return result
