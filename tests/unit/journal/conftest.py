"""Disks that are small, full or read-only."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own: eight MiB, more than a log grows to before its checkpoint; skips where none can be."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True, capture_output=True, timeout=10
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can't be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True, timeout=10)


class Closable:
    """A directory that becomes unwritable: by its mode, or for root, whom no mode stops, by its mount."""

    def __init__(self, place: Path, close: Callable[[], object]) -> None:
        self.place = place
        self._close = close

    def __call__(self) -> Path:
        self._close()
        return self.place


@pytest.fixture
def make_unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Closable]:
    if os.geteuid() == 0:
        disk: Path = request.getfixturevalue("small_disk")
        command = ["mount", "-o", "remount,ro", str(disk)]
        yield Closable(disk, lambda: subprocess.run(command, check=True, capture_output=True, timeout=10))
        return
    place = tmp_path / "closed"
    place.mkdir()
    yield Closable(place, lambda: place.chmod(0o500))
    place.chmod(0o700)
