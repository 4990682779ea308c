"""`ingest run` on manifests: what their rows name is added once, what they get wrong is told by its line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import crashing
import pytest
from bad_rows import BAD_ROWS, TAKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import CommandLine, Finished, Served

GOOD = 51
"""One before each bad row, and one after the last."""


@pytest.fixture
def folder(pictures: Callable[..., Path]) -> Path:
    return pictures(GOOD)


@pytest.fixture
def bad_manifest(folder: Path) -> Path:
    """Good rows on the odd lines, bad ones on the even."""
    good = [{"image": path.name, "id": TAKEN if number == 0 else None} for number, path in enumerate(images(folder))]
    rows = [json.dumps(row).encode() for row in good]
    for number, (raw, _) in enumerate(BAD_ROWS):
        rows.insert(2 * number + 1, raw)
    (folder / "list.jsonl").write_bytes(b"\n".join(rows))
    return folder / "list.jsonl"


def images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in {".jpg", ".png", ".webp"})


def refused(ingest: CommandLine) -> list[tuple[str, int, str]]:
    """Source, line and reason of all that is no job."""
    lines = ingest("failures", "--outcome", "rejected", "--json").lines
    assert all(line["detail"] for line in lines)
    return sorted((line["source"], int(line["place"]), line["reason"]) for line in lines if line["image"] is None)


def expected(manifest: Path) -> list[tuple[str, int, str]]:
    return [(str(manifest), 2 * number, reason) for number, (_, reason) in enumerate(BAD_ROWS, start=1)]


def check_each_once(sandbox: Served, pack: str, count: int) -> None:
    urls = sandbox.urls(pack)
    assert len(urls) == len(set(urls)) == count
    # By what was uploaded, and not by its address: no image is there twice.
    files = {file["url"]: file["filename"] for file in sandbox.ledger()["files"]}
    assert len({files[url] for url in urls}) == count


def make_pack(ingest: CommandLine, name: str = "P") -> None:
    assert ingest("packs", "create", name).code == 0


def test_there_are_fifty_kinds() -> None:
    assert len(BAD_ROWS) == len({raw for raw, _ in BAD_ROWS}) == 50


def test_bad_rows_are_refused_one_by_one_and_good_ones_added(
    ingest: CommandLine, sandbox: Served, bad_manifest: Path
) -> None:
    make_pack(ingest)

    done = ingest("run", bad_manifest, "--pack", "P", "--json")

    assert done.code == 1, done
    counts = [done.json[key] for key in ("discovered", "added", "duplicate", "rejected", "failed", "pending")]
    assert counts == [GOOD + 50, GOOD, 0, 50, 0, 0]
    assert refused(ingest) == expected(bad_manifest)
    check_each_once(sandbox, "P", GOOD)

    again = ingest("run", bad_manifest, "--pack", "P", "--json")
    counts = [again.json[key] for key in ("discovered", "added", "duplicate", "unchanged", "rejected")]
    assert (again.code, counts) == (1, [GOOD + 50, 0, GOOD, GOOD, 50])
    assert refused(ingest) == expected(bad_manifest)
    check_each_once(sandbox, "P", GOOD)


@pytest.mark.parametrize(
    "point",
    [
        "refuse.before",
        "refuse.inside",
        "refuse.after",
        "refuse.after:2",
        "mended.before",
        "mended.inside",
        "mended.after",
        "Stored.after:20",
        "added.after:30",
    ],
)
def test_killed_in_the_middle_the_next_run_has_it_all(
    ingest: CommandLine, sandbox: Served, bad_manifest: Path, point: str
) -> None:
    make_pack(ingest)
    # Twice, so that its rows are refused a second time in the same run.
    arguments = ["run", str(bad_manifest), str(bad_manifest), "--pack", "P", "--json", "--settle-delay", "0.2"]
    killed = subprocess.run(
        [sys.executable, Path(crashing.__file__), point, "--", *arguments],
        env=ingest.environment(),
        cwd=ingest.home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert crashing.reached(point.partition(":")[0]) in killed.stderr

    done = ingest("run", bad_manifest, "--pack", "P", "--json", "--settle-delay", "0.2")

    assert (done.code, done.json["discovered"], done.json["rejected"], done.json["pending"]) == (1, GOOD + 50, 50, 0)
    assert done.json["added"] + done.json["duplicate"] == GOOD
    assert refused(ingest) == expected(bad_manifest)
    check_each_once(sandbox, "P", GOOD)


def test_a_mended_row_is_listed_no_more(ingest: CommandLine, sandbox: Served, folder: Path) -> None:
    make_pack(ingest)
    path, (first, second, *_) = folder / "list.csv", images(folder)
    path.write_text(f"image,pack,note\n{first.name},P,x\n{second.name},p,x\n")

    assert ingest("run", path).code == 1
    assert refused(ingest) == [(str(path), 3, "unknown_pack")]
    status = ingest("status", "--json").lines
    assert [line["rejected"] for line in status if line["kind"] == "pack" and line["pack_id"] is None] == [1]
    told = ingest("failures")
    assert f"{path}:3" in told.out
    assert "There is no pack 'p'" in told.out
    assert "rows that are no jobs" in ingest("status").out
    assert refused(ingest) == [(str(path), 3, "unknown_pack")]
    assert ingest("failures", "--reason", "unknown_pack", "--json").lines
    assert ingest("failures", "--outcome", "failed", "--json").lines == []

    path.write_text(f"image,pack,note\n{first.name},P,x\n{second.name},P,x\n")
    assert ingest("run", path).code == 0
    assert ingest("failures", "--json").lines == []
    assert "rows that are no jobs" not in ingest("status").out
    check_each_once(sandbox, "P", 2)


def test_standard_input(ingest: CommandLine, sandbox: Served, folder: Path) -> None:
    rows = [json.dumps({"image": path.name}) for path in images(folder)[:5]]
    rows.insert(2, "no row")
    done = piped(ingest, folder, "\n".join(rows), "run", "-", "--pack", "P", "--create-pack", "--json")
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["added"], summary["rejected"]) == (1, 5, 1), done.stderr
    assert refused(ingest) == [("-", 3, "bad_row")]
    check_each_once(sandbox, "P", 5)

    done = piped(ingest, folder, "\n".join(rows[:2]), "run", "-", "--pack", "P", "--json")
    assert (done.returncode, json.loads(done.stdout)["unchanged"]) == (0, 2)
    assert refused(ingest) == []


def piped(ingest: CommandLine, folder: Path, content: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ingest", *arguments],
        env=ingest.environment(),
        cwd=folder,
        input=content,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_pipe_is_waited_for(ingest: CommandLine, folder: Path, number: signal.Signals) -> None:
    path = folder / "list.jsonl"
    os.mkfifo(path)
    make_pack(ingest)
    with ingest.start("run", path, "--pack", "P", "--json") as started, path.open("w") as writing:
        writing.write(json.dumps({"image": images(folder)[0].name}) + "\n")
        writing.flush()
        started.wait_for_line("pack.resolved")
        started.signal(number)
        done = started.finish()
    assert done.code == 128 + number, done


@pytest.mark.parametrize("kind", ["directory", "manifest"])
def test_shards_together_add_everything_once(
    ingest: CommandLine, sandbox: Served, folder: Path, bad_manifest: Path, kind: str
) -> None:
    make_pack(ingest)
    source = folder if kind == "directory" else bad_manifest
    sums: Counter[str] = Counter()
    places: list[tuple[str, int, str]] = []
    for index in range(3):
        env = {"JOB_COMPLETION_INDEX": str(index), "INGEST_JOURNAL": str(ingest.home / f"{index}.db")}
        done = ingest("run", source, "--pack", "P", "--shard", "auto/3", "--json", env=env)
        assert done.code == (0 if kind == "directory" else 1), done
        sums.update({key: done.json[key] for key in ("discovered", "added", "rejected", "pending")})
        mine = CommandLineOf(ingest, env)
        places += mine.refused()
        assert done.json["added"] > 5
    bad = 0 if kind == "directory" else 50
    assert sums == {"discovered": GOOD + bad, "added": GOOD, "rejected": bad, "pending": 0}
    assert sorted(places) == ([] if kind == "directory" else expected(bad_manifest))
    check_each_once(sandbox, "P", GOOD)


class CommandLineOf:
    """The command with one shard's journal."""

    def __init__(self, ingest: CommandLine, env: dict[str, str]) -> None:
        self._ingest, self._env = ingest, env

    def __call__(self, *arguments: str) -> Finished:
        return self._ingest(*arguments, env=self._env)

    def refused(self) -> list[tuple[str, int, str]]:
        return refused(self)  # type: ignore[arg-type]


