"""The README is true: every command and example in it runs, and its tables say what the program says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main

from ingest.cli.app import app
from ingest.model import Summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import CommandLine, Served

ROOT = Path(__file__).parents[2]
README = ROOT.joinpath("README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """Each command of a block, without its comment."""
    lines = (line.partition("  #")[0].strip() for line in block.splitlines())
    return [command for line in lines for command in line.split(" && ") if command]


def table_rows(heading: str) -> list[str]:
    """The rows of all tables of a section."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in section.splitlines() if line.startswith("|")]


def table(heading: str) -> dict[str, str]:
    """First column to second of the first table after a heading."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.+?) \| (.*?) \|", section.replace("\\|", "¦"), re.MULTILINE)
    return {first: second for first, second in rows if not set(first) <= {"-", " "}}


def test_the_first_command_sets_up_and_shows_a_demo(ingest: CommandLine) -> None:
    first, *_ = blocks("sh")
    # The set-up before it is what `.ci/run` does to the letter; here the command is the one under test.
    *setup, demo = commands(first)
    assert setup == ["python3 -m venv .venv", ".venv/bin/pip install --quiet ."]

    done = ingest(*shlex.split(demo)[1:])

    assert done.code == 0, done
    assert "added" in done.out


def test_the_second_command_sets_up_and_runs_these_tests() -> None:
    *setup, test = commands(blocks("sh")[1])
    assert setup == ["python3 -m venv .venv", ".venv/bin/pip install --quiet '.[test]'"]

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", __file__],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert test == ".venv/bin/pytest"
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_real_backfill(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    home_pictures = pictures(12)
    home_pictures.rename(ingest.home / "Pictures")
    (ingest.home / "Pictures" / "fake.jpg").write_bytes(b"no image")
    codes = []
    for command in commands(blocks("sh")[2]):
        name, *arguments = shlex.split(command)
        if name == "export":
            assert arguments[0].startswith("GENVIRAL_API_KEY=")
            continue
        assert name == "ingest"
        arguments = [argument.replace("~", str(ingest.home)) for argument in arguments]
        done = ingest(*arguments)
        codes.append((arguments[0], done.code))
        assert "Traceback" not in done.err, done

    assert codes == [("packs", 0), ("run", 0), ("run", 1), ("failures", 0), ("retry", 0), ("run", 0), ("verify", 0)]
    assert len(sandbox.urls("Motivation")) == 12


@pytest.mark.parametrize("command", commands(blocks("sh")[3]))
def test_the_long_tests_are_there(command: str) -> None:
    words = shlex.split(command)
    env = dict(word.split("=") for word in words if re.match("[A-Z_]+=", word))
    program, *arguments = words[len(env) :]
    if program == "pytest":
        arguments = ["-m", "pytest", *arguments, "--collect-only", "-q"]
    else:
        assert program == "python"
        arguments.append("--help")

    done = in_the_repository(*arguments, env=env)

    assert done.returncode == 0, done.stdout + done.stderr
    if program == "python":
        assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", done.stdout))
    else:
        assert re.search(r"^[1-9]\d* tests? collected", done.stdout, re.MULTILINE), done.stdout
    for name in env:
        # What a test does not read would be set in vain.
        (path,) = [word for word in arguments if word.startswith("tests/")]
        assert f'"{name}"' in ROOT.joinpath(path).read_text()


def test_the_model_runs_as_many_examples_as_are_asked_for() -> None:
    command = next(command for command in commands(blocks("sh")[3]) if "INGEST_MODEL_EXAMPLES" in command)
    path = shlex.split(command)[-1]

    done = in_the_repository(
        "-m", "pytest", "-n", "0", "-q", "--hypothesis-show-statistics", path, env={"INGEST_MODEL_EXAMPLES": "2"}
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "settings.max_examples=2\n" in done.stdout


def in_the_repository(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def test_every_test_that_is_named_exists() -> None:
    names = {name for row in table_rows("What is promised") for name in re.findall(r"`(test_\w+)`", row)}
    assert len(names) > 10
    assert names <= {path.stem for path in ROOT.joinpath("tests").rglob("test_*.py")}


def test_the_library_example(sandbox: Served, pictures: Callable[..., Path], tmp_path: Path) -> None:
    pictures(3)
    (example,) = blocks("python")
    program = example.replace('key="public_id.secret"', f'key="{sandbox.key}", base_url="{sandbox.base_url}"')

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50
    )

    assert done.stdout == "3 added, 0 pending\n", done.stderr


def test_every_option_of_run_is_in_the_table() -> None:
    command = typer.main.get_command(app)
    run = command.commands["run"]  # type: ignore[attr-defined]
    real = {name for parameter in run.params for name in parameter.opts if name.startswith("--")}

    assert told_in("Options of `ingest run`") == real - {"--help"}


def told_in(heading: str) -> set[str]:
    """The options in a table. What is on by itself is told by what turns it off."""
    return {name.replace("--no-", "--") for name in re.findall(r"--[a-z-]+", " ".join(table(heading)))}


def test_every_option_of_serve_is_in_a_table() -> None:
    command = typer.main.get_command(app)
    serve = command.commands["serve"]  # type: ignore[attr-defined]
    of_run, own = told_in("Options of `ingest run`"), told_in("Serving")
    real = {name for parameter in serve.params for name in parameter.opts if name.startswith("--")}

    assert of_run - {"--limit", "--allow-empty", "--idle", "--shard"} | own == real - {"--help"}


def test_serving(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    pictures(3).rename(ingest.home / "Inbox")
    (command,) = commands(next(block for block in blocks("sh") if block.startswith("ingest serve")))
    arguments = [argument.replace("~", str(ingest.home)) for argument in shlex.split(command)[1:]]

    # Not on the port that it has by default: another test may have that.
    with ingest.start(*arguments, env={"INGEST_METRICS_PORT": "0"}) as serving:
        while not sandbox.ledger()["packs"] or len(sandbox.urls("Motivation")) < 3:
            time.sleep(0.05)
        serving.signal(signal.SIGTERM)
        done = serving.finish()

    assert done.code == 0, done
    assert "3 added" in done.out


def test_the_exit_codes_and_the_json_keys() -> None:
    codes = table("Exit codes")
    assert list(codes)[1:] == ["0", "1", "2", "3", "70", "74", "75", "130, 143"]
    keys = re.search(r"Its keys are `([^`]+)`", README)
    assert keys is not None
    assert re.split(r",\s+", keys[1]) == list(Summary.__dataclass_fields__)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(ingest [a-z]+)", README))))
def test_every_command_that_is_named_exists(ingest: CommandLine, name: str) -> None:
    done = ingest(name.split()[1], "--help")

    assert done.code == 0, done
    assert os.linesep in done.out
