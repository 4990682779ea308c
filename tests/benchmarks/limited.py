"""The program against the sandbox with a limit of 100 requests a second: how much it used, how often it ran into it.

*Allowed* is the bucket's burst and what flowed in from the run's beginning to its end, less the time in which an obeyed
`Retry-After` let nothing start. The start of the program and its last look count as time like any other.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.measure import ROOT, Usage, child
from tests.benchmarks.pictures import fill
from tests.benchmarks.server import free_port
from tests.benchmarks.table import Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["limited"]

SIZE_BYTES: Final = 2048
RATE: Final = 100.0
BURST: Final = 10
LOOK_S: Final = 0.25
# Between two looks at what the program tells of its pauses: what comes after the last of them is not taken off.


class _Pauses:
    """Looks at the program's metrics until it ends: seconds for which the API lane obeyed a `Retry-After`."""

    NAME: Final = 'ingest_lane_paused_seconds_total{lane="api",reason="retry_after"}'

    def __init__(self, port: int) -> None:
        self.seconds = 0.0
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Pauses:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                with urllib.request.urlopen(self._url, timeout=5) as answer:
                    told = answer.read().decode()
            except OSError:
                continue  # not served yet, or not any more
            self.seconds = max(
                [self.seconds, *(float(line.rpartition(" ")[2]) for line in told.splitlines() if self.NAME in line)]
            )


def limited(folder: Path, *, jobs: int) -> Result:
    """One run without `Retry-After` and one with it, from a cold start each."""
    source = fill(folder / "files", jobs, SIZE_BYTES)
    result = Result(
        title=f"The sandbox with {RATE:.0f} requests/s, burst {BURST}: {jobs:,} images",
        columns=("", "seconds", "goodput", "refused", "paused s"),
    )
    for name, is_told in (("429 alone", False), ("429 with Retry-After", True)):
        with _sandbox(folder, retry_after=is_told) as (url, environment):
            port = free_port()
            with _Pauses(port) as pauses:
                usage = _run(source, folder, environment, port)
            with urllib.request.urlopen(f"{url}/sandbox/ledger", timeout=30) as answer:
                ledger = json.loads(answer.read())
        summary = json.loads(usage.stdout)
        (pack,) = ledger["packs"]
        if not len(pack["images"]) == summary["added"] == jobs:
            raise RuntimeError(f"{jobs} images were expected: {usage.stdout}")
        refused = ledger["limited"]["api"]
        asked = sum(sum(answers.values()) for operation, answers in ledger["requests"].items() if operation != "put")
        paused_s = pauses.seconds if is_told else 0.0
        goodput = (asked - refused) / (BURST + RATE * (summary["duration_s"] - paused_s))
        result.rows.append(
            (name, f"{summary['duration_s']:.1f}", f"{goodput:.3f}", f"{refused / asked:.2%}", f"{paused_s:.1f}")
        )
        result.figures[name] = {
            "goodput": goodput,
            "refused": refused / asked,
            "paused_s": paused_s,
            "summary": summary,
        }
    shutil.rmtree(source)
    return result


def _run(source: Path, folder: Path, environment: Mapping[str, str], port: int) -> Usage:
    journal = folder / "limited.db"
    for ending in ("", "-wal", "-shm", ".lock"):
        journal.with_name(journal.name + ending).unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "ingest", "run", str(source), "--pack", "Limited", "--create-pack", "--json"),
        *("--journal", str(journal), "--metrics-port", str(port)),
    ]
    return child(command, environment=environment, log=folder / "limited.log")


@contextmanager
def _sandbox(folder: Path, *, retry_after: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """A sandbox of its own: its address, and the environment that leads the program there."""
    plan = folder / "limit.toml"
    limit: dict[str, Any] = {"lane": "api", "kind": "token_bucket", "rate": RATE, "burst": BURST}
    lines = [f"{name} = {json.dumps(value)}" for name, value in {**limit, "retry_after": retry_after}.items()]
    plan.write_text("\n".join(["[[limit]]", *lines, ""]))
    environment = {"XDG_CONFIG_HOME": str(folder), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "ingest", "sandbox", "--faults", str(plan)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"export (\w+)=(\S+)", line):
                environment[found[1]] = found[2]
            if "GENVIRAL_API_KEY" in environment and "GENVIRAL_BASE_URL" in environment:
                break
        yield environment["GENVIRAL_BASE_URL"].partition("/api/")[0], environment
    finally:
        process.terminate()
        process.wait(30)
