"""Megabytes a second and CPU a megabyte for files of four sizes, beside the bare loop."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from tests.benchmarks.measure import median, spread
from tests.benchmarks.pictures import fill
from tests.benchmarks.server import serving
from tests.benchmarks.subjects import Bench, jobs_of
from tests.benchmarks.table import Result
from tests.benchmarks.throughput import in_turn

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["sizes"]

KB: Final = 1024
FILES: Final = (
    ("20 KB", 20 * KB, 3000),
    ("200 KB", 200 * KB, 1000),
    ("5 MB", 5 * KB**2, 60),
    ("100 MB", 100 * KB**2, 5),
)

MB: Final = 1e6


def sizes(folder: Path, *, pairs: int) -> Result:
    """So many pairs of each size."""
    bench = Bench(folder)
    result = Result(
        title=f"Bytes, {pairs} pairs of each size",
        columns=(
            "files",
            "program MB/s",
            "bare MB/s",
            "program CPU ms/MB",
            "bare",
            "wall ratio",
            "CPU ratio",
            "peak MiB",
        ),
        notes=["CPU and wall include the start of each process; the bare loop holds whole files in memory."],
    )
    with serving() as base_url:
        for name, size_bytes, count in FILES:
            source = fill(folder / name.replace(" ", ""), count, size_bytes)
            runs = in_turn(
                pairs,
                lambda source=source: bench.program([source], base_url, options=["--max-bytes", "200MiB"]),  # type: ignore[misc]
                lambda source=source: bench.bare(source, base_url),  # type: ignore[misc]
            )
            shutil.rmtree(source)
            for program, bare in runs:
                jobs_of(program, count)
                jobs_of(bare, count)
            megabytes = count * size_bytes / MB
            program_s, bare_s = (median([pair[turn].wall_s for pair in runs]) for turn in (0, 1))
            program_cpu_s, bare_cpu_s = (median([pair[turn].cpu_s for pair in runs]) for turn in (0, 1))
            peak_bytes = max(program.peak_bytes for program, _ in runs)
            wall = [program.wall_s / bare.wall_s for program, bare in runs]
            cpu = [program.cpu_s / bare.cpu_s for program, bare in runs]
            result.rows.append(
                (
                    f"{count} of {name}",
                    f"{megabytes / program_s:,.0f}",
                    f"{megabytes / bare_s:,.0f}",
                    f"{program_cpu_s / megabytes * 1e3:.2f}",
                    f"{bare_cpu_s / megabytes * 1e3:.2f}",
                    spread(wall),
                    spread(cpu),
                    f"{peak_bytes / 2**20:.0f}",
                )
            )
            result.figures[name] = {
                "count": count,
                "program_mb_per_s": megabytes / program_s,
                "bare_mb_per_s": megabytes / bare_s,
                "program_cpu_s_per_mb": program_cpu_s / megabytes,
                "bare_cpu_s_per_mb": bare_cpu_s / megabytes,
                "ratios": {"wall": wall, "cpu": cpu},
                "peak_bytes": peak_bytes,
            }
    return result