def test_a_shard_without_images_is_no_mistake_and_drops_nothing_of_others(ingest: CommandLine, folder: Path) -> None:
    make_pack(ingest)
    path = folder / "list.txt"
    path.write_bytes(images(folder)[0].name.encode() + b"\n\xff\n")
    codes = {index: ingest("run", path, "--pack", "P", "--shard", f"{index}/4", "--json") for index in range(4)}
    # One journal for all: each pass mends only what is its own.
    assert refused(ingest) == [(str(path), 2, "bad_row")]
    assert Counter(done.code for done in codes.values()) == {0: 3, 1: 1}
    assert sum(done.json["discovered"] for done in codes.values()) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--shard", "4/4"), "from 0/4 to 3/4"),
        (("--shard", "0/0"), "one part or more"),
        (("--shard", "1"), "0/4"),
        (("--shard", "-1/4"), "0/4"),
        (("--shard", "auto/4"), "JOB_COMPLETION_INDEX"),
        (("--shard", "0/4", "--create-pack"), "packs create"),
    ],
)
def test_shards_that_are_none(ingest: CommandLine, sandbox: Served, folder: Path, arguments, says: str) -> None:
    done = ingest("run", folder, "--pack", "P", *arguments, "--json")
    assert (done.code, done.json["exit_code"]) == (2, 2), done
    assert says in done.err
    assert sandbox.ledger()["requests"] == {}


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (("x.csv", b"title,price\n1,2\n"), "no column named image in its first line: title, price"),
        (("x.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9), "holds no text"),
        (("x.jsonl", b'[{"image": "a.jpg"}]\n'), "one JSON array"),
        (("x.csv", "image\n".encode("utf-16")), "UTF-16"),
        (("x.jsonl", None), "can't be read"),
    ],
)
def test_manifests_that_are_none(
    ingest: CommandLine, sandbox: Served, tmp_path: Path, named: tuple[str, bytes | None], says: str
) -> None:
    name, content = named
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = ingest("run", tmp_path / name, "--pack", "P", "--create-pack", "--json")
    assert (done.code, done.json["exit_code"]) == (2, 2), done
    assert says in done.err
    assert sandbox.ledger()["packs"] == []  # a mistake makes no pack


