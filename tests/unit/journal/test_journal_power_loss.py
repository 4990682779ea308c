"""The journal after a loss of power: whatever of the writes that were not synced is lost, torn or out of order.

A real run upon a model server is watched: after each commit the files and the server are copied. Between one copy and
the next lie the states that a loss of power can leave; each is opened as it is, and some are run to their end.

`EVERY_CUT=1 python -m pytest -n 0 -s tests/unit/journal/test_journal_power_loss.py` tries all of them.
"""

from __future__ import annotations

import enum
import functools
import itertools
import os
import random
import sys
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from journal_samples import TARGET

from ingest.journal import database, opening
from ingest.journal.commit import GroupCommit
from ingest.journal.lock import lock_path
from ingest.journal.rows import COLUMNS, record_of
from ingest.journal.sqlite import SqliteJournal
from ingest.model import Operation, RunId
from ingest.policy.lifecycle import OUTCOMES, State

sys.path.append(str(Path(__file__).parent.parent / "pipeline"))
from pipeline_model import ListSource, Model, System, envelope, named, pictures, refused, silence

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline_model import Do

    from ingest.api.transport import Answer, Call
    from ingest.journal.commit import Store
    from ingest.journal.mark import Mark
    from ingest.journal.records import Record
    from ingest.model import JobId

EVERY_CUT = bool(os.environ.get("EVERY_CUT"))
OPENED, CONTINUED = (None, 10) if EVERY_CUT else (4, 1)
"""How many cuts of each kind are opened (None: all), and how many of them are run to their end."""

IMAGES = 200 if EVERY_CUT else 40

PAGE_BYTES = 4096
HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24  # of a log and of each of its frames (https://www.sqlite.org/walformat.html)
FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES
CHECKPOINT_PAGES = 24
MOST_SUBSETS = 64  # of the pages of one checkpoint


class Server(Model):
    """A model server that can be copied while it works."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def _do(self, call: Call, body: bytes) -> Answer:
        with self._lock:
            return super()._do(call, body)

    def copied(self) -> Server:
        """The same packs and objects, and nothing that goes wrong."""
        with self._lock:
            other = Server()
            other.packs = {key: replace(pack, images=list(pack.images)) for key, pack in self.packs.items()}
            other.objects, other._tickets = dict(self.objects), dict(self._tickets)
            other._number, other._packs_made = self._number, self._packs_made
            return other


@dataclass(frozen=True)
class Moment:
    """A commit has returned: what lies on the disk, all of it synced, what it says, and what the server has.

    The lock is never synced: any earlier one may be left beside it, or none, or half of one.
    """

    file: bytes
    log: bytes
    lock: bytes
    records: Mapping[JobId, Record]
    server: Server


@dataclass(frozen=True)
class Cut:
    """What a loss of power between two moments left. `file` and `log` make their contents when asked.

    `lock` is the latest that can be left: the mark of a commit is told when its log is synced.
    """

    kind: str
    before: Moment
    after: Moment
    file: Callable[[], bytes]
    log: Callable[[], bytes]
    lock: bytes


# The run that is watched.


def read(connection: sqlite3.Connection) -> dict[JobId, Record]:
    return {(record := record_of(row)).job_id: record for row in connection.execute(f"SELECT {COLUMNS} FROM jobs")}


async def stale(_call: Call, do: Do) -> Answer:
    """A read that shows no image yet."""
    do()
    return envelope(200, {"id": "pack-1", "name": "Motivation", "image_count": 0, "is_public": False, "images": []})


def trouble(server: Server) -> None:
    """A bit of everything that the protocol has a line for."""
    lost, landed = silence(), silence(effect=True)
    server.next(Operation.ADD_IMAGE, None, lost, None, landed, refused(500), None, refused(500, effect=True))
    server.next(Operation.ADD_IMAGE, *[None, landed, None] * 5)
    server.next(Operation.UPLOAD_FILE, None, None, refused(500), None, refused(422, "invalid_payload"))
    server.next(Operation.GET_PACK, None, stale)  # the first one looks for the pack


async def watched_run(folder: Path, paths: Sequence[Path]) -> list[Moment]:
    """Every moment of a run, from a file without tables to one that is closed."""
    path, server, moments = folder / "journal.db", Server(), list[Moment]()
    server.add_pack()
    trouble(server)
    commit, migrate, checkpoint, mark = GroupCommit._commit, database._migrate, database._checkpoint, opening._raise

    def keep(connection: sqlite3.Connection) -> None:
        is_made = connection.execute("PRAGMA user_version").fetchone()[0] > 0
        log = Path(f"{path}-wal")
        moments.append(
            Moment(
                path.read_bytes(),
                log.read_bytes() if log.exists() else b"",
                lock_path(path).read_bytes(),
                read(connection) if is_made else {},
                server.copied(),
            )
        )

    def committed(self: GroupCommit, store: Store, batch: Any) -> Any:
        told = commit(self, store, batch)
        keep(store.connection)
        return told

    def checkpointed(connection: sqlite3.Connection) -> None:
        checkpoint(connection)
        keep(connection)

    def marked(connection: sqlite3.Connection) -> Mark:
        made = mark(connection)
        keep(connection)
        return made

    def migrated(connection: sqlite3.Connection, version: int) -> None:
        # Checkpoints come often, and pages leave the cache before their transaction ends.
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        connection.execute("PRAGMA cache_size=10")
        keep(connection)
        migrate(connection, version)
        keep(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupCommit, "_commit", committed)
        patch.setattr(database, "_migrate", migrated)
        patch.setattr(database, "_checkpoint", checkpointed)
        patch.setattr(opening, "_raise", marked)
        async with SqliteJournal.open(path, TARGET) as journal:
            summary = await System(server, journal).run(ListSource(named(*paths), batch_size=16))
            assert (summary.rejected, summary.added) == (1, IMAGES - 1), summary
    moments.append(replace(moments[-1], file=path.read_bytes(), log=b""))  # the last checkpoint, and no log any more
    return moments


# The states between two moments.


def end_of(log: bytes) -> int:
    """Where the frames end that belong to the log's header: what follows is left from before it was restarted."""
    salts, at = log[16:24], HEADER_BYTES
    while log[at + 8 : at + 16] == salts and len(salts) == 8:
        at += FRAME_BYTES
    return at if log else 0


