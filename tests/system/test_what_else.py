"""What else can go wrong around a run, as its user sees it: files, disks, clocks, and servers that are no servers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socketserver
import ssl
import subprocess
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme

from ingest import assemble, run
from ingest.api.deadlines import MAX_TICK_S
from ingest.pipeline.stop import Stop
from ingest.settings import ApiSettings, FlowSettings, RunSettings, Settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import CommandLine, Finished, Served

PACK = ("--pack", "P", "--create-pack")
SLOW_PUT = {"operation": "put", "kind": "slow", "delay_s": 0.5}


def wait_for_put(sandbox: Served) -> None:
    """Until the first bytes are being taken."""
    while not sandbox.ledger()["max_concurrency"]["storage"]:
        pass


def holds_each_once(sandbox: Served, count: int) -> None:
    held = Counter(image["sha256"] for image in sandbox.pack("P")["images"])
    assert len(held) == count
    assert set(held.values()) == {1}


def told(done: Finished) -> str:
    """What was said on stderr without logs, in one line."""
    assert "Traceback" not in done.err, done
    return " ".join(line for line in done.err.splitlines() if not line.startswith("{"))


# The journal's file.


def delete(journal: Path) -> None:
    for file in journal.parent.glob(f"{journal.name}*"):
        file.unlink()


def delete_the_log(journal: Path) -> None:
    journal.with_name(f"{journal.name}-wal").unlink()


def cut_the_log(journal: Path) -> None:
    log = journal.with_name(f"{journal.name}-wal")
    os.truncate(log, log.stat().st_size // 2)


def replace_by_another(journal: Path) -> None:
    another = journal.with_name("another")
    another.write_bytes(journal.read_bytes())
    another.replace(journal)


def move(journal: Path) -> None:
    journal.rename(journal.with_name("aside"))


@pytest.mark.parametrize("lose", [delete, delete_the_log, cut_the_log, replace_by_another, move])
def test_a_journal_that_is_lost_under_a_run_ends_it(
    ingest: CommandLine,
    sandbox: Served,
    pictures: Callable[..., Path],
    tmp_path: Path,
    lose: Callable[[Path], None],
) -> None:
    journal = tmp_path / "journals" / "j.db"
    command = ("run", pictures(20), *PACK, "--journal", journal, "--concurrency", "2", "--json")
    sandbox.fail(SLOW_PUT)
    with ingest.start(*command) as running:
        wait_for_put(sandbox)
        lose(journal)
        added = len(sandbox.urls("P"))
        done = running.finish()

    assert done.code == done.json["exit_code"] == 74, done
    assert done.json["error"]["code"] == "journal_gone"
    assert "was deleted, replaced or cut short while it was in use" in told(done)
    # Two may have been at their add, with their urls recorded; nothing is added whose url was not.
    assert len(sandbox.urls("P")) <= added + 2
    if lose is move:  # what is put back is as good as before
        journal.with_name("aside").rename(journal)
        sandbox.fail()
        assert ingest(*command, "--settle-delay", "0.1s").code == 0
        holds_each_once(sandbox, 20)


def empty(journal: Path) -> None:
    journal.write_bytes(b"")


def lose_the_log(journal: Path) -> None:
    for suffix in ("-wal", "-shm"):
        journal.with_name(journal.name + suffix).unlink()


def put_back_a_copy(journal: Path) -> None:
    lose_the_log(journal)
    journal.with_name("copy").replace(journal)


@pytest.mark.parametrize("lose", [empty, lose_the_log, put_back_a_copy])
def test_a_journal_that_has_lost_something_is_refused_until_a_person_says_otherwise(
    ingest: CommandLine,
    sandbox: Served,
    pictures: Callable[..., Path],
    tmp_path: Path,
    lose: Callable[[Path], None],
) -> None:
    journal = tmp_path / "journals" / "j.db"
    command = ("run", pictures(8), *PACK, "--journal", journal, "--settle-delay", "0.1s", "--json")
    assert ingest(*command, "--limit", "3").code == 0
    shutil.copy(journal, journal.with_name("copy"))
    # Killed with some added, and what was recorded of them in the log alone.
    sandbox.fail({"operation": "add_image", "kind": "slow", "after": 3, "delay_s": 30.0})
    with ingest.start(*command, "--concurrency", "2") as running:
        while len(sandbox.urls("P")) < 6:
            pass
        running.signal(signal.SIGKILL)
        running.finish()
    sandbox.fail()
    added = sandbox.urls("P")
    lose(journal)

    lock = journal.with_name("j.db.lock")
    for _ in range(2):
        done = ingest(*command)
        assert (done.code, done.json["error"]["code"]) == (2, "journal_older"), done
        assert "older than when it was last used" in told(done)
        assert str(lock) in told(done)
        assert ingest("verify", "--repair", "--journal", journal).code == 2
    assert sandbox.urls("P") == added

    lock.unlink()
    done = ingest(*command)
    assert done.code == 0, done
    assert done.json["added"] + done.json["duplicate"] == 8
    assert len({image["sha256"] for image in sandbox.pack("P")["images"]}) == 8


def test_a_journal_with_two_names_is_refused_by_each(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    journal, other = tmp_path / "j.db", tmp_path / "hard.db"
    command = ("run", pictures(4), *PACK, "--json")
    sandbox.fail(SLOW_PUT)
    with ingest.start(*command, "--journal", journal) as running:
        wait_for_put(sandbox)
        other.hardlink_to(journal)
        done = ingest(*command, "--journal", other)
        assert (done.code, done.json["error"]["code"]) == (2, "bad_journal_path"), done
        assert "2 names" in told(done)
        assert running.finish().code == 0
    assert ingest(*command, "--journal", journal).code == 2
    other.unlink()
    assert ingest(*command, "--journal", journal).code == 0
    holds_each_once(sandbox, 4)


# The images' directory.


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, for root; else a directory."""
    place = tmp_path / "photos"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    with contextlib.suppress(OSError):
        subprocess.run(mount, check=False, capture_output=True, timeout=10)
    yield place
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True, timeout=10)


