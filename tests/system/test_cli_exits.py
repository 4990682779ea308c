"""Every way in which a command ends: its exit code, its message of a line or two, and the JSON object of `run`."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import sqlite3
import termios
from typing import TYPE_CHECKING

import pytest

from ingest.cli.ending import Signalled, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .conftest import CommandLine, Finished, Served


def check_message(done: Finished, *, code: int, says: str) -> None:
    """The documented exit code and a message of a line or two that says what to do, in words and as JSON."""
    assert done.code == code, done
    assert "Traceback" not in done.err, done
    told = [line for line in done.err.splitlines() if not line.startswith("{")]
    assert 1 <= len(told) <= 3, done
    assert says in " ".join(told), done


def check_run(ingest: CommandLine, *args: str | Path, code: int, says: str, **options: object) -> None:
    """The same for a run, whose JSON object says it too."""
    done = ingest("run", *args, "--json", **options)
    check_message(done, code=code, says=says)
    assert done.json["exit_code"] == code
    assert done.json["error"]["message"]
    assert set(done.json["error"]) == {"code", "message", "hint"}
    assert len(done.json) == 15


def test_missing_directory(ingest: CommandLine, sandbox: Served) -> None:
    check_run(ingest, "nowhere", "--pack", "P", "--create-pack", code=2, says="nowhere")
    assert sandbox.ledger()["requests"] == {}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("https://x/y.jpg", "can't be a source: it is the URL of one image"),
        ("ftp://x/y", "can't be a source"),
        ("redis://localhost/0", "'stream' is missing"),
        ("sqs://queue", "AWS_REGION"),
    ],
)
def test_sources_that_are_none(ingest: CommandLine, source: str, says: str) -> None:
    check_run(ingest, source, "--pack", "P", code=2, says=says)


def test_no_pack_named(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    check_run(ingest, pictures(1), code=2, says="--pack")


def test_unknown_pack(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    check_run(ingest, pictures(1), "--pack", "Nobody's", code=2, says="--create-pack")
    assert sandbox.ledger()["files"] == []


def test_ambiguous_pack(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    for _ in range(2):
        assert ingest("packs", "create", "Twice").code == 0
    check_run(ingest, pictures(1), "--pack", "Twice", code=2, says="There are 2 packs named 'Twice'")


@pytest.mark.parametrize("key", ["", "nodot", ".secret", "public."])
def test_missing_or_malformed_key(ingest: CommandLine, pictures: Callable[..., Path], key: str) -> None:
    check_run(ingest, pictures(1), "--pack", "P", code=2, says="GENVIRAL_API_KEY", env={"GENVIRAL_API_KEY": key})


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/x", "http://", "http://host:port/x"])
def test_a_base_url_that_is_none(ingest: CommandLine, pictures: Callable[..., Path], url: str) -> None:
    check_run(ingest, pictures(1), "--pack", "P", code=2, says="GENVIRAL_BASE_URL", env={"GENVIRAL_BASE_URL": url})


def test_journal_from_a_newer_version(ingest: CommandLine, pictures: Callable[..., Path], tmp_path: Path) -> None:
    journal, folder = tmp_path / "j.db", pictures(1)
    assert ingest("run", folder, "--pack", "P", "--create-pack", "--journal", journal).code == 0
    with sqlite3.connect(journal) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    check_run(ingest, folder, "--pack", "P", "--journal", journal, code=2, says="newer version")
    check_message(ingest("status", "--journal", journal), code=2, says="newer version")


def test_a_journal_that_is_none(ingest: CommandLine, pictures: Callable[..., Path], tmp_path: Path) -> None:
    journal = tmp_path / "j.db"
    journal.write_bytes(b"no database" * 1000)
    check_run(ingest, pictures(1), "--pack", "P", "--journal", journal, code=2, says="no journal")
    assert journal.read_bytes() == b"no database" * 1000


def test_a_journal_where_nothing_can_be_written(
    ingest: CommandLine, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    journal, code = (place / "j.db", 74) if os.geteuid() else ("/proc/self/j.db", 2)  # there root can't make it either
    check_run(ingest, pictures(1), "--pack", "P", "--create-pack", "--journal", journal, code=code, says="--journal")


def test_a_full_disk(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], tmp_path: Path) -> None:
    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    folder = pictures(2)
    check_run(
        ingest,
        *(folder, "--pack", "P", "--create-pack", "--journal", tmp_path / "j.db"),
        code=74,
        says="Make room",
        preexec_fn=no_room,
    )
    assert sandbox.ledger()["files"] == []


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_what_was_closed_at_the_start_changes_no_exit_code(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], closed: tuple[int, ...]
) -> None:
    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    folder = pictures(2)
    first = ingest("run", folder, "--pack", "P", "--create-pack", "--json", preexec_fn=close)
    assert first.code == 0
    assert len(sandbox.ledger()["files"]) == 2
    assert ingest("packs", "list", preexec_fn=close).code == 0
    if 1 not in closed:
        assert first.json["added"] == 2


def test_a_result_that_can_not_be_written(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    def onto_a_full_disk() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    done = ingest("run", pictures(1), "--pack", "P", "--create-pack", "--json", preexec_fn=onto_a_full_disk)
    check_message(done, code=74, says="Make room")


def test_journal_in_use(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    folder = pictures(1)
    sandbox.fail({"operation": "put", "kind": "hang"})
    with ingest.start("run", folder, "--pack", "P", "--create-pack", "--metrics-port", "0") as running:
        running.wait_for_line("metrics.served")
        pid = running.process.pid
        check_run(ingest, folder, "--pack", "P", code=75, says=f"Journal in use by pid {pid} since ")
        check_message(ingest("forget", "--yes"), code=75, says=f"Journal in use by pid {pid} since ")
        going_on = ingest("status")
        assert going_on.code == 0, going_on
        assert f"is going on: pid {pid}" in going_on.out


def test_no_image_found(ingest: CommandLine, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    check_run(ingest, empty, "--pack", "P", "--create-pack", code=2, says="--allow-empty")
    assert ingest("run", empty, "--pack", "P", "--allow-empty").code == 0


@pytest.mark.parametrize(("tier", "says"), [("none", "402"), ("scheduler", "403")], ids=["no plan", "wrong tier"])
def test_refused_plans(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], tier: str, says: str
) -> None:
    sandbox.change_key(key=sandbox.key, tier=tier)
    check_run(ingest, pictures(1), "--pack", "P", code=3, says=says)


def test_refused_key(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    env = {"GENVIRAL_API_KEY": "nobody.wrong"}
    check_run(ingest, pictures(1), "--pack", "P", code=3, says="invalid_token", env=env)
    for command in (["packs", "list"], ["files", "list"], ["subscription"], ["packs", "get", "x"]):
        check_message(ingest(*command, env=env), code=3, says="invalid_token")


def test_nobody_answers(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        env = {"GENVIRAL_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}/api"}
        done = ingest("run", pictures(1), "--pack", "P", "--give-up-after", "5s", "--json", env=env)
        assert done.code == 75, done
        assert done.json["error"]["code"] == "unreachable"
        assert "Offline since " in done.err
        assert "; nothing is lost" in done.err
        check_message(ingest("packs", "list", env=env), code=75, says="127.0.0.1")


@pytest.mark.parametrize(
    "args",
    [
        ["--pack", "P", "--creat-pack"],
        ["--pack", "P", "--timeout"],
        ["--pack", "P", "--concurrency", "none"],
        ["--pack", "P", "--log-level", "loud"],
        ["--pack", "P", "--journal", "postgres://host/db"],
        ["--pack", "P", "--config", "nowhere.toml"],
    ],
    ids=lambda args: " ".join(args[-2:]),
)
def test_wrong_usage(ingest: CommandLine, args: list[str]) -> None:
    done = ingest("run", ".", "--json", *args)
    check_message(done, code=2, says=next(word for word in reversed(args) if word.startswith("--")))
    assert done.json["run_id"] is None
    assert done.json["discovered"] == 0
    assert done.json["exit_code"] == 2


@pytest.mark.parametrize("command", ["pictures", "./pictures", "/nowhere/at/all"])
def test_a_path_instead_of_a_command(ingest: CommandLine, command: str) -> None:
    (ingest.home / "pictures").mkdir()
    check_message(ingest(command), code=2, says=f"Did you mean `ingest run {command} --pack NAME`?")


def test_wrong_commands_and_options_say_what_was_meant(ingest: CommandLine) -> None:
    check_message(ingest("statsu"), code=2, says="Did you mean 'status'")
    check_message(ingest("status", "--jurnal", "x"), code=2, says="--journal")
    check_message(ingest(), code=2, says="ingest --help")


SABOTAGE = """
import sys

