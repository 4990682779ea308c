"""One child process and what it used; and what many of them say together.

Time and memory are the operating system's word: `wait4` for the CPU of the child and of what it waited for itself,
`VmHWM` for the peak of its own memory.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["ROOT", "Usage", "child", "median", "spread"]

ROOT: Final = Path(__file__).resolve().parents[2]

LOOK_S: Final = 0.02
# The peak is the kernel's, so a look can only miss what was reached since the one before.

TIMEOUT_S: Final = 1800.0
# What takes longer hangs, and is killed.


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one process took: seconds of wall time and of CPU (user and system), and its peak memory."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    stdout: str


def child(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, may_exit: Iterable[int] = (0,)
) -> Usage:
    """Run one command from the repository's root to its end; its stderr goes to `log`."""
    with log.open("wb") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL
        )
        peak = _Peak(process.pid)
        hanging = threading.Timer(TIMEOUT_S, process.kill)
        hanging.start()
        try:
            assert process.stdout is not None
            out = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            wall_s = time.perf_counter() - began
        finally:
            hanging.cancel()
            process.kill()  # does nothing once it has a return code
            peak.stop()
    process.stdout.close()
    if process.returncode not in may_exit:
        told = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{out.decode()}\n{told}")
    return Usage(
        wall_s=wall_s, cpu_s=used.ru_utime + used.ru_stime, peak_bytes=peak.bytes, stdout=out.decode("utf-8", "replace")
    )


class _Peak:
    """Looks at a process's peak memory until it ends. `ru_maxrss` would count what its parent had at the fork."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            with contextlib.suppress(OSError):
                for line in self._status.read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self.bytes = max(self.bytes, int(line.split()[1]) * 1024)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Median, and from the least to the most: `1.24 (1.18-1.31)`."""
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