def test_a_directory_that_is_unmounted_in_the_middle(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], tmp_path: Path, mounted: Path
) -> None:
    originals = pictures(24)
    shutil.copytree(originals, mounted, dirs_exist_ok=True)
    command = ("run", mounted, *PACK, "--concurrency", "2", "--json")
    sandbox.fail(SLOW_PUT)
    with ingest.start(*command) as running:
        wait_for_put(sandbox)
        if mounted.is_mount():
            subprocess.run(["umount", "-l", str(mounted)], check=True, capture_output=True, timeout=10)
        else:
            mounted.rename(tmp_path / "elsewhere")
        done = running.finish()

    assert done.code == 1, done
    assert done.json["failed"] > 0
    assert done.json["added"] + done.json["failed"] == done.json["discovered"] == 24
    failures = ingest("failures", "--json").lines
    assert {failure["reason"] for failure in failures} == {"missing"}
    assert len(sandbox.urls("P")) == done.json["added"]

    # Where nothing is mounted there is no image, or no directory: nothing is sent, and nothing changes in the journal.
    sandbox.fail()
    absent = ingest(*command)
    assert absent.code == 2, absent
    assert ingest("failures", "--json").lines == failures

    shutil.copytree(originals, mounted, dirs_exist_ok=True)
    again = ingest(*command)
    assert again.code == 0, again
    assert again.json["discovered"] == again.json["added"] + again.json["duplicate"] == 24
    holds_each_once(sandbox, 24)


# An image that kills whoever opens it.

POISON = """
import os, signal, sys

def at(event, arguments):
    if event == "open" and "poison.jpg" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(at)
"""


