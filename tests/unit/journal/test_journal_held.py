"""What the writer remembers of the jobs in hand is what the file holds, whatever was rolled back."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest
from journal_samples import PACK, RUN, SUMMARY, TARGET, candidate, settled, stored
from msgspec.structs import replace

from ingest.journal import held
from ingest.journal.changes import Parked, Released
from ingest.journal.records import Selection
from ingest.journal.sqlite import SqliteJournal
from ingest.journal.tending import SqliteReader
from ingest.model import Outcome, PackId
from ingest.policy.lifecycle import IllegalTransition, State

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from ingest.journal.records import Record

OTHER = PackId("pack-2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[SqliteJournal]:
    async with SqliteJournal.open(path, TARGET) as journal:
        await journal.begin(RUN, key_id="key", pid=1)
        yield journal


async def claimed(journal: SqliteJournal, *names: str, pack_id: PackId = PACK) -> list[Record]:
    return [found.record for found in await journal.admit(RUN, [candidate(name, pack_id) for name in names])]


async def one_batch(journal: SqliteJournal, *posts: Callable[[], Awaitable[object]]) -> list[object]:
    """What each post came to; the writer is held up until all of them wait for one commit."""

    async def made(post: Callable[[], Awaitable[object]]) -> object:
        return await post()

    go = threading.Event()
    journal._commits.submit(lambda _: go.wait(30))
    waits = [asyncio.ensure_future(made(post)) for post in posts]
    await asyncio.sleep(0)
    go.set()
    return await asyncio.gather(*waits, return_exceptions=True)


def in_file(path: Path) -> list[Record]:
    with SqliteReader.open(path, TARGET) as reader:
        return list(reader.records(Selection()))


async def test_a_batch_that_is_run_again_finds_its_jobs_as_they_were(journal: SqliteJournal, path: Path) -> None:
    good, bad = await claimed(journal, "good.jpg", "bad.jpg")
    results = await one_batch(
        journal,
        lambda: journal.submit(stored(good)),
        lambda: claimed(journal, "new.jpg", pack_id=OTHER),
        lambda: journal.submit(Parked(job_id=bad.job_id, reason="timeout")),
        lambda: journal.submit(stored(bad)),
    )
    assert isinstance(results[2], IllegalTransition)
    assert [record.state for record in in_file(path)] == [State.STORED, State.STORED, State.CLAIMED]
    assert set(await journal.packs()) == {PACK, OTHER}
    assert [results[0], results[3], *results[1]] == in_file(path)


async def test_what_a_failing_member_wrote_is_not_remembered(journal: SqliteJournal, path: Path) -> None:
    (record,) = await claimed(journal, "a.jpg")

    def failing(connection: sqlite3.Connection) -> None:
        journal._held.update(connection, record, replace(record, state=State.STORED))
        journal._held.reach(connection, 1, OTHER, "another")
        raise LookupError("not this one")

    with pytest.raises(LookupError):
        await journal._commits.submit(failing)
    assert set(await journal.packs()) == {PACK}
    await journal.admit(RUN, [replace(candidate("b.jpg", OTHER), key_id="another")])
    assert dict(await journal.packs()) == {PACK: "key", OTHER: "another"}
    assert (await journal.submit(stored(record))).state is State.STORED
    assert [record.state for record in in_file(path)] == [State.STORED, State.CLAIMED]


async def test_what_waits_or_has_ended_is_not_kept(journal: SqliteJournal, path: Path) -> None:
    records = await claimed(journal, *"abcd")
    assert len(journal._held._records) == 4
    for change in (
        Released(job_id=records[0].job_id),
        stored(records[1]),
        settled(records[1], Outcome.ADDED),
        stored(records[2]),
        Parked(job_id=records[2].job_id, reason="timeout"),
    ):
        await journal.submit(change)
    assert list(journal._held._records) == [records[3].job_id]
    await journal.end(RUN, SUMMARY)
    assert not journal._held._records
    assert [record.state for record in in_file(path)] == [State.PENDING, State.ADDED, State.PARKED, State.PENDING]


async def test_no_more_is_kept_than_the_bound(
    journal: SqliteJournal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "MAX_HELD", 3)
    records = await claimed(journal, *"abcdefgh")
    assert len(journal._held._records) <= 3
    for record in records:
        assert (await journal.submit(stored(record))).state is State.STORED
        assert len(journal._held._records) <= 3
    assert [record.state for record in in_file(path)] == [State.STORED] * 8


async def test_a_job_named_twice_in_a_batch_is_one_job(journal: SqliteJournal, path: Path) -> None:
    names = [f"{number % 150}.jpg" for number in range(400)]  # more than one statement asks for
    first = await claimed(journal, *names)
    assert await claimed(journal, *names[:150]) == in_file(path)
    assert [record.job_id for record in first] == [number % 150 + 1 for number in range(400)]