class Fill(enum.StrEnum):
    """What lies where a write did not arrive."""

    OLD = "what was there"  # or nothing, at the end of the file
    ZEROS = "zeros"
    GARBAGE = "garbage"


def cuts_of(before: Moment, after: Moment, dice: random.Random) -> Iterator[Cut]:
    """The log is written and synced; only then a checkpoint writes pages into the file, and that is synced."""
    log = after.log or before.log
    if after.log:
        yield from _cuts_of_log(before, after)
    size = max(len(before.file), len(after.file))
    changed = [at for at in range(0, size, PAGE_BYTES) if before.file[at:][:PAGE_BYTES] != after.file[at:][:PAGE_BYTES]]
    for kind, written in _subsets(changed, dice):
        file = functools.partial(_with_pages, before.file, after.file, written, is_torn=kind == "torn pages")
        yield Cut(f"checkpoint: {kind}", before, after, file, lambda: log, after.lock)


def _cuts_of_log(before: Moment, after: Moment) -> Iterator[Cut]:
    old, new = before.log, after.log
    is_anew = old[:HEADER_BYTES] != new[:HEADER_BYTES]
    begin, end = 0 if is_anew else end_of(old), end_of(new)
    name = "log begun anew over old frames" if is_anew and old else "log"
    frames = range(max(begin, HEADER_BYTES), end, FRAME_BYTES)
    places = [("in its header", at) for at in (0, 4, 16, 24, 31) if is_anew]
    for frame in frames:
        places += [
            ("before a frame", frame),
            ("in a frame's header", frame + FRAME_HEADER_BYTES // 2),
            ("before a page", frame + FRAME_HEADER_BYTES),
            ("in a page", frame + FRAME_HEADER_BYTES + PAGE_BYTES // 2),
            ("before a last byte", frame + FRAME_BYTES - 1),
        ]
    for fill in Fill:
        for place, at in places:
            log = functools.partial(_overwritten, old, new, at, end, fill)
            yield Cut(f"{name}: cut {place}, then {fill}", before, after, lambda: before.file, log, before.lock)
        for frame in frames:
            log = functools.partial(_overwritten, old, new, frame, frame + FRAME_BYTES, fill)
            yield Cut(f"{name}: one frame is {fill}", before, after, lambda: before.file, log, before.lock)


def _overwritten(old: bytes, new: bytes, at: int, until: int, fill: Fill) -> bytes:
    """`new` whose bytes from `at` to `until` did not reach the disk."""
    match fill:
        case Fill.OLD:
            there = old[at:until]
        case Fill.ZEROS:
            there = bytes(until - at)
        case Fill.GARBAGE:
            there = random.Random(at).randbytes(until - at)
    rest = max(old[until:], new[until:], key=len) if until >= end_of(new) else new[until:]
    return new[:at] + (there.ljust(until - at, b"\0") if rest else there) + rest


def _subsets(changed: Sequence[int], dice: random.Random) -> Iterator[tuple[str, frozenset[int]]]:
    """Which pages of a checkpoint were written: all subsets where they are few."""
    if not changed:
        return
    yield "torn pages", frozenset(changed)
    if 2 ** len(changed) <= MOST_SUBSETS:
        for count in range(len(changed) + 1):
            yield from (("some pages", frozenset(chosen)) for chosen in itertools.combinations(changed, count))
        return
    for count in range(len(changed) + 1):
        yield "first pages", frozenset(changed[:count])
    for page in changed:
        yield "one page missing", frozenset(changed) - {page}
    for _ in range(MOST_SUBSETS):
        yield "some pages", frozenset(page for page in changed if dice.random() < 0.5)


def _with_pages(old: bytes, new: bytes, written: frozenset[int], *, is_torn: bool) -> bytes:
    file = bytearray(old)
    for at in sorted(written):
        page = new[at : at + PAGE_BYTES]
        file.extend(bytes(max(0, at + len(page) - len(file))))
        file[at : at + (PAGE_BYTES // 2 if is_torn else PAGE_BYTES)] = page[: PAGE_BYTES // 2] if is_torn else page
    return bytes(file)


# What must hold.


async def survives(folder: Path, cut: Cut, lock: bytes, paths: Sequence[Path], *, is_continued: bool) -> None:
    """The journal opens as it is, forgets nothing that was told, and a run on it ends as if nothing had happened."""
    path = folder / "journal.db"
    for left in folder.iterdir():
        left.unlink()
    path.write_bytes(cut.file())
    Path(f"{path}-wal").write_bytes(cut.log())
    lock_path(path).write_bytes(lock)

    def look(connection: sqlite3.Connection) -> tuple[str, dict[JobId, Record]]:
        return connection.execute("PRAGMA integrity_check").fetchone()[0], read(connection)

    async with SqliteJournal.open(path, TARGET) as journal:
        verdict, records = await journal._commits.submit(look)
        assert verdict == "ok"
        assert records in (cut.before.records, cut.after.records)
        opening = await journal.begin(RunId("after"), key_id="key-1", pid=2)
        parked = {record.job_id: record for record in opening.parked}
        _, records = await journal._commits.submit(look)
        for was in cut.before.records.values():
            record = records[was.job_id]
            if was.state in OUTCOMES:
                assert (record.state, record.url) == (was.state, was.url)
            elif was.state in {State.STORED, State.PARKED}:
                assert record.url == was.url
                assert record.adds_sent >= was.adds_sent > 0
                assert record.state in OUTCOMES or parked[was.job_id] == record
        if is_continued:
            await ends_well(journal, cut, paths)


async def ends_well(journal: SqliteJournal, cut: Cut, paths: Sequence[Path]) -> None:
    server = cut.after.server.copied()  # the latest that it can have been: all was sent that the last commit allowed
    summary = await System(server, journal).run(ListSource(named(*paths)))
    assert summary.pending == summary.failed == 0
    records = await journal._commits.submit(read)
    urls = server.packs["pack-1"].urls
    added = {record.locator: record.url for record in records.values() if record.state is State.ADDED}
    refused_before = {record.locator for record in cut.after.records.values() if record.state is State.REJECTED}
    assert set(map(str, paths)) - refused_before <= set(added)
    assert Counter(urls) == Counter(added.values())
    assert all(server.objects[url] == Path(locator).read_bytes() for locator, url in added.items())
    assert not any(record.audit_is_open for record in records.values())


@pytest.mark.timeout(3600 if EVERY_CUT else 60)
async def test_no_loss_of_unsynced_writes_loses_what_was_told(tmp_path: Path) -> None:
    dice = random.Random(3)
    images, home, scratch = tmp_path / "images", tmp_path / "home", tmp_path / "scratch"
    for folder in (images, home, scratch):
        folder.mkdir()
    paths = pictures(images, IMAGES)
    moments = await watched_run(home, paths)
    cuts = [cut for before, after in itertools.pairwise(moments) for cut in cuts_of(before, after, dice)]
    # The run has come by everything that must survive.
    seen = [record for moment in moments for record in moment.records.values()]
    assert {record.state for record in seen} >= {State.CLAIMED, State.STORED, State.PARKED, State.ADDED, State.REJECTED}
    assert any(record.audit_is_open for record in seen)
    assert {cut.kind.partition(":")[0] for cut in cuts} >= {"checkpoint", "log", "log begun anew over old frames"}
    by_kind: defaultdict[str, list[Cut]] = defaultdict(list)
    for cut in cuts:
        by_kind[cut.kind].append(cut)
    tried, failures = 0, list[str]()
    for kind, alike in by_kind.items():
        dice.shuffle(alike)
        for number, cut in enumerate(alike[:OPENED]):
            # Mostly the latest lock, which asks most of the database; else an earlier one, or a torn one.
            earlier = dice.choice(moments[: moments.index(cut.before) + 1]).lock
            lock = dice.choice([cut.lock, cut.lock, cut.lock, earlier, cut.lock[: len(cut.lock) // 2]])
            try:
                await survives(scratch, cut, lock, paths, is_continued=number < CONTINUED)
            except Exception as error:
                failures.append(f"{kind}: {error!r}")
            tried += 1
    print(f"\n{len(moments)} moments, {len(cuts)} cuts")
    for kind, alike in sorted(by_kind.items()):
        print(f"{len(alike):>6} {kind}")
    print(f"{tried} tried, {len(failures)} failures")
    assert not failures, failures[:5]