def test_an_image_that_kills_every_run_is_quarantined_and_the_rest_goes_on(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    folder = pictures(12)
    shutil.copy(folder / "000.jpg", folder / "poison.jpg")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(POISON)
    deaths = 0
    while (
        done := ingest("run", folder, *PACK, "--settle-delay", "0.1s", "--json", env={"PYTHONPATH": str(site)})
    ).code == (-signal.SIGKILL):
        deaths += 1
        assert deaths < 10

    assert deaths == 4, "three times among others, and once alone"
    assert done.code == 1, done
    (failure,) = ingest("failures", "--json").lines
    assert (failure["reason"], failure["outcome"]) == ("quarantined", "failed")
    holds_each_once(sandbox, 12)


# Clocks.


async def test_a_machine_that_sleeps_for_an_hour_in_the_middle_of_an_add(
    sandbox: Served, pictures: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep_s = 0.0
    gettime = time.clock_gettime
    # Suspended, CLOCK_BOOTTIME goes on and CLOCK_MONOTONIC, by which everything else is timed, does not.
    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: gettime(clock) + (asleep_s if clock == time.CLOCK_BOOTTIME else 0.0)
    )
    sandbox.fail({"operation": "add_image", "kind": "hang", "effect": True, "times": 1})
    settings = Settings(
        api=ApiSettings(key=sandbox.key, base_url=sandbox.base_url, timeout_s=3600.0),
        # Less than was slept through: only awake seconds are counted.
        flow=FlowSettings(settle_delay_s=0.1, give_up_after_s=1800.0),
        run=RunSettings(pack="P", create_pack=True),
        journal=str(tmp_path / "j.db"),
    )
    source = assemble.source_of(str(pictures(5)))
    async with assemble.assembled(settings, stop=Stop()) as pipeline, anyio.create_task_group() as tasks:
        summaries = []

        async def go() -> None:
            summaries.append(await pipeline.run([source]))

        tasks.start_soon(go)
        while (pipeline.snapshot().discovered, pipeline.snapshot().pending) != (5, 1):
            await anyio.sleep(0.01)
        asleep_s = 3600.0
        with anyio.fail_after(20 * MAX_TICK_S):
            while not summaries:
                await anyio.sleep(0.01)
    (summary,) = summaries
    assert (summary.added, summary.failed, summary.rejected, summary.exit_code) == (5, 0, 0, 0)
    assert summary.duration_s < 3600.0
    holds_each_once(sandbox, 5)
    assert sandbox.ledger()["faults"] == {"add_image": {"hang": 1}}


# `Retry-After`.


@pytest.mark.parametrize("form", ["a date", "a date that has passed", "0"])
def test_a_pause_that_is_asked_for_in_any_form_ends(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], form: str
) -> None:
    now = datetime.now(UTC)
    value = {
        "a date": format_datetime(now + timedelta(seconds=2), usegmt=True),
        "a date that has passed": format_datetime(now - timedelta(days=365), usegmt=True),
        "0": 0,
    }[form]
    sandbox.fail({"operation": "add_image", "kind": "error", "status": 429, "retry_after": value, "times": 2})
    done = ingest("run", pictures(5), *PACK, "--json")
    assert done.code == 0, done
    assert done.json["throttled"] == 2
    assert "pause.shortened" not in done.err
    holds_each_once(sandbox, 5)


@pytest.mark.parametrize(
    "value",
    [f"{365 * 86_400}", format_datetime(datetime.now(UTC) + timedelta(days=365), usegmt=True)],
    ids=["s", "date"],
)
def test_a_pause_of_a_year_is_shortened_and_told(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], value: str
) -> None:
    sandbox.fail({"operation": "add_image", "kind": "error", "status": 429, "retry_after": value})
    command = ("run", pictures(5), *PACK, "--settle-delay", "0.1s", "--drain-timeout", "0.1s", "--json")
    with ingest.start(*command) as running:
        line = running.wait_for_line("pause.shortened")
        assert json.loads(line)["kept_s"] == 900.0
        assert json.loads(line)["asked_s"] == pytest.approx(365 * 86_400, abs=3600)
        running.signal(signal.SIGTERM)
        done = running.finish()
    assert done.code == 143, done
    assert done.err.count("pause.shortened") == 1, "once a pause, and not for each of its echoes"
    assert done.json["pending"] == 5
    sandbox.fail()
    assert ingest(*command).code == 0
    holds_each_once(sandbox, 5)


