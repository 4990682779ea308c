"""`ingest serve` on directories, by the real command: each file once, none half-written, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import CommandLine, Served, Started

SERVE = ("--pack", "P", "--create-pack", "--settle-delay", "1s", "--json", "--metrics-port", "0")
QUICK = (*SERVE, "--settle-files", "500ms")

POLLING = """
import watchfiles._rust_notify

def none(*_):
    raise OSError("OS file watch limit reached.")

watchfiles._rust_notify.RustNotify = none
"""
# What it says when all of inotify's watches are used up.


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def polling(tmp_path: Path) -> dict[str, str]:
    """An environment in which no watcher can be started."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(POLLING)
    return {"PYTHONPATH": str(hook)}


def content(number: int, side: int = 24) -> bytes:
    """A bitmap-like picture that no other number has; some KB, so that half of it is a good beginning."""
    import io

    image = Image.frombytes("RGB", (side, side), random.Random(number).randbytes(side * side * 3))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def held(sandbox: Served) -> Counter[str]:
    packs = [pack for pack in sandbox.ledger()["packs"] if pack["name"] == "P"]
    return Counter(image["sha256"] for pack in packs for image in pack["images"])


def wait_until(is_true: Callable[[], bool]) -> None:
    """The test's own timeout bounds it."""
    while not is_true():
        time.sleep(0.05)


@contextmanager
def served(ingest: CommandLine, *folders: Path, options: tuple[str, ...] = QUICK, **more: Any) -> Iterator[Started]:
    with ingest.start("serve", *folders, *options, **more) as serving:
        yield serving


def ended(serving: Started, number: signal.Signals = signal.SIGTERM) -> dict[str, Any]:
    """What it says at its end: exit 0, with counts that add up."""
    serving.signal(number)
    done = serving.finish()
    assert done.code == 0, done
    told: dict[str, Any] = done.json
    assert told["error"] is None
    assert told["discovered"] == sum(told[part] for part in ("added", "duplicate", "rejected", "failed", "pending"))
    assert "Traceback" not in done.err, done
    return told


def port_of(serving: Started) -> int:
    line = serving.wait_for_line("metrics.served")
    return int(re.findall(r'"port": ?(\d+)', line)[0])


