"""The real command against a sandbox that revokes its key: who is waited for, what is shown, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import CommandLine, Finished, Served, Started

COUNT = 60
NEW_KEY = "second.nEw-sEcReT-98765"
RUN = ("--pack", "P", "--create-pack", "--concurrency", "4", "--metrics-port", "0", "--json")
SLOW = {"operation": "*", "kind": "slow", "delay_s": [0.01, 0.03]}


@dataclass
class Refused:
    """A run whose key was revoked in its middle, and which waits."""

    run: Started
    url: str

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    @property
    def fatal(self) -> set[str]:
        """The reasons that `ingest_fatal` tells."""
        return set(re.findall(r'^ingest_fatal\{reason="(\w+)"\} 1\.0$', self.page("/metrics")[1], re.MULTILINE))


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    """Waits that fit into a test; the wait of `exit` is `ROTATION_S` of the environment."""
    place = tmp_path / "hook"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import os\n"
        "from ingest import settings\n"
        "from ingest.pipeline import guard\n"
        "from ingest.policy import vigil\n"
        "guard.POLL_S, vigil.ASK_BASE_S, vigil.ASK_CAP_S = 0.05, 0.05, 0.2\n"
        "if 'ROTATION_S' in os.environ:\n"
        "    settings.RunSettings.__init__.__kwdefaults__['key_rotation_s'] = float(os.environ['ROTATION_S'])\n"
    )
    return place


@pytest.fixture
def refused(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], hook: Path
) -> Callable[..., Iterator[Refused]]:
    folder = pictures(COUNT)

    @contextmanager
    def start(*options: str, **env: str) -> Iterator[Refused]:
        sandbox.fail(SLOW)
        with ingest.start("run", folder, *RUN, *options, env={"PYTHONPATH": str(hook), **env}) as run:
            line = json.loads(run.wait_for_line("metrics.served"))
            while sandbox.ledger()["effects"].get("add_image", 0) < 10:
                time.sleep(0.01)
            sandbox.change_key(key=sandbox.key, revoked=True)
            yield Refused(run, f"http://{line['host']}:{line['port']}")

    return start


@pytest.fixture
def key_file(tmp_path: Path, sandbox: Served) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{sandbox.key}\n")
    return file


def told(run: Started) -> str:
    """What a person is told as the wait begins."""
    text: str = json.loads(run.wait_for_line('"api.refused"'))["message"]
    return text


def went_well(done: Finished, sandbox: Served) -> None:
    assert done.code == 0, done
    assert (done.json["added"], done.json["failed"], done.json["pending"]) == (COUNT, 0, 0)
    assert done.json["error"] is None
    urls = sandbox.urls("P")
    assert len(urls) == len(set(urls)) == COUNT


def test_wait_shows_it_and_goes_on_when_the_key_is_restored(
    refused: Callable[..., Iterator[Refused]], sandbox: Served
) -> None:
    with refused("--on-fatal", "wait") as waiting:
        text = "The API refuses this key (401 invalid_token); waiting for a new one; nothing is lost"
        assert told(waiting.run) == text
        assert waiting.page("/readyz") == (503, "the API refuses this key (401 invalid_token)\n")
        assert waiting.page("/healthz")[0] == 200
        assert waiting.fatal == {"invalid_token"}
        before = sandbox.ledger()["requests"]
        while sandbox.ledger()["requests"]["list_packs"]["401"] < 5:
            time.sleep(0.01)
        after = sandbox.ledger()["requests"]
        assert {name for name in after if name != "put" and after[name] != before[name]} <= {"list_packs"}

        sandbox.fail(SLOW, {"operation": "put", "kind": "slow", "delay_s": 1.0})  # so that there is time to look
        sandbox.change_key(key=sandbox.key, revoked=False)
        waiting.run.wait_for_line("key.taken")
        assert waiting.page("/readyz") == (200, "ready\n")
        assert waiting.fatal == set()
        sandbox.fail()
        done = waiting.run.finish()

    went_well(done, sandbox)


def test_wait_ends_at_a_signal(refused: Callable[..., Iterator[Refused]], sandbox: Served) -> None:
    with refused("--on-fatal", "wait", "--drain-timeout", "10m") as waiting:
        told(waiting.run)
        waiting.run.signal(signal.SIGTERM)
        done = waiting.run.finish()

    assert done.code == 143, done
    assert (done.json["failed"], done.json["rejected"]) == (0, 0)
    assert done.json["pending"] > 0
    assert done.json["error"]["code"] == "sigterm"


@pytest.mark.parametrize("on_fatal", ["wait", "exit"])
def test_a_key_file_that_is_rotated_heals(
    refused: Callable[..., Iterator[Refused]], sandbox: Served, key_file: Path, on_fatal: str
) -> None:
    sandbox.change_key(key=NEW_KEY)
    with refused(INGEST_ON_FATAL=on_fatal, GENVIRAL_API_KEY="", GENVIRAL_API_KEY_FILE=str(key_file)) as waiting:
        told(waiting.run)
        key_file.write_text(f"{NEW_KEY}\n")
        waiting.run.wait_for_line("key.taken")
        done = waiting.run.finish()

    went_well(done, sandbox)
    for secret in (sandbox.key.partition(".")[2], NEW_KEY.partition(".")[2]):
        assert secret not in done.err + done.out


def test_exit_ends_when_the_key_file_stays_as_it_is(
    refused: Callable[..., Iterator[Refused]], sandbox: Served, key_file: Path
) -> None:
    with refused(ROTATION_S="0.5", GENVIRAL_API_KEY="", GENVIRAL_API_KEY_FILE=str(key_file)) as waiting:
        waiting.run.wait_for_line("key.awaited")
        done = waiting.run.finish()

    assert done.code == 3, done
    assert done.json["error"]["code"] == "invalid_token"
    assert (done.json["failed"], done.json["rejected"]) == (0, 0)
    assert done.json["pending"] > 0


def test_a_command_waits_for_nobody(ingest: CommandLine, sandbox: Served, key_file: Path) -> None:
    sandbox.change_key(key=sandbox.key, revoked=True)

    done = ingest("packs", "list", env={"GENVIRAL_API_KEY": "", "GENVIRAL_API_KEY_FILE": str(key_file)})

    assert done.code == 3, done


def test_what_on_fatal_takes(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    done = ingest("run", pictures(1), "--pack", "P", "--on-fatal", "hope")

    assert done.code == 2, done
    assert "exit" in done.err
    assert "wait" in done.err