class Sabotage:
    def find_spec(self, name, path=None, target=None):
        if name == "ingest.cli.running":
            import ingest.sources.directory as directory
            def broken(*_, **__):
                raise RuntimeError("a bug that knows " + __import__("os").environ["GENVIRAL_API_KEY"])
            {patch} = broken

sys.meta_path.insert(0, Sabotage())
"""


@pytest.mark.parametrize(
    ("patch", "has_begun"),
    [("directory.DirectorySource.skim", True), ("directory.DirectorySource.__init__", False)],
    ids=["in the run", "before the run"],
)
def test_a_bug_is_70_with_a_traceback_without_secrets(
    ingest: CommandLine, pictures: Callable[..., Path], tmp_path: Path, patch: str, *, has_begun: bool
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SABOTAGE.format(patch=patch))

    run = ("run", pictures(1), "--pack", "P", "--create-pack", "--json")
    done = ingest(*run, env={"PYTHONPATH": str(site)})

    assert done.code == 70, done
    assert "Traceback" in done.err
    assert "RuntimeError: a bug that knows [withheld]" in done.err
    assert ingest.env["GENVIRAL_API_KEY"].partition(".")[2] not in done.out + done.err
    assert done.json["exit_code"] == 70
    assert done.json["error"]["code"] == "bug"
    assert (done.json["run_id"] is not None) == has_begun


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_finishes_what_is_in_hand(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], number: signal.Signals
) -> None:
    folder = pictures(40)
    sandbox.fail({"operation": "put", "kind": "slow", "delay_s": 0.5})
    run = ("run", folder, "--pack", "P", "--create-pack", "--concurrency", "2", "--metrics-port", "0", "--json")

    def heed() -> None:
        signal.signal(number, signal.SIG_DFL)  # the suite itself may run under `nohup`

    with ingest.start(*run, preexec_fn=heed) as running:
        running.wait_for_line("metrics.served")
        wait_for_requests(sandbox, "put")
        running.signal(number)
        running.wait_for_line("Ctrl-C again stops now; both are safe")
        done = running.finish()

    assert done.code == 128 + number, done
    assert done.json["exit_code"] == 128 + number
    assert done.json["error"]["code"] == number.name.lower()
    assert done.json["added"] + done.json["pending"] == done.json["discovered"]
    assert len(sandbox.urls("P")) == done.json["added"] > 0
    sandbox.fail()
    assert ingest("run", folder, "--pack", "P").code == 0
    assert len(set(sandbox.urls("P"))) == len(sandbox.urls("P")) == 40


def test_a_hangup_that_nohup_has_ignored_ends_nothing(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    folder = pictures(6)
    sandbox.fail({"operation": "put", "kind": "slow", "delay_s": 0.3})

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with ingest.start("run", folder, "--pack", "P", "--create-pack", "--json", preexec_fn=ignore) as running:
        wait_for_requests(sandbox, "put")
        running.signal(signal.SIGHUP)
        done = running.finish()

    assert done.code == 0, done
    assert done.json["added"] == 6


@pytest.mark.parametrize("streams", [("stdout", "stderr"), ("stderr",), ("stdout",)], ids="+".join)
def test_a_terminal_that_is_closed_ends_a_run_as_a_hangup_does(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], tmp_path: Path, streams: Sequence[str]
) -> None:
    folder = pictures(40)
    sandbox.fail({"operation": "put", "kind": "slow", "delay_s": 0.3})
    ours, theirs = os.openpty()

    def own_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    run = ("run", folder, "--pack", "P", "--create-pack", "--concurrency", "2")
    with (tmp_path / "elsewhere").open("w") as elsewhere:
        shown = {name: theirs if name in streams else elsewhere for name in ("stdout", "stderr")}
        of_terminal = {"stdin": theirs, **shown, "start_new_session": True, "preexec_fn": own_terminal}
        with ingest.start(*run, env={"TERM": "xterm"}, **of_terminal) as running:
            os.close(theirs)
            wait_for_requests(sandbox, "put")
            os.close(ours)
            code = running.process.wait()

    assert code == 128 + signal.SIGHUP
    assert "Traceback" not in (tmp_path / "elsewhere").read_text()
    sandbox.fail()
    assert ingest("run", folder, "--pack", "P").code == 0
    assert len(set(sandbox.urls("P"))) == len(sandbox.urls("P")) == 40


def test_second_signal_stops_at_once(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    folder = pictures(4)
    sandbox.fail({"operation": "put", "kind": "hang"})
    run = ("run", folder, "--pack", "P", "--create-pack", "--drain-timeout", "10m", "--metrics-port", "0", "--json")
    with ingest.start(*run) as running:
        running.wait_for_line("metrics.served")
        wait_for_requests(sandbox, "put")
        running.signal(signal.SIGINT)
        assert "(10 min). Ctrl-C again" in running.wait_for_line("Finishing 4 uploads")
        running.signal(signal.SIGINT)
        done = running.finish()

    assert done.code == 130, done
    assert done.json["pending"] == 4
    sandbox.fail()
    assert ingest("run", folder, "--pack", "P").code == 0
    assert len(sandbox.urls("P")) == 4


def test_a_third_signal_ends_the_process_there_and_then(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    folder = pictures(4)
    sandbox.fail({"operation": "put", "kind": "hang"})
    run = ("run", folder, "--pack", "P", "--create-pack", "--drain-timeout", "10m", "--metrics-port", "0")
    with ingest.start(*run) as running:
        running.wait_for_line("metrics.served")
        wait_for_requests(sandbox, "put")
        running.signal(signal.SIGTERM)
        running.wait_for_line("Ctrl-C again stops now")
        running.signal(signal.SIGINT)
        running.signal(signal.SIGTERM)
        done = running.finish()

    assert done.code in {-signal.SIGINT, -signal.SIGTERM, 143}, done  # the second may have been enough by then
    assert "Traceback" not in done.err
    sandbox.fail()
    assert ingest("run", folder, "--pack", "P", "--settle-delay", "0.2s").code == 0
    assert len(set(sandbox.urls("P"))) == len(sandbox.urls("P")) == 4


def test_a_signal_where_no_run_has_begun(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(Signalled(signal.SIGTERM), ["run", "--json"]) == 143

    shown = json.loads(capsys.readouterr().out)
    assert (shown["run_id"], shown["exit_code"], shown["error"]["code"]) == (None, 143, "sigterm")


def wait_for_requests(sandbox: Served, operation: str) -> None:
    """Until a request of that kind is being answered."""
    lane = "storage" if operation == "put" else "api"
    while sandbox.ledger()["max_concurrency"][lane] < 1:
        pass
