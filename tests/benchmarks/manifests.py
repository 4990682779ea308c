"""What must not grow with a manifest: memory, from its first line to its millionth.

Two ways: a pass over the rows alone, most of them URLs, of which nothing is kept; and a run over a manifest of files
that are all added, where each row passes the journal's admission.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

from ingest.policy.lifecycle import State
from tests.benchmarks.bounds import link, seen
from tests.benchmarks.journals import write_journal
from tests.benchmarks.measure import Usage, child
from tests.benchmarks.server import serving
from tests.benchmarks.subjects import Bench, jobs_of
from tests.benchmarks.table import Result

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["manifests"]

BAD_EVERY = 1000


def manifests(folder: Path, *, jobs: int) -> Result:
    """Peak memory and times of a short manifest, and of one with so many rows."""
    result = Result(
        title=f"Manifests: {jobs:,} rows, beside a hundredth of them", columns=("", "seconds", "CPU s", "peak MiB")
    )

    def told(name: str, usage: Usage) -> None:
        result.rows.append((name, f"{usage.wall_s:.2f}", f"{usage.cpu_s:.2f}", f"{usage.peak_bytes / 2**20:.0f}"))
        result.figures[name] = {"seconds": usage.wall_s, "cpu_s": usage.cpu_s, "peak_bytes": usage.peak_bytes}

    for count in (jobs // 100, jobs):
        for name, has_ids in (("list.jsonl", False), ("ids.jsonl", True), ("list.csv", False), ("list.txt", False)):
            path = folder / name
            refused = _write(path, count, has_ids=has_ids)
            usage = child(
                [sys.executable, "-m", "tests.benchmarks.reading", str(path)],
                environment=os.environ,
                log=folder / "reading.log",
            )
            if usage.stdout.split() != [str(count - refused), str(refused)]:
                raise RuntimeError(f"{name} of {count} rows gave {usage.stdout}")
            told(f"read {count:,} rows, {name}", usage)
            path.unlink()
    files = link(folder / "files", jobs)
    with serving() as base_url:
        write_journal(folder / "added.db", base_url, seen(files), state=State.ADDED)
        for count in (jobs // 100, jobs):
            path = folder / "files.txt"
            names = sorted(os.listdir(files))[:count]
            path.write_text("".join(f"files/{name}\n" for name in names if not name.startswith(".")))
            usage = Bench(folder).program([path], base_url, journal=folder / "added.db")
            jobs_of(usage, count, as_outcome="unchanged")
            told(f"run a manifest of {count:,} files, all added", usage)
    shutil.rmtree(files)
    result.notes.append(f"one row in {BAD_EVERY} is none; URLs of some 60 characters; nothing is sent for them")
    return result


def _write(path: Path, count: int, *, has_ids: bool) -> int:
    """A manifest of so many rows; how many of them are none."""
    bad = 0
    with path.open("wb") as file:
        if path.suffix == ".csv":
            file.write(b"image,pack,title\n")
        for number in range(count):
            url = f"https://images.example.com/collection/{number // 1000}/picture-{number:07}.jpg"
            if number % BAD_EVERY == 1:
                bad += 1
                file.write(b"\xff\n")
            elif path.suffix == ".jsonl":
                row = {"image": url, "id": f"picture {number}"} if has_ids else {"image": url}
                file.write(json.dumps(row).encode() + b"\n")
            elif path.suffix == ".csv":
                file.write(f'{url},Holiday,"picture, {number}"\n'.encode())
            else:
                file.write(url.encode() + b"\n")
    return bad
