"""The promise, by the server's own ledger: nothing is lost and nothing is added twice, whatever happens in between."""

from __future__ import annotations

import hashlib
import io
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pillow_heif
import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import CommandLine, Finished, Served

MILD = (
    {"operation": "*", "kind": "error", "probability": 0.02, "status": 500},
    {"operation": "*", "kind": "error", "probability": 0.01, "status": 429, "retry_after": 0.1},
    {"operation": "*", "kind": "cut_before", "probability": 0.01},
    {"operation": "*", "kind": "cut_json", "probability": 0.01},
    {"operation": "add_image", "kind": "cut_after", "probability": 0.02},
    {"operation": "add_image", "kind": "late", "probability": 0.01, "delay_s": [0.1, 0.5]},
    {"operation": "*", "kind": "html", "probability": 0.01, "status": 502},
)
SLOW = {"operation": "*", "kind": "slow", "delay_s": [0.01, 0.05]}
RUN = ("--pack", "P", "--create-pack", "--settle-delay", "1s", "--max-attempts", "30", "--json")


def mixed(folder: Path, count: int) -> dict[str, bytes]:
    """Images of every type that packs take, no two alike, in nested folders; by SHA-256."""
    pillow_heif.register_heif_opener()
    dice = random.Random(7)
    made: dict[str, bytes] = {}
    for number in range(count):
        kind = (
            ("JPEG", "PNG", "GIF", "WEBP", "HEIF")[number % 5]
            if number % 50 == 4
            else ("JPEG", "PNG", "GIF", "WEBP")[number % 4]
        )
        image = Image.frombytes("RGB", (16, 16), dice.randbytes(768))
        file = io.BytesIO()
        image.save(file, kind)
        place = folder / f"{number % 7}"
        place.mkdir(exist_ok=True, parents=True)
        ending = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "HEIF": "heic"}[kind]
        (place / f"{number}.{ending}").write_bytes(file.getvalue())
        made[hashlib.sha256(file.getvalue()).hexdigest()] = file.getvalue()
    return made


def holds_exactly(sandbox: Served, wanted: set[str]) -> None:
    """The pack has each of these images once, byte for byte, and nothing else."""
    held = Counter(image["sha256"] for image in sandbox.pack("P")["images"])
    assert set(held) == wanted
    assert set(held.values()) == {1}


def adds_up(done: Finished) -> dict[str, Any]:
    told: dict[str, Any] = done.json
    parts = ("added", "duplicate", "rejected", "failed", "pending")
    assert told["discovered"] == sum(told[part] for part in parts), told
    return told


def wait_for_adds(sandbox: Served, count: int) -> None:
    """Until the server has applied so many adds; the test's own timeout bounds it."""
    while sandbox.ledger()["effects"].get("add_image", 0) < count:
        time.sleep(0.01)


def test_a_thousand_mixed_images_under_mild_faults_and_again(
    ingest: CommandLine, sandbox: Served, tmp_path: Path
) -> None:
    made = mixed(tmp_path / "pictures", 1000)
    sandbox.fail(*MILD)

    done = ingest("run", tmp_path / "pictures", *RUN)

    assert done.code == 0, done
    assert adds_up(done)["added"] == 1000
    holds_exactly(sandbox, set(made))

    # The same again: few requests, and an audit hook in the process sees no image being opened.
    sandbox.fail()
    hook = tmp_path / "hook"
    hook.mkdir()
    opened = tmp_path / "opened"
    (hook / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"told = os.open({str(opened)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "def watch(event, args):\n"
        f"    if event == 'open' and {str(tmp_path / 'pictures')!r} in str(args[0]):\n"
        "        os.write(told, str(args[0]).encode() + b'\\n')\n"
        "sys.addaudithook(watch)\n"
    )
    again = ingest("run", tmp_path / "pictures", *RUN, env={"PYTHONPATH": str(hook)})

    assert again.code == 0, again
    told = adds_up(again)
    assert (told["duplicate"], told["unchanged"], told["bytes_uploaded"]) == (1000, 1000, 0)
    assert told["requests"] <= 3
    assert opened.read_bytes() == b""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_five_times_then_run_to_the_end(
    ingest: CommandLine, sandbox: Served, tmp_path: Path, number: signal.Signals
) -> None:
    # A drain adds what is in hand: at most three jobs for each of 8 slots, and five times 18 more before.
    count = 120 if number is signal.SIGKILL else 250
    made = mixed(tmp_path / "pictures", count)
    sandbox.fail({"operation": "add_image", "kind": "cut_after", "probability": 0.1}, SLOW)
    dice = random.Random(number)
    reached = 0
    for _ in range(5):
        reached += dice.randint(5, 18)
        with ingest.start("run", tmp_path / "pictures", *RUN, "--concurrency", "8") as run:
            wait_for_adds(sandbox, reached)
            run.signal(number)
            done = run.finish()
        reached = sandbox.ledger()["effects"]["add_image"]
        if number is signal.SIGKILL:
            assert done.code == -signal.SIGKILL
        else:
            assert done.code == 143, done
            assert adds_up(done)["failed"] == 0

    last = ingest("run", tmp_path / "pictures", *RUN)

    if last.code == 1:
        # By the third death every job is a suspect, and one that was alone at a later one waits for a person's word.
        assert number is signal.SIGKILL
        assert 1 <= adds_up(last)["failed"] <= 2, last
        assert ingest("retry", "--reason", "quarantined").code == 0
        last = ingest("run", tmp_path / "pictures", *RUN)
    assert last.code == 0, last
    told = adds_up(last)
    assert told["discovered"] == told["added"] + told["duplicate"] == count
    holds_exactly(sandbox, set(made))


