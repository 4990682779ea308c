"""Who is measured: the program itself, the bare loop, a loop with curl, and wrk; each as a process of its own.

Checks that each did all of its jobs, and nothing more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.benchmarks.measure import ROOT, Usage, child
from tests.benchmarks.pictures import picture
from tests.benchmarks.server import INSTALL, KEY, PACK, Missing, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Bench", "jobs_of"]

WRK_S: Final = 5

WRK_SCRIPT: Final = """\
local headers = {{["Content-Type"] = "application/json", ["Authorization"] = "Bearer {key}"}}
local file = io.open("{body}", "rb"):read("*a")
local requests = {{}}
function init()
    requests = {{
        wrk.format("POST", "/api/files", headers, '{{"contentType":"image/jpeg","filename":"a.jpg","size":20480}}'),
        wrk.format("PUT", "/storage/a.jpg?signature=x", {{["Content-Type"] = "image/jpeg"}}, file),
        wrk.format("POST", "/api/packs/{pack}/images", headers,
            '{{"image_url":"https://cdn.example.com/a.jpg","file_name":"a.jpg"}}'),
    }}
end
local turn = 0
function request()
    turn = turn % 3 + 1
    return requests[turn]
end
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the subjects work: a folder on a real disk, for journals and logs."""

    folder: Path

    def program(
        self, sources: Sequence[Path], base_url: str, *, journal: Path | None = None, options: Sequence[str] = ()
    ) -> Usage:
        """`ingest run` with everything on; with a fresh journal unless one is given."""
        journal = journal or self._fresh_journal()
        command = [
            *(sys.executable, "-m", "ingest", "run", *map(str, sources), "--pack", PACK, "--json"),
            *("--journal", str(journal), "--metrics-port", str(free_port())),
            *("--log-format", "json", "--log-level", "info", *options),
        ]
        environment = self._environment() | {"GENVIRAL_API_KEY": KEY, "GENVIRAL_BASE_URL": base_url}
        return child(command, environment=environment, log=self.folder / "program.log")

    def layer(self, layer: str, source: Path, base_url: str) -> Usage:
        """One of `layers`, and what lies below it."""
        command = [
            *(sys.executable, "-m", "tests.benchmarks.layers", layer, str(source), base_url),
            *("--key", KEY, "--pack", PACK),
            *(("--journal", str(self._fresh_journal())) if layer == "journal" else ()),
        ]
        return child(command, environment=self._environment(), log=self.folder / "layer.log")

    def bare(self, source: Path, base_url: str, *, concurrency: int = 64) -> Usage:
        """The bare loop."""
        command = [
            *(sys.executable, "-m", "tests.benchmarks.bare", str(source), base_url),
            *("--key", KEY, "--pack", PACK, "--concurrency", str(concurrency)),
        ]
        return child(command, environment=self._environment(), log=self.folder / "bare.log")

    def curl(self, source: Path, base_url: str) -> Usage:
        """The shell loop."""
        if shutil.which("curl") is None:
            raise Missing("Install curl: apt-get install curl")
        script = ROOT / "tests/benchmarks/curl_loop.sh"
        command = ["bash", str(script), str(source), base_url, KEY, PACK]
        return child(command, environment=self._environment(), log=self.folder / "curl.log")

    def ceiling(self, base_url: str, size_bytes: int, *, connections: int = 64) -> float:
        """Jobs a second that the server would take from wrk: a third of its requests."""
        wrk = shutil.which("wrk")
        if wrk is None:
            raise Missing(INSTALL)
        body, script = self.folder / "wrk.jpg", self.folder / "wrk.lua"
        body.write_bytes(picture(size_bytes))
        script.write_text(WRK_SCRIPT.format(key=KEY, pack=PACK, body=body))
        origin = base_url.removesuffix("/api")
        told = subprocess.run(
            [wrk, "-t", "1", "-c", str(connections), "-d", f"{WRK_S}s", "-s", script, f"{origin}/api"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10 * WRK_S,
        ).stdout
        found = re.search(r"Requests/sec:\s+([\d.]+)", told)
        if found is None or "Non-2xx" in told or "Socket errors" in told:
            raise RuntimeError(f"wrk says:\n{told}")
        return float(found[1]) / 3

    def _fresh_journal(self) -> Path:
        journal = self.folder / "journal.db"
        for ending in ("", "-wal", "-shm", ".lock"):
            journal.with_name(journal.name + ending).unlink(missing_ok=True)
        return journal

    def _environment(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("INGEST_", "GENVIRAL_"))}
        # No file of the user's own settings, and no proxy, between a subject and the server.
        return {
            **{name: value for name, value in kept.items() if not name.lower().endswith("_proxy")},
            "XDG_CONFIG_HOME": str(self.folder),
        }


def jobs_of(usage: Usage, expected: int, *, as_outcome: str = "added") -> Mapping[str, float]:
    """The subject's own summary, once it says that it did what it was given."""
    summary = json.loads(usage.stdout)
    if summary[as_outcome] != expected:
        raise RuntimeError(f"{expected} jobs were expected: {usage.stdout}")
    return summary  # type: ignore[no-any-return]
