"""What the command line shows of itself and at a terminal, the sandbox, the demo, and what importing it loads."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import CommandLine, Finished, Served

HEAVY = ("aiohttp", "PIL", "ingest.sandbox", "ingest.api", "ingest.pipeline", "sqlite3", "redis", "aio_pika", "nats")


def at_a_terminal(ingest: CommandLine, *args: str | Path) -> tuple[int, str]:
    """Run a command at a pseudo-terminal; its exit code and all that the terminal got."""
    controller, terminal = pty.openpty()
    env = ingest.environment({"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"})
    command = [sys.executable, "-m", "ingest", *map(str, args)]
    with subprocess.Popen(command, env=env, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                piece = os.read(controller, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not piece:
                break
            shown += piece
    os.close(controller)
    return process.returncode, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_terminal_sees_header_progress_and_summary(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    sandbox.fail({"operation": "add_image", "kind": "cut_after", "times": 2})

    code, shown = at_a_terminal(
        ingest, "run", pictures(9), "--pack", "Holiday", "--create-pack", "--settle-delay", "0.8s"
    )

    assert code == 0, shown
    assert re.search(rf"Target +{re.escape(sandbox.base_url)}", shown)
    assert re.search(r"Scope +workspace ", shown)
    assert re.search(r"Pack +Holiday", shown)
    assert re.search(r"Journal +\S+journal\.db", shown)
    assert "9/9" in shown
    assert "requests at once" in shown
    assert re.search(r"checking \d adds?", shown)
    assert "9 images: 9 added" in shown
    assert "{" not in shown  # no log lines beside the display


def test_version_and_help(ingest: CommandLine) -> None:
    assert re.fullmatch(r"ingest \d+\.\d+\.\d+\S*\n", ingest("--version").out)
    for command in ([], ["run"], ["packs"], ["packs", "list"], ["files"], ["sandbox"], ["demo"], ["retry"]):
        done = ingest(*command, "--help")
        assert done.code == 0, done
        assert "Usage: ingest" in done.out
    assert "ingest run ~/Pictures --pack Holiday --create-pack" in ingest("run", "--help").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(ingest: CommandLine, shell: str) -> None:
    script = ingest(env={"_INGEST_COMPLETE": f"source_{shell}"})
    assert script.code == 0, script
    assert "_INGEST_COMPLETE" in script.out
    words = {"COMP_WORDS": "ingest fail", "COMP_CWORD": "1", "_INGEST_COMPLETE": "complete_bash"}
    assert ingest(env=words).out.split() == ["failures"]


LOADED = "import sys; {statement}; print(*sorted(name for name in sys.modules if name.startswith({heavy!r})), sep=',')"


@pytest.mark.parametrize("option", ["--version", "--help", "run --help"])
def test_light_options_load_nothing_heavy(ingest: CommandLine, option: str) -> None:
    statement = f"sys.argv = ['ingest', *{option.split()!r}]; from ingest.__main__ import main; main()"

    assert loaded(ingest, statement) == [""]


def test_importing_the_package_loads_no_command_line(ingest: CommandLine) -> None:
    statement = "import ingest; assert 'run' in dir(ingest); ingest.Settings, ingest.UsageError, ingest.Job"

    assert loaded(ingest, statement, "typer", "rich", "ingest.cli", *HEAVY) == [""]


def loaded(ingest: CommandLine, statement: str, *heavy: str) -> list[str]:
    """Which heavy modules are loaded after a statement, in a fresh interpreter."""
    script = LOADED.format(statement=statement, heavy=heavy or HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script], env=ingest.environment(), capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.splitlines()[-1].split(",")


def test_every_public_name_is_there() -> None:
    import ingest

    for name in ingest.__all__:
        assert getattr(ingest, name).__module__.startswith("ingest.")
    with pytest.raises(AttributeError):
        _ = ingest.nothing


def test_the_sandboxs_two_lines_are_all_that_a_client_needs(
    ingest: CommandLine, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    with ingest.start("sandbox", "--data", tmp_path / "data") as started:
        assert started.process.stdout is not None
        lines = [started.process.stdout.readline() for _ in range(2)]
        env = dict(shlex.split(line)[1].split("=", 1) for line in lines)
        assert list(env) == ["GENVIRAL_API_KEY", "GENVIRAL_BASE_URL"]
        assert all(line.startswith("export ") for line in lines)

        done = ingest("run", pictures(2), "--pack", "P", "--create-pack", "--json", env=env)
        assert done.json["added"] == 2, done

        started.signal(signal.SIGINT)
        ended = started.finish()
        assert ended.code == 0, ended
        assert "Traceback" not in ended.err


def test_the_sandbox_takes_keys_and_faults_from_files(ingest: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text('[[key]]\nkey = "mine.secret"\ntier = "scheduler"\n')
    (tmp_path / "faults.toml").write_text('[[rule]]\noperation = "create_pack"\nkind = "cut_before"\n')
    files = ("--keys", tmp_path / "keys.toml", "--faults", tmp_path / "faults.toml")
    with ingest.start("sandbox", "--key", "own.secret", *files) as started:
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == "export GENVIRAL_API_KEY=own.secret\n"
        base_url = started.process.stdout.readline().strip().partition("=")[2]

        def asked(key: str, *command: str) -> Finished:
            return ingest(*command, env={"GENVIRAL_API_KEY": key, "GENVIRAL_BASE_URL": base_url})

        assert asked("own.secret", "packs", "list").code == 0
        assert asked("mine.secret", "packs", "list").code == 3
        assert asked("own.secret", "packs", "create", "P").code == 75
        started.signal(signal.SIGTERM)
        assert started.finish().code == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--port", "many"], "--port"),
        (["--key", "nodot"], "--key"),
        (["--faults", "nowhere.toml"], "nowhere.toml"),
        (["--keys", "bad.toml"], "Expected: [[key]]"),
        (["--faults", "bad.toml"], "late (delay_s, status)"),
        (["--data", "/proc/nowhere"], "--data"),
        (["--port", "{port}"], "in use"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_sandbox_that_can_not_be(ingest: CommandLine, sandbox: Served, args: list[str], says: str) -> None:
    (ingest.home / "bad.toml").write_text("[[key]]\nkye = 'x.y'\n")
    port = sandbox.url.rpartition(":")[2]

    done = ingest("sandbox", *(arg.format(port=port) for arg in args))

    assert done.code == 2, done
    assert says in done.err
    assert "Traceback" not in done.err


def test_the_demo_adds_everything_and_leaves_nothing(ingest: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()

    done = ingest("demo", env={"TMPDIR": str(tmp_path / "tmp")})

    assert done.code == 0, done
    assert "252 images: 240 added, 12 duplicates" in done.out
    assert "ignored 2: 1 .mov, 1 .txt" in done.out
    assert "240 images, none twice" in done.out
    assert "ingest sandbox" in done.out
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not list(ingest.home.rglob("*.db"))