def test_connections_cut_after_the_effect_of_every_fifth_add(
    ingest: CommandLine, sandbox: Served, tmp_path: Path
) -> None:
    made = mixed(tmp_path / "pictures", 300)
    sandbox.fail({"operation": "add_image", "kind": "cut_after", "probability": 0.2})

    done = ingest("run", tmp_path / "pictures", *RUN)

    assert done.code == 0, done
    assert adds_up(done)["added"] == 300
    holds_exactly(sandbox, set(made))
    assert sandbox.ledger()["faults"]["add_image"]["cut_after"] > 30


def test_a_key_revoked_in_the_middle_stops_at_once_and_the_next_run_finishes(
    ingest: CommandLine, sandbox: Served, tmp_path: Path
) -> None:
    made = mixed(tmp_path / "pictures", 200)
    sandbox.fail(SLOW)
    with ingest.start("run", tmp_path / "pictures", *RUN, "--concurrency", "8") as run:
        wait_for_adds(sandbox, 30)
        sandbox.change_key(key=sandbox.key, revoked=True)
        done = run.finish()

    assert done.code == 3, done
    told = adds_up(done)
    assert (told["rejected"], told["failed"]) == (0, 0)
    assert told["pending"] > 0
    assert told["error"]["code"] == "invalid_token"
    refused = sum(
        count for answers in sandbox.ledger()["requests"].values() for c, count in answers.items() if c == "401"
    )
    assert 1 < refused <= 8 + 1  # what was in flight, and the request that asked once more

    sandbox.change_key(key=sandbox.key, revoked=False)
    again = ingest("run", tmp_path / "pictures", *RUN)

    assert again.code == 0, again
    holds_exactly(sandbox, set(made))


def test_another_key_of_the_workspace_continues_and_one_of_another_is_refused(
    ingest: CommandLine, sandbox: Served, tmp_path: Path
) -> None:
    made = mixed(tmp_path / "pictures", 20)
    assert ingest("run", tmp_path / "pictures", *RUN).code == 0
    sandbox.change_key(key="second.of-the-same")
    sandbox.change_key(key="third.of-another", workspace_id="99999999-9999-4999-8999-999999999999")

    same = ingest("run", tmp_path / "pictures", *RUN, env={"GENVIRAL_API_KEY": "second.of-the-same"})
    other = ingest("run", tmp_path / "pictures", *RUN, env={"GENVIRAL_API_KEY": "third.of-another"})

    assert (same.code, same.json["duplicate"], same.json["added"]) == (0, 20, 0), same
    assert (other.code, other.json["error"]["code"]) == (3, "wrong_scope"), other
    assert len(sandbox.ledger()["packs"]) == 1
    holds_exactly(sandbox, set(made))


def test_no_secret_is_left_anywhere(ingest: CommandLine, sandbox: Served, tmp_path: Path) -> None:
    mixed(tmp_path / "pictures", 20)
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"nothing")
    sandbox.fail(
        *({**rule, "probability": 0.06} for rule in MILD),
        {"operation": "put", "kind": "error", "status": 403, "probability": 0.1},
    )
    outputs = [
        ingest("run", tmp_path / "pictures", *RUN, "--log-level", "debug"),
        ingest("run", tmp_path / "pictures", *RUN[:-1], "--log-level", "debug", "--log-format", "console"),
        ingest("packs", "list"),
        ingest("files", "list", "--json"),
        ingest("status"),
        ingest("failures", "--json"),
        ingest("subscription"),
        ingest("packs", "get", "nowhere"),
    ]
    secret = sandbox.key.partition(".")[2]
    written = [path.read_bytes() for path in ingest.home.rglob("*") if path.is_file()]
    assert any(b"SQLite format 3" in content for content in written)
    for text in [*(output.out + output.err for output in outputs), *(c.decode("latin-1") for c in written)]:
        assert secret not in text
        assert "X-Amz-Signature" not in text
        assert "X-Amz-Credential" not in text
    assert "attempt.failed" in outputs[0].err  # the search saw what debug tells
