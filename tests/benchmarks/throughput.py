"""Jobs a second and CPU a job, with a server that answers at once: the program beside the bare loop, curl and wrk."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from tests.benchmarks.measure import median, spread
from tests.benchmarks.pictures import fill
from tests.benchmarks.server import serving
from tests.benchmarks.subjects import Bench, jobs_of
from tests.benchmarks.table import Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.benchmarks.measure import Usage

__all__ = ["in_turn", "throughput"]

SIZE_BYTES: Final = 20 * 1024
CURL_JOBS: Final = 60


def throughput(folder: Path, *, pairs: int, jobs: int) -> Result:
    """So many pairs in alternating order, each of as many jobs."""
    bench = Bench(folder)
    source, few = fill(folder / "files", jobs, SIZE_BYTES), fill(folder / "few", CURL_JOBS, SIZE_BYTES)
    one = fill(folder / "one", 1, SIZE_BYTES)
    with serving() as base_url:
        starts = in_turn(pairs, lambda: bench.program([one], base_url), lambda: bench.bare(one, base_url))
        runs = in_turn(pairs, lambda: bench.program([source], base_url), lambda: bench.bare(source, base_url))
        curls = [bench.curl(few, base_url) for _ in range(min(pairs, 3))]
        ceiling = bench.ceiling(base_url, SIZE_BYTES)
    for program, bare in runs:
        jobs_of(program, jobs)
        jobs_of(bare, jobs)
    for usage in curls:
        jobs_of(usage, CURL_JOBS)
    shutil.rmtree(source)
    result = Result(
        title=f"Throughput: {jobs:,} files of 20 KB, {pairs} pairs",
        columns=("", "jobs/s", "wall s", "CPU us/job", "the same, less start", "peak MiB"),
    )
    for name, turn in (("ingest run", 0), ("bare aiohttp loop", 1)):
        result.rows.append(_row(name, [pair[turn] for pair in runs], [pair[turn] for pair in starts], jobs))
    result.rows.append(_row("curl in a shell loop", curls, None, CURL_JOBS))
    result.rows.append(("wrk (the server's ceiling)", f"{ceiling:,.0f}", "", "", "", ""))
    result.figures = {
        "jobs": jobs,
        "pairs": [{"program": _raw(program), "bare": _raw(bare)} for program, bare in runs],
        "starts": [{"program": _raw(program), "bare": _raw(bare)} for program, bare in starts],
        "curl": [_raw(usage) for usage in curls],
        "ceiling_jobs_per_s": ceiling,
        "ratios": ratios(result, runs),
    }
    times = median([usage.wall_s / CURL_JOBS for usage in curls]) / median([p.wall_s / jobs for p, _ in runs])
    result.notes.append(f"ingest run is {times:.1f} times as fast as the shell loop")
    result.figures["times_curl"] = times
    return result


def in_turn(pairs: int, first: Callable[[], Usage], second: Callable[[], Usage]) -> list[tuple[Usage, Usage]]:
    """Pairs of (first, second), measured in alternating order: what else the machine does falls on both."""
    measured = []
    for number in range(pairs):
        if number % 2 == 0:
            one = first()
            measured.append((one, second()))
        else:
            other = second()
            measured.append((first(), other))
    return measured


def ratios(result: Result, runs: list[tuple[Usage, Usage]]) -> dict[str, list[float]]:
    """Program over bare, pair by pair; also as a note."""
    found = {
        "cpu": [program.cpu_s / bare.cpu_s for program, bare in runs],
        "wall": [program.wall_s / bare.wall_s for program, bare in runs],
    }
    for name, values in found.items():
        result.notes.append(f"{name}, program over bare, median of pairs: {spread(values)}")
    return found


def _row(name: str, usages: list[Usage], starts: list[Usage] | None, jobs: int) -> tuple[str, ...]:
    wall_s, cpu_s = median([usage.wall_s for usage in usages]), median([usage.cpu_s for usage in usages])
    less_start = ""
    if starts is not None:
        less_start = f"{(cpu_s - median([usage.cpu_s for usage in starts])) / (jobs - 1) * 1e6:,.0f}"
    return (
        name,
        f"{jobs / wall_s:,.0f}",
        f"{wall_s:.2f}",
        f"{cpu_s / jobs * 1e6:,.0f}",
        less_start,
        f"{max(usage.peak_bytes for usage in usages) / 2**20:.0f}",
    )


def _raw(usage: Usage) -> dict[str, object]:
    return {name: value for name, value in asdict(usage).items() if name != "stdout"}