def test_an_empty_manifest(ingest: CommandLine, tmp_path: Path) -> None:
    make_pack(ingest)
    (tmp_path / "x.txt").write_text("\n# nothing\n")
    assert "No image was found" in ingest("run", tmp_path / "x.txt", "--pack", "P").err
    assert ingest("run", tmp_path / "x.txt", "--pack", "P", "--allow-empty").code == 0


def test_a_directory_is_one_whatever_its_name(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    make_pack(ingest)
    assert ingest("run", pictures(2, "x.csv"), "--pack", "P").code == 0
    check_each_once(sandbox, "P", 2)


def test_no_pack_is_needed_where_rows_can_name_theirs(ingest: CommandLine, folder: Path) -> None:
    make_pack(ingest)
    (folder / "x.txt").write_text("000.jpg\n")
    assert "--pack" in ingest("run", folder / "x.txt").err
    (folder / "x.jsonl").write_text('{"image": "000.jpg"}\n')
    done = ingest("run", folder / "x.jsonl", "--json")
    assert (done.code, done.json["error"]["code"], done.json["discovered"]) == (2, "no_pack", 0)
    (folder / "x.jsonl").write_text('{"image": "000.jpg", "pack": "P"}\n')
    assert ingest("run", folder / "x.jsonl").code == 0
