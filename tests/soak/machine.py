"""What a soak does to the machine: a small disk that fills up, and a wall clock that jumps.

Both need what not every machine gives (mounting; libfaketime): each is tried before it is relied on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Clock", "SmallDisk", "can_mount", "faketime_library"]

DISK_BYTES: Final = 8 * 1024 * 1024
"""Twice the log that SQLite lets grow before it is taken in."""

LIBRARIES: Final = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime", "/usr/lib64/faketime")

STEP_S: Final = 3600

PROBE: Final = f"""
import asyncio, os, time, uvloop
async def main():
    wall, steady = time.time(), time.monotonic()
    open(os.environ["FAKETIME_TIMESTAMP_FILE"], "w").write("+{STEP_S}")
    await asyncio.sleep(0.05)
    assert abs(time.time() - wall - {STEP_S}) < 60
    assert time.monotonic() - steady < 60
uvloop.run(main())
"""


class SmallDisk:
    """A disk of a few MiB, in memory, that can be filled to the last byte."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Mount it, and take it away again."""
        self.place.mkdir()
        _mount(self.place)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", self.place], check=False)

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (65536, 4096, 512):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def make_room(self) -> None:
        """Take the ballast away."""
        self._ballast.unlink(missing_ok=True)

    @property
    def is_full(self) -> bool:
        """Whether the ballast lies there."""
        return self._ballast.exists()


class Clock:
    """The wall clock of one process; the steady one goes on as it did."""

    def __init__(self, library: Path, told: Path) -> None:
        self._library = library
        self._told = told
        self.step(0)

    @property
    def env(self) -> dict[str, str]:
        """What gives it to a process."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._told),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # files keep their stamps when a clock is set
        }

    @staticmethod
    def tidy_after(pid: int) -> None:
        """Remove the shared memory of a process that could not do so itself, as it was killed."""
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            Path("/dev/shm", name).unlink(missing_ok=True)

    def step(self, offset_s: int) -> None:
        """Set it, relative to the true time. In one step: a process reads this at any moment."""
        beside = self._told.with_suffix(".coming")
        beside.write_text(f"{offset_s:+d}\n")
        beside.replace(self._told)


def can_mount(place: Path) -> str | None:
    """None where a small disk can be mounted, else why not."""
    if os.geteuid():
        return "mounting needs root"
    place.mkdir()
    try:
        _mount(place)
        subprocess.run(["umount", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"mounting failed ({getattr(error, 'returncode', None) or errno.errorcode.get(error.errno or 0, error)})"
    finally:
        place.rmdir()
    return None


def faketime_library(scratch: Path) -> Path | str:
    """The library that fakes the time, tried with this Python and uvloop; else why there is none."""
    found = [path for place in LIBRARIES for path in Path("/").glob(f"{place[1:]}/libfaketimeMT.so.1")]
    if not found:
        return "libfaketime is not installed (Debian: apt-get install faketime)"
    clock = Clock(found[0], scratch / "probe")
    tried = subprocess.run(
        [sys.executable, "-c", PROBE], env={**os.environ, **clock.env}, capture_output=True, timeout=60, check=False
    )
    return found[0] if tried.returncode == 0 else f"libfaketime does not work here (exit {tried.returncode})"


def _mount(place: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "soak", place]
    subprocess.run(command, check=True, capture_output=True)
