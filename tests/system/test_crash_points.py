"""SIGKILL before, inside and after every line of the protocol, then a restart: by the server's ledger, nothing is lost
and nothing is added twice.

`EVERY_POINT=1 python -m pytest -n 0 -s tests/system/test_crash_points.py` kills at all of them and prints a table.
A kill before a step leaves what one in or after the step ahead of it does: the suite goes without most of those.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import crashing
import pytest

from ingest.journal.records import Selection
from ingest.journal.tending import SqliteReader
from ingest.model import Outcome
from ingest.policy.lifecycle import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import CommandLine, Finished, Served

IMAGES = 5
MOST_RESTARTS = 3
PACK = "No id"  # what may be one is asked for before its name

MENDING = {"Missed", "Sighted", "Doubted"}
"""Changes that no run makes, but `ingest verify --repair`."""


@dataclass(frozen=True)
class Scenario:
    """What makes a run come by a point."""

    faults: tuple[dict[str, Any], ...] = ()
    copies: int = 0  # of the first image, under another name
    earlier: str = ""  # where an earlier process was killed
    deaths: int = 0  # as if so many had died with these jobs
    signals: tuple[str, ...] = ()  # that come before the end, as points


ADD = {"operation": "add_image", "times": 1}
STALE = {"operation": "get_pack", "kind": "stale_read", "times": 1, "within_s": 3600}
REFUSED = {"operation": "upload_file", "kind": "error", "status": 500}

SCENARIOS = {
    "plain": Scenario(),
    "no answer to a create": Scenario(({"operation": "create_pack", "kind": "cut_after", "times": 1},)),
    "no answer to a reserve": Scenario(({"operation": "upload_file", "kind": "cut_after", "after": 2, "times": 1},)),
    "no answer to a put": Scenario(({"operation": "put", "kind": "cut_after", "after": 2, "times": 1},)),
    "an add that is lost": Scenario(({**ADD, "kind": "cut_before", "after": 2},)),
    "an add without an answer": Scenario(({**ADD, "kind": "cut_after", "after": 2},)),
    "an add that lands late": Scenario(({**ADD, "kind": "late", "after": 2, "delay_s": 0.15},)),
    "a refused reserve": Scenario(({**REFUSED, "times": 1},)),
    # The first lookup misses the add that has landed, so that the image is added again: what the audit is for.
    "an image added twice": Scenario(({**ADD, "kind": "cut_after"}, STALE)),
    "no answer to a delete": Scenario(
        ({**ADD, "kind": "cut_after"}, STALE, {"operation": "delete_image", "kind": "cut_after", "times": 1})
    ),
    "equal files": Scenario(copies=2),
    "a restart": Scenario(earlier="Stored.after:3"),
    "suspects": Scenario(earlier="admit.after", deaths=3),
    "equal suspects": Scenario(({**ADD, "kind": "cut_after"},), copies=1, earlier="admit.after", deaths=3),
    # All are sent back once, and the signal comes as the last one asks: they are put back out of their back-off.
    "a stop": Scenario(({**REFUSED, "times": IMAGES},), signals=(f"reserve.before:{IMAGES}=SIGTERM",)),
}


@dataclass(frozen=True)
class Point:
    """Where the process is killed: the nth time that it comes by."""

    name: str
    line: str  # of the protocol (DESIGN §3)
    scenario: str = "plain"
    nth: int = 1
    is_blamed: bool = False  # a job that died alone there is quarantined until a person retries it


def commit(place: str, line: str, scenario: str = "plain", nth: int = 1, blamed: tuple[str, ...] = ()) -> list[Point]:
    moments = ("before", "inside", "after")
    return [Point(f"{place}.{moment}", line, scenario, nth, moment in blamed) for moment in moments]


def call(place: str, line: str, scenario: str = "plain", nth: int = 1) -> list[Point]:
    return [Point(f"{place}.{moment}", line, scenario, nth) for moment in ("before", "after")]


POINTS = [
    *commit("migrate", "journal: the schema is made in one transaction"),
    *commit("mark", "journal: an opening raises its mark", "a restart"),
    *call("tell", "journal: its mark is told when the commit has returned", "a restart"),
    *call("tell", "journal: its mark is told when the commit has returned", nth=4),
    *call("create", "packs: a name is looked up before it is made"),
    Point("create.unanswered", "packs: a create without an answer", "no answer to a create"),
    *commit("begin", "1: claims of dead processes are freed, what was stored is parked", "a restart"),
    *commit("admit", "1: admitted and claimed before any request"),
    *commit("Spent", "2: an answer spends an attempt", "a refused reserve"),
    *commit("Tested", "2: a suspect runs alone", "suspects", nth=3, blamed=("after",)),
    *commit("Excused", "2: it waits, and is to blame no more", "equal suspects", blamed=("before", "inside")),
    *call("inspect", "3: inspect", nth=3),
    *commit("duplicate", "3: a known fingerprint is a duplicate", "equal files"),
    *call("reserve", "4: reserve", nth=3),
    Point("reserve.unanswered", "4: reserve", "no answer to a reserve"),
    *call("put", "4: put", nth=3),
    Point("put.unanswered", "4: put", "no answer to a put"),
    *commit("Stored", "5: the url is durable before the add", nth=3),
    *call("add", "6: add", nth=3),
    Point("add.unanswered", "6: an add that took effect, its answer not read", "an add without an answer"),
    Point("add.unanswered", "6: an add that took no effect", "an add that is lost"),
    Point("add.unanswered", "6: an add whose effect is still to come", "an add that lands late"),
    *commit("Parked", "6: an uncertain job is parked", "an add without an answer"),
    *call("read", "6: one read resolves the parked", "an add without an answer"),
    *commit("found", "6: found means added", "an add without an answer"),
    *commit("Resent", "7: the count and the audit are durable before another add", "an image added twice"),
    Point("add.before", "7: another add of the same url", "an image added twice", nth=IMAGES + 1),
    Point("add.after", "7: another add of the same url", "an image added twice", nth=IMAGES),  # one has no answer
    *call("read", "7: the audit reads the pack", "an image added twice", nth=2),
    *commit("Condemned", "7: what is to be deleted is durable before it is", "an image added twice"),
    *call("delete", "7: a surplus copy is deleted by its id", "an image added twice"),
    Point("delete.unanswered", "7: a delete without an answer", "no answer to a delete"),
    *commit("AuditClosed", "7: the audit is done", "an image added twice"),
    *commit("added", "8: the outcome is durable", nth=3),
    *call("acknowledge", "8: acknowledged when it is", nth=3),
    *commit("end", "8: the run ends"),
    *call("drain", "a stop: what is in hand is finished", "a stop"),
    *commit("Released", "a stop: what was not sent is put back", "a stop", nth=3),
]

TELLING = {"create", "reserve", "put", "add", "read", "delete"} | {"admit", "Stored", "Resent", "added", "Condemned"}
# After any other commit the process does nothing that somebody else could see before the next point.

CHOSEN = [
    point
    for point in POINTS
    if os.environ.get("EVERY_POINT")
    or point.name.endswith((".inside", ".unanswered"))
    or point.name.startswith("tell.")
    or (point.name.endswith(".after") and point.name.partition(".")[0] in TELLING)
]


@dataclass(frozen=True)
class Result:
    """What a point came to."""

    point: Point
    restarts: int
    lost: int
    doubled: int


@pytest.fixture(scope="module")
def table() -> Iterator[list[Result]]:
    results: list[Result] = []
    yield results
    print(f"\n\n{'point':<20} {'line of the protocol':<64} killed restarts lost doubled")
    for result in results:
        name, line = result.point.name, result.point.line
        print(f"{name:<20} {line:<64} {'yes':>6} {result.restarts:>8} {result.lost:>4} {result.doubled:>7}")
    lost, doubled = sum(result.lost for result in results), sum(result.doubled for result in results)
    print(f"points killed {len(results)}, lost {lost}, doubled {doubled}")


class Runs:
    """Runs of one folder into one pack with one journal."""

    def __init__(self, ingest: CommandLine, folder: Path) -> None:
        self._ingest = ingest
        self.journal = ingest.home / "journal.db"
        self._args = ("run", folder, "--pack", PACK, "--create-pack", "--settle-delay", "200ms", "--json")
        self._args += ("--journal", self.journal)

    def killed(self, *points: str) -> None:
        """One that is killed at the last of these points."""
        done = subprocess.run(
            [sys.executable, crashing.__file__, *points, "--", *self._args],
            env=self._ingest.environment(),
            cwd=self._ingest.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        told = f"{points} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == -signal.SIGKILL, told
        assert crashing.reached(points[-1].partition(":")[0]) in done.stderr.splitlines(), told

    def to_the_end(self, *, is_blamed: bool) -> tuple[int, Finished]:
        """Restarts until all is done, and the last one. What is quarantined is retried, once a person knows of it."""
        for restarts in range(1, MOST_RESTARTS + 1):
            done = self._ingest(*self._args)
            told = done.json
            assert told["discovered"] == sum(told[outcome] for outcome in ("pending", *Outcome)), told
            if done.code == 0:
                return restarts, done
            assert (done.code, told["failed"]) == (1, 1), done
            assert is_blamed, done
            is_blamed = False
            assert self._ingest("retry", "--reason", "quarantined", "--journal", self.journal).code == 0
        raise AssertionError(f"not done after {MOST_RESTARTS} restarts: {done}")

    def age(self, deaths: int) -> None:
        """As if so many processes had died with these jobs in hand, the next restart included."""
        with contextlib.closing(sqlite3.connect(self.journal)) as journal, journal:
            changed = journal.execute("UPDATE jobs SET deaths = ? WHERE state = 'claimed'", [deaths - 1]).rowcount
        assert changed > 0


@pytest.mark.parametrize("point", CHOSEN, ids=lambda point: f"{point.name}, {point.line}")
def test_killed_at_a_point_and_restarted(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], table: list[Result], point: Point
) -> None:
    scenario = SCENARIOS[point.scenario]
    folder = pictures(IMAGES)
    for number in range(scenario.copies):
        shutil.copy(folder / "000.jpg", folder / f"000-{number}.jpg")
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()]
    runs = Runs(ingest, folder)
    if scenario.earlier:
        runs.killed(scenario.earlier)
    if scenario.deaths:
        runs.age(scenario.deaths)
    sandbox.fail(*scenario.faults)

    runs.killed(*scenario.signals, f"{point.name}:{point.nth}")
    restarts, done = runs.to_the_end(is_blamed=point.is_blamed)

    pack = sandbox.pack(PACK)["images"]
    held = Counter(image["sha256"] for image in pack)
    lost, doubled = len(set(files) - set(held)), sum(held.values()) - len(held)
    table.append(Result(point, restarts, lost, doubled))
    assert (lost, doubled, set(held)) == (0, 0, set(files))
    with SqliteReader.open(runs.journal, None) as journal:
        records = list(journal.records(Selection()))
    states = Counter(record.state for record in records)
    assert states == Counter({State.ADDED: IMAGES}) + Counter({State.DUPLICATE: scenario.copies})
    assert {record.url for record in records if record.state is State.ADDED} == {image["url"] for image in pack}
    assert not any(record.audit_is_open for record in records)
    assert done.json["discovered"] == len(files)


def test_every_call_and_every_commit_of_a_run_has_its_points() -> None:
    named = {point.name for point in POINTS}
    commits = {*crashing.METHODS, *crashing.CHANGES, "added", "found", "duplicate"} - MENDING
    for place in commits:
        assert {f"{place}.before", f"{place}.inside", f"{place}.after"} <= named
    for place in crashing.CALLS:
        assert {f"{place}.before", f"{place}.after"} <= named


def test_a_point_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"no point nowhere\.before"):
        crashing.arm(crashing.Trigger("nowhere.before"))