def copy_slowly(path: Path, data: bytes) -> Iterator[None]:
    """Write in chunks; each `next` is one."""
    with path.open("wb") as file:
        for at in range(0, len(data), max(1, len(data) // 4)):
            file.write(data[at : at + max(1, len(data) // 4)])
            file.flush()
            yield


def drop_500(inbox: Path) -> dict[str, bytes]:
    """Files copied in slowly, renamed in, and rewritten while they are copied; what they hold in the end, by name."""
    final: dict[str, bytes] = {}
    staging = inbox.parent / "staging"
    staging.mkdir()
    for batch in range(10):
        writers = []
        for number in range(batch * 50, batch * 50 + 50):
            folder = inbox / f"{batch % 3}"
            folder.mkdir(exist_ok=True)
            path, data = folder / f"{number}.png", content(number)
            final[path.name] = data
            match number % 4:
                case 0:
                    writers.append(copy_slowly(path, data))
                case 1:
                    (staging / path.name).write_bytes(data)
                    (staging / path.name).rename(path)
                case 2:
                    (folder / f".{number}.png.part").write_bytes(data)
                    (folder / f".{number}.png.part").rename(path)
                case _:
                    # Another picture first, which is given up halfway for this one.
                    path.write_bytes(content(10_000 + number)[:300])
                    writers.append(copy_slowly(path, data))
        while writers:
            writers = [writer for writer in writers if next(writer, "ended") is None]
            time.sleep(0.05)  # the pace of the copies, and no wait for anything
    return final


@pytest.mark.parametrize("mode", ["events", "polling"])
def test_500_files_come_in_slowly_each_once_and_none_half_written(
    ingest: CommandLine, sandbox: Served, inbox: Path, polling: dict[str, str], mode: str
) -> None:
    env = polling if mode == "polling" else None
    with served(ingest, inbox, env=env) as serving:
        if mode == "polling":
            assert "fs.inotify.max_user_watches" in serving.wait_for_line("watch.unavailable")
        final = drop_500(inbox)
        wanted = {sha(data) for data in final.values()}
        wait_until(lambda: len(held(sandbox)) >= 500)
        told = ended(serving)

    assert held(sandbox) == Counter(dict.fromkeys(wanted, 1))
    assert (told["discovered"], told["added"]) == (500, 500)


def test_what_is_there_at_the_start_and_what_comes_during_the_scan(
    ingest: CommandLine, sandbox: Served, inbox: Path
) -> None:
    """5,000 names of 50 pictures: what counts here is the looking."""
    pictures = [content(number) for number in range(50)]
    for number in range(5000):
        path = inbox / f"{number % 10}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures[number % 50])
    late = {f"late-{number}.png": content(20_000 + number) for number in range(40)}
    with served(ingest, inbox) as serving:
        port = port_of(serving)
        for name, data in late.items():
            (inbox / f"{len(name) % 10}" / name).write_bytes(data)
        wait_until(lambda: metric(port, "ingest_jobs_discovered_total") >= 5040 and not backlog(port))
        told = ended(serving)

    assert held(sandbox) == Counter({sha(data): 1 for data in [*pictures, *late.values()]})
    assert (told["discovered"], told["added"], told["duplicate"]) == (5040, 90, 4950)


def test_new_directories_that_are_filled_at_once(ingest: CommandLine, sandbox: Served, inbox: Path) -> None:
    """They are made and filled before anybody can watch them."""
    with served(ingest, inbox) as serving:
        port_of(serving)
        (inbox / "first.png").write_bytes(content(2000))
        wait_until(lambda: len(held(sandbox)) == 1)  # it watches
        made = {sha(content(2000))}
        for number in range(60):
            folder = inbox / f"{number}" / "a" / "b"
            folder.mkdir(parents=True)
            for depth, place in enumerate((folder, folder.parent, folder.parent.parent)):
                data = content(number * 3 + depth)
                (place / f"{depth}.png").write_bytes(data)
                made.add(sha(data))
        outside = inbox.parent / "outside" / "c"
        outside.mkdir(parents=True)
        (outside / "moved.png").write_bytes(content(1000))
        made.add(sha(content(1000)))
        outside.parent.rename(inbox / "moved-in")
        wait_until(lambda: len(held(sandbox)) >= len(made))
        told = ended(serving)

    assert held(sandbox) == Counter(dict.fromkeys(made, 1))
    assert told["discovered"] == told["added"] == len(made)


def test_changed_bytes_are_added_and_unchanged_ones_are_not_counted_again(
    ingest: CommandLine, sandbox: Served, inbox: Path, polling: dict[str, str]
) -> None:
    (inbox / "a.png").write_bytes(content(1))
    (inbox / "broken.jpg").write_bytes(b"no image")
    with served(ingest, inbox, env=polling) as serving:
        port = port_of(serving)
        wait_until(lambda: len(held(sandbox)) == 1)
        (inbox / "a.png").write_bytes(content(2))
        wait_until(lambda: len(held(sandbox)) == 2)
        # A look over everything has met the others by now: twice, after one more.
        (inbox / "b.png").write_bytes(content(3))
        wait_until(lambda: len(held(sandbox)) == 3)
        assert metric(port, 'ingest_jobs_total{outcome="rejected"}') == 1
        told = ended(serving)

    assert (told["discovered"], told["added"], told["rejected"], told["duplicate"]) == (4, 3, 1, 0)

    with served(ingest, inbox, env=polling) as serving:
        port = port_of(serving)
        wait_until(lambda: metric(port, "ingest_jobs_discovered_total") == 3)
        wait_until(lambda: not backlog(port))
        told = ended(serving, signal.SIGINT)
    assert (told["added"], told["duplicate"], told["unchanged"], told["rejected"]) == (0, 2, 2, 1)


def test_killed_in_the_middle_and_started_again(ingest: CommandLine, sandbox: Served, inbox: Path) -> None:
    sandbox.fail({"operation": "add_image", "kind": "cut_after", "probability": 0.1})
    made = {}
    for number in range(120):
        made[sha(content(number))] = (inbox / f"{number}.png").write_bytes(content(number))
    for killed_at in (20, 60):
        with served(ingest, inbox) as serving:
            wait_until(lambda: sandbox.ledger()["effects"].get("add_image", 0) >= killed_at)  # noqa: B023
            serving.signal(signal.SIGKILL)
            assert serving.finish().code == -signal.SIGKILL
    with served(ingest, inbox) as serving:
        wait_until(lambda: len(held(sandbox)) >= 120)
        # Debts of the dead are paid while it serves.
        port = port_of(serving)
        wait_until(lambda: not backlog(port))
        told = ended(serving)

    assert held(sandbox) == Counter(dict.fromkeys(made, 1))
    assert told["failed"] == told["rejected"] == told["pending"] == 0


def test_a_signal_drains_and_a_second_one_does_not(ingest: CommandLine, sandbox: Served, inbox: Path) -> None:
    sandbox.fail({"operation": "put", "kind": "slow", "delay_s": [1.0, 1.0]})
    for number in range(40):
        (inbox / f"{number}.png").write_bytes(content(number))
    with served(ingest, inbox, options=(*QUICK, "--concurrency", "2")) as serving:
        port = port_of(serving)
        wait_until(lambda: metric(port, 'ingest_lane_requests_in_flight{lane="storage"}') >= 2)
        assert ready(port) == 200
        serving.signal(signal.SIGTERM)
        serving.wait_for_line("run.interrupted")
        assert ready(port) == 503
        done = serving.finish()
    assert done.code == 0, done
    assert done.json["added"] >= 2
    assert done.json["pending"] + done.json["added"] == done.json["discovered"]
    assert len(held(sandbox)) == done.json["added"]

    with served(ingest, inbox, options=(*QUICK, "--concurrency", "2")) as serving:
        port = port_of(serving)
        wait_until(lambda: metric(port, 'ingest_lane_requests_in_flight{lane="storage"}') >= 2)
        serving.signal(signal.SIGTERM)
        serving.wait_for_line("run.interrupted")
        serving.signal(signal.SIGTERM)
        done = serving.finish()
    assert done.code == 143, done
    assert done.json["error"]["code"] == "sigterm"


def test_a_directory_that_is_away_for_a_while(ingest: CommandLine, sandbox: Served, inbox: Path) -> None:
    away = inbox.parent / "away"
    for number in range(30):
        (inbox / f"{number}.png").write_bytes(content(number))
    sandbox.fail({"operation": "upload_file", "kind": "slow", "delay_s": [0.2, 0.2]})
    with served(ingest, inbox, options=(*QUICK, "--concurrency", "1")) as serving:
        wait_until(lambda: len(held(sandbox)) >= 3)
        inbox.rename(away)
        serving.wait_for_line("directory.lost")
        (away / "new.png").write_bytes(content(100))
        sandbox.fail()
        away.rename(inbox)
        serving.wait_for_line("directory.found")
        wait_until(lambda: len(held(sandbox)) >= 31)
        (inbox / "later.png").write_bytes(content(101))  # and it is watched again
        wait_until(lambda: len(held(sandbox)) >= 32)
        told = ended(serving)

    assert set(held(sandbox).values()) == {1}
    assert (told["added"], told["discovered"], told["failed"], told["rejected"]) == (32, 32, 0, 0)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount")
def test_a_directory_that_is_unmounted_and_mounted_again(ingest: CommandLine, sandbox: Served, inbox: Path) -> None:
    behind = inbox.parent / "behind"
    behind.mkdir()
    mount = ["mount", "--bind", str(behind), str(inbox)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        for number in range(20):
            (inbox / f"{number}.png").write_bytes(content(number))
        sandbox.fail({"operation": "upload_file", "kind": "slow", "delay_s": [0.2, 0.2]})
        with served(ingest, inbox, options=(*QUICK, "--concurrency", "1")) as serving:
            wait_until(lambda: len(held(sandbox)) >= 3)
            subprocess.run(["umount", "-l", str(inbox)], check=True)
            serving.wait_for_line("directory.replaced")
            sandbox.fail()
            subprocess.run(mount, check=True)
            serving.wait_for_line("directory.replaced")
            (inbox / "new.png").write_bytes(content(100))
            wait_until(lambda: len(held(sandbox)) >= 21)
            told = ended(serving)
    finally:
        subprocess.run(["umount", "-l", str(inbox)], check=False)

    assert set(held(sandbox).values()) == {1}
    assert (told["added"], told["failed"], told["rejected"]) == (21, 0, 0)


def test_several_directories_at_once(ingest: CommandLine, sandbox: Served, tmp_path: Path) -> None:
    """While one has much, another is not kept waiting for its end."""
    much, little = tmp_path / "much", tmp_path / "little"
    much.mkdir()
    little.mkdir()
    for number in range(600):
        (much / f"{number:03}.png").write_bytes(content(number))
    (little / "one.png").write_bytes(content(5000))
    sandbox.fail({"operation": "put", "kind": "slow", "delay_s": [0.1, 0.1]})
    with served(ingest, much, little, options=(*QUICK, "--concurrency", "4")) as serving:
        wait_until(lambda: sha(content(5000)) in held(sandbox))
        before = sum(held(sandbox).values())
        sandbox.fail()
        wait_until(lambda: len(held(sandbox)) >= 601)
        told = ended(serving)
    assert before < 400
    assert (told["discovered"], told["added"]) == (601, 601)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), "usage"),
        (("FILE",), "unsupported_source"),
        (("NOWHERE",), "no_such_source"),
        (("INBOX", "--settle-files", "soon"), "bad_value"),
        (("INBOX", "--metrics-port", "none"), "bad_value"),
    ],
)
def test_what_it_refuses(
    ingest: CommandLine, sandbox: Served, inbox: Path, arguments: tuple[str, ...], code: str
) -> None:
    (inbox / "a.png").write_bytes(content(1))
    named = {"FILE": str(inbox / "a.png"), "INBOX": str(inbox), "NOWHERE": str(inbox / "nowhere")}
    done = ingest("serve", *(named.get(argument, argument) for argument in arguments), "--pack", "P", "--json")
    assert (done.code, done.json["error"]["code"]) == (2, code), done
    assert sandbox.ledger()["packs"] == []


def metric(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
    raise AssertionError(f"there is no {name}")


def backlog(port: int) -> float:
    return metric(port, "ingest_backlog_jobs")


def ready(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
