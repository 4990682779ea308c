"""`ingest run` against the sandbox: what it adds, what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import CommandLine, Served

KEYS = [
    *("run_id", "discovered", "added", "duplicate", "unchanged", "rejected", "failed", "pending", "bytes_uploaded"),
    *("requests", "retries", "throttled", "duration_s", "exit_code", "error"),
]


def test_adds_every_image_of_a_directory_once(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    folder = pictures(12)
    (folder / "notes.txt").write_text("no picture")
    (folder / "clip.mov").write_bytes(b"no picture")
    (folder / "other.mov").write_bytes(b"no picture")

    done = ingest("run", folder, "--pack", "Holiday", "--create-pack")

    assert done.code == 0, done
    assert "12 images: 12 added, 0 duplicates, 0 rejected, 0 failed" in done.out
    assert "ignored 3: 2 .mov, 1 .txt" in done.out
    assert len(set(sandbox.urls("Holiday"))) == len(sandbox.urls("Holiday")) == 12
    assert sandbox.ledger()["storage_authorizations"] == 0


def test_json_is_one_object_with_these_keys_in_this_order(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    done = ingest("run", pictures(3), "--pack", "Holiday", "--create-pack", "--json")

    assert done.code == 0, done
    assert list(done.json) == KEYS
    assert done.json["added"] == 3
    assert done.json["error"] is None
    assert done.json["exit_code"] == 0


def test_second_run_opens_and_sends_nothing(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    folder = pictures(4)
    assert ingest("run", folder, "--pack", "Holiday", "--create-pack").code == 0

    again = ingest("run", folder, "--pack", "Holiday", "--json")

    assert again.code == 0, again
    assert (again.json["discovered"], again.json["duplicate"], again.json["unchanged"]) == (4, 4, 4)
    assert again.json["bytes_uploaded"] == 0
    assert sandbox.ledger()["effects"]["add_image"] == 4


def test_second_run_over_many_opens_no_image_and_counts_each(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    folder = pictures(300)
    (folder / "below").mkdir()
    for number, path in enumerate(sorted(folder.glob("*.*"))):
        if number % 3 == 0:
            path.rename(folder / "below" / path.name)
    assert ingest("run", folder, "--pack", "Holiday", "--create-pack").code == 0
    kept = {path: path.stat() for path in folder.rglob("*.*")}
    for path, seen in kept.items():
        # Whoever opened it would find no image; size and time are as they were.
        path.write_bytes(b"x" * seen.st_size)
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))

    again = ingest("run", folder, "--pack", "Holiday", "--json")

    assert again.code == 0, again
    assert [again.json[key] for key in ("discovered", "duplicate", "unchanged", "pending")] == [300, 300, 300, 0]
    assert sandbox.ledger()["effects"]["add_image"] == 300
    third = ingest("run", folder / "below", "--pack", "Holiday", "--json")
    assert (third.json["discovered"], third.json["unchanged"]) == (100, 100)


def test_pack_is_taken_by_its_id(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    pack_id = json.loads(ingest("packs", "create", "Holiday", "--json").out)["id"]

    assert ingest("run", pictures(2), "--pack", pack_id).code == 0

    assert len(sandbox.urls("Holiday")) == 2


def test_single_files_and_globs(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    folder = pictures(6)

    some = ingest("run", folder, "--pack", "P", "--create-pack", "--include", "*.jpg", "--exclude", "000*", "--json")
    assert some.json["added"] == 1, some
    files = ingest("run", folder / "001.png", folder / "002.webp", "--pack", "P", "--json")
    assert files.json["added"] == 2, files


def test_a_pipe_is_no_image(ingest: CommandLine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")

    done = ingest("run", tmp_path / "pipe.png", "--pack", "P", "--create-pack", "--json")

    assert (done.code, done.json["rejected"]) == (1, 1), done
    assert ingest("failures", "--json").lines[0]["reason"] == "not_a_file"


def test_limit_takes_so_many_new_images(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    folder = pictures(5)

    assert ingest("run", folder, "--pack", "P", "--create-pack", "--limit", "2", "--json").json["added"] == 2
    assert ingest("run", folder, "--pack", "P", "--limit", "2", "--json").json["added"] == 2


def test_a_file_that_is_no_image_is_rejected_and_exits_1(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    folder = pictures(2)
    (folder / "broken.jpg").write_bytes(b"<html>not an image</html>")

    done = ingest("run", folder, "--pack", "P", "--create-pack")

    assert done.code == 1, done
    assert "2 added, 0 duplicates, 1 rejected" in done.out
    assert "ingest failures" in done.out


def test_max_rejected_stops_the_run(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    folder = pictures(1)
    for number in range(3):
        (folder / f"bad{number}.jpg").write_bytes(b"no image %d" % number)

    done = ingest("run", folder, "--pack", "P", "--create-pack", "--max-rejected", "1", "--json")

    assert done.code == 1, done
    assert done.json["error"]["code"] == "max_rejected"


def test_a_name_of_any_bytes_is_shown_escaped_and_is_valid_json(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    folder = pictures(1)
    odd = os.fsencode(folder) + b"/\xff\x1b[31m.jpg"
    with open(odd, "wb") as file:
        file.write(b"no image")

    done = ingest("run", folder, "--pack", "P", "--create-pack")
    told = ingest("failures")
    listed = ingest("failures", "--json")
    alone = ingest("run", odd, "--pack", "P", "--json")

    assert done.code == 1, done
    assert r"\xff\x1b[31m.jpg" in told.out
    assert "\x1b" not in told.out
    assert listed.out.isascii()
    assert os.fsencode(listed.json["image"]) == odd
    assert alone.json["rejected"] == 1, alone


def test_run_without_a_source_continues_what_is_pending(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    sandbox.fail(
        {"operation": "upload_file", "kind": "error", "status": 401, "after": 2},
        {"operation": "list_packs", "kind": "error", "status": 401, "match": "packs?limit=1"},  # asked to confirm it
    )
    refused = ingest("run", pictures(6), "--pack", "P", "--create-pack", "--concurrency", "1", "--json")
    assert refused.code == 3, refused
    sandbox.fail()

    done = ingest("run", "--json")

    assert done.code == 0, done
    assert len(sandbox.urls("P")) == refused.json["added"] + done.json["added"] == 6


def test_unanswered_adds_are_looked_up_and_never_made_twice(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    sandbox.fail({"operation": "add_image", "kind": "cut_after", "times": 3})

    done = ingest("run", pictures(8), "--pack", "P", "--create-pack", "--settle-delay", "0.5s", "--json")

    assert done.code == 0, done
    assert len(set(sandbox.urls("P"))) == len(sandbox.urls("P")) == 8


def test_metrics_are_served_while_it_runs(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    sandbox.fail({"operation": "put", "kind": "hang"})
    with ingest.start("run", pictures(1), "--pack", "P", "--create-pack", "--metrics-port", "0") as running:
        line = running.wait_for_line("/metrics")
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address is not None, line

        with urllib.request.urlopen(f"{address[0]}/healthz", timeout=10) as answer:
            assert answer.read() == b"ok\n"
        with urllib.request.urlopen(f"{address[0]}/metrics", timeout=10) as answer:
            assert b"ingest_jobs_total" in answer.read()


def test_a_metrics_port_in_use_is_a_message(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    port = sandbox.url.rpartition(":")[2]

    done = ingest("run", pictures(1), "--pack", "P", "--create-pack", "--metrics-port", port, "--json")

    assert done.code == 2, done
    assert done.json["error"]["code"] == "port_in_use"


def test_no_secret_is_ever_written(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    sandbox.fail({"operation": "put", "kind": "error", "status": 500, "times": 2})

    done = ingest("run", pictures(3), "--pack", "P", "--create-pack", "--log-level", "debug")

    assert done.code == 0, done
    written = (done.out + done.err).encode() + b"".join(
        path.read_bytes() for path in ingest.home.rglob("*") if path.is_file()
    )
    assert sandbox.key.partition(".")[2].encode() not in written
    assert b"X-Amz-Signature" not in written


@pytest.mark.parametrize("more", [["--log-format", "console"], []])
def test_a_log_says_what_was_rejected(ingest: CommandLine, pictures: Callable[..., Path], more: list[str]) -> None:
    folder = pictures(1)
    (folder / "broken.jpg").write_bytes(b"no image")

    done = ingest("run", folder, "--pack", "P", "--create-pack", *more)

    (line,) = [line for line in done.err.splitlines() if "job.settled" in line]
    assert "broken.jpg" in line
    if not more:
        assert json.loads(line)["outcome"] == "rejected"


def test_nobody_reading_stdout_is_no_error(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with ingest.start("run", pictures(1), "--pack", "P", "--create-pack", "--json") as running:
        assert running.finish().code == 0
    os.close(writer)


def test_a_rate_bounds_and_does_not_stall(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    done = ingest("run", pictures(40), "--pack", "P", "--create-pack", "--rate", "100", "--json")

    assert done.code == 0, done
    assert done.json["added"] == 40
    # One request may start at once; each later one of the API's lane is 10 ms after another.
    api = sum(sum(answers.values()) for name, answers in sandbox.ledger()["requests"].items() if name != "put")
    assert done.json["duration_s"] >= (api - 1) * 0.01 * 0.5
