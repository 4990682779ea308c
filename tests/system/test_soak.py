"""The soak is sound: a short round of it comes to its end, and what is lost or doubled behind its back is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and mounts where it may")


def soak(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.soak", *args]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, err = process.communicate(timeout=45)
        finally:
            process.terminate()  # not killed: it has a sandbox to end, and maybe a disk to unmount
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_a_tiny_round_finds_nothing_wrong(tmp_path: Path) -> None:
    done = soak("--tiny", "--rounds", "1", "--seed", "2", "--folder", tmp_path)

    assert done.returncode == 0, done
    assert "lost 0, doubled 0" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_image_lost_and_one_doubled_are_found(tmp_path: Path) -> None:
    done = soak("--self-test", "--seed", "4", "--folder", tmp_path)

    assert done.returncode == 0, done
    assert "lost 1, doubled 1" in done.stdout