# Servers that are none.


@contextlib.contextmanager
def serving(behave: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run `behave` for each request head that arrives, on loopback; the address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                connection = tls.wrap_socket(self.request, server_side=True) if tls else self.request
                with connection:
                    while b"\r\n\r\n" in connection.recv(65_536):
                        behave(connection)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


def never_answers(connection: socket.socket) -> None:
    connection.recv(1)


def drips(connection: socket.socket) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 1000:
        connection.sendall(bytes([byte]))
        threading.Event().wait(0.02)


def has_no_end(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        connection.sendall(b" " * 65_536)


def has_a_header_of_100_mb(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    for _ in range(1600):
        connection.sendall(b"x" * 65_536)
    connection.sendall(b"\r\nContent-Length: 0\r\n\r\n")


def answering(body: bytes, kind: bytes = b"application/json") -> Callable[[socket.socket], None]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
    return lambda connection: connection.sendall(head + body)


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(never_answers, id="never answers"),
        pytest.param(drips, id="drips"),
        pytest.param(has_no_end, id="endless body"),
        pytest.param(has_a_header_of_100_mb, id="100 MB header"),
        pytest.param(answering(b"<html>Welcome to this hotel</html>", b"text/html"), id="a page"),
    ],
)
def test_a_server_that_is_none_is_given_up(
    ingest: CommandLine, pictures: Callable[..., Path], behave: Callable[[socket.socket], None]
) -> None:
    with serving(behave) as base_url:
        done = ingest(
            *("run", pictures(2), *PACK, "--timeout", "0.4s", "--give-up-after", "2s", "--json"),
            env={"GENVIRAL_BASE_URL": base_url},
        )
    assert done.code == 75, done
    assert "run the same command again" in told(done)
    assert (done.json["added"], done.json["failed"], done.json["rejected"]) == (0, 0, 0)


async def test_a_server_that_answers_nonsense_is_given_up(pictures: Callable[..., Path]) -> None:
    with serving(answering(b'{"hello": "world"}')) as base_url:
        settings = Settings(
            api=ApiSettings(key="tester.secret", base_url=base_url),
            flow=FlowSettings(backoff_cap_s=0.01),
            run=RunSettings(pack="P", create_pack=True),
        )
        summary = await run(settings, sources=[assemble.source_of(str(pictures(2)))])
    assert summary.exit_code == 75
    assert summary.error is not None
    assert "Listing packs" in summary.error.message
    assert "not documented" in summary.error.message
    assert (summary.discovered, summary.failed) == (0, 0)


def test_a_certificate_that_is_wrong_is_told_and_nothing_is_sent(
    ingest: CommandLine, pictures: Callable[..., Path]
) -> None:
    received = []
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    with serving(received.append, tls) as base_url:
        done = ingest(
            *("run", pictures(2), *PACK, "--give-up-after", "2s", "--json"), env={"GENVIRAL_BASE_URL": base_url}
        )
    assert done.code == 75, done
    assert "certificate" in told(done)
    assert received == [], "no request went over a line that is not trusted"


NO_NAMES = """
import socket

def unknown(*_, **__):
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

socket.getaddrinfo = unknown
"""


def test_a_name_that_is_not_resolved_is_given_up(
    ingest: CommandLine, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(NO_NAMES)
    env = {"PYTHONPATH": str(site), "GENVIRAL_BASE_URL": "https://api.invalid/v1"}
    done = ingest("run", pictures(2), *PACK, "--give-up-after", "2s", "--json", env=env)
    assert done.code == 75, done
    assert "api.invalid" in told(done)
    assert done.json["requests"] > 1
