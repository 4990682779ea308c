"""Group commit: order, neighbours, failures of the whole file, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ingest.errors import MachineError, UsageError
from ingest.journal.commit import MAX_BATCH, GroupCommit
from ingest.journal.database import translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE numbers (number INTEGER UNIQUE, filling BLOB)")
    return path


@dataclass
class Plain:
    """A store with nothing around its commits but a count of what was called."""

    connection: sqlite3.Connection
    called: list[str] = field(default_factory=list)

    def before(self) -> None:
        self.called.append("before")

    def within(self) -> None:
        self.called.append("within")

    def after(self) -> None:
        self.called.append("after")


@contextlib.contextmanager
def plain(path: Path) -> Iterator[Plain]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield Plain(connection)


@contextlib.asynccontextmanager
async def running(path: Path, on_commit: Callable[[float], None] = lambda _: None) -> AsyncIterator[GroupCommit]:
    async with GroupCommit.running(
        lambda: plain(path), on_commit=on_commit, translate=lambda error: translated(error, path)
    ) as commits:
        yield commits


def insert(number: int, filling: bytes = b"") -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?, ?)", [number, filling])
        return number

    return work


def durable(path: Path) -> list[int]:
    """What another connection sees: what is committed."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY rowid")]


class Stall:
    """Work at which the writer stops until it is let go, so that what follows becomes one batch."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._release = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self._loop.call_soon_threadsafe(self._reached.set)
        assert self._release.wait(30)

    async def reached(self) -> None:
        await self._reached.wait()

    def let_go(self) -> None:
        self._release.set()


async def test_a_future_is_done_only_when_its_record_is_durable(path: Path) -> None:
    async with running(path) as commits:
        for number in range(20):
            assert await commits.submit(insert(number)) == number
            assert durable(path)[-1] == number


async def test_what_arrives_during_a_commit_makes_the_next_one_in_order(path: Path) -> None:
    durations: list[float] = []
    async with running(path, durations.append) as commits:
        stall = Stall()
        first = commits.submit(stall)
        await stall.reached()
        told: list[int] = []
        waits = [commits.submit(insert(number)) for number in range(100)]
        for wait in waits:
            wait.add_done_callback(lambda done: told.append(done.result()))
        assert not first.done()
        stall.let_go()
        await asyncio.gather(*waits)
    assert durable(path) == told == list(range(100))
    assert len(durations) == 2
    assert all(duration >= 0 for duration in durations)


async def test_a_batch_is_bounded(path: Path) -> None:
    durations: list[float] = []
    async with running(path, durations.append) as commits:
        stall = Stall()
        commits.submit(stall)
        await stall.reached()
        waits = [commits.submit(insert(number)) for number in range(MAX_BATCH + 1)]
        stall.let_go()
        await asyncio.gather(*waits)
    assert len(durations) == 3
    assert durable(path) == list(range(MAX_BATCH + 1))


async def test_failing_members_do_not_spoil_their_neighbours(path: Path) -> None:
    durations: list[float] = []
    runs = 0

    def failing(connection: sqlite3.Connection) -> None:
        nonlocal runs
        runs += 1
        insert(1000 + runs)(connection)
        raise LookupError("not this one")

    async with running(path, durations.append) as commits:
        stall = Stall()
        commits.submit(stall)
        await stall.reached()
        waits: list[asyncio.Future[object]] = []
        for number in range(200):
            waits.append(commits.submit(failing))
            waits.append(commits.submit(insert(number)))
        waits.append(commits.submit(insert(7)))  # the same again: its own fault too
        stall.let_go()
        results = await asyncio.gather(*waits, return_exceptions=True)
    assert all(isinstance(result, LookupError) for result in results[:-1:2])
    assert results[1:-1:2] == list(range(200))
    assert isinstance(results[-1], sqlite3.IntegrityError)
    assert durable(path) == list(range(200))
    assert len(durations) == 2
    # However many fail, the batch is run twice at most.
    assert runs <= 201


async def test_a_cancelled_wait_takes_nothing_back(path: Path) -> None:
    async with running(path) as commits:
        stall = Stall()
        commits.submit(stall)
        await stall.reached()
        before, cancelled, after = (commits.submit(insert(number)) for number in range(3))
        cancelled.cancel()
        stall.let_go()
        assert [await before, await after] == [0, 2]
        assert cancelled.cancelled()
    assert durable(path) == [0, 1, 2]


async def test_the_end_commits_all_that_was_submitted(path: Path) -> None:
    async with running(path) as commits:
        stall = Stall()
        commits.submit(stall)
        await stall.reached()
        waits = [commits.submit(insert(number)) for number in range(MAX_BATCH * 2)]
        stall.let_go()
    assert all(wait.done() for wait in waits)
    assert durable(path) == list(range(MAX_BATCH * 2))


async def test_an_end_by_an_error_commits_the_same(path: Path) -> None:
    waits: list[asyncio.Future[int]] = []

    async def run() -> None:
        async with running(path) as commits:
            waits.append(commits.submit(insert(1)))
            raise LookupError

    with pytest.raises(LookupError):
        await run()
    assert [wait.result() for wait in waits] == [1]
    assert durable(path) == [1]


async def test_an_end_by_cancellation_commits_the_same(path: Path) -> None:
    entered = asyncio.Event()

    async def run() -> None:
        async with running(path) as commits:
            for number in range(100):
                commits.submit(insert(number))
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert durable(path) == list(range(100))


async def test_what_is_called_around_a_commit(path: Path) -> None:
    stores: list[Plain] = []

    @contextlib.contextmanager
    def kept() -> Iterator[Plain]:
        with plain(path) as store:
            stores.append(store)
            yield store

    def fails(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO numbers VALUES (1, '')")

    async with GroupCommit.running(
        kept, on_commit=lambda _: None, translate=lambda error: translated(error, path)
    ) as commits:
        called = stores[0].called
        await commits.submit(insert(1))
        assert called == ["before", "within", "after"]
        called.clear()
        await commits.submit(lambda connection: connection.execute("SELECT 1").fetchone())
        assert called == ["before", "after"], "what only reads writes nothing"
        called.clear()
        with pytest.raises(sqlite3.IntegrityError):
            await commits.submit(fails)
        assert called[0] == "before"
        assert called[-1] == "after"


async def test_nothing_is_accepted_after_the_end(path: Path) -> None:
    async with running(path) as commits:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        commits.submit(insert(1))


async def test_a_file_that_can_not_be_opened(path: Path) -> None:
    closed: list[str] = []

    @contextlib.contextmanager
    def refused() -> Iterator[Plain]:
        try:
            raise UsageError("no such place", code="journal_unwritable")
            yield
        finally:
            closed.append("closed")

    with pytest.raises(UsageError, match="no such place"):
        async with GroupCommit.running(
            refused, on_commit=lambda _: None, translate=lambda error: translated(error, path)
        ):
            pytest.fail("it must not be entered")
    assert closed == ["closed"]


async def test_a_full_disk_refuses_all_that_is_later_and_keeps_all_that_was_before(path: Path) -> None:
    async with running(path) as commits:
        await commits.submit(insert(1))
        await commits.submit(lambda connection: connection.execute("PRAGMA max_page_count=4").fetchone())
        stall = Stall()
        commits.submit(stall)
        await stall.reached()
        waits = [commits.submit(insert(2)), commits.submit(insert(3, bytes(100_000))), commits.submit(insert(4))]
        stall.let_go()
        results = await asyncio.gather(*waits, return_exceptions=True)
        for result in results:
            assert isinstance(result, MachineError)
            assert result.exit_code == 74
            assert "full" in str(result)
            assert isinstance(result.__cause__, sqlite3.OperationalError)
        assert len({id(result) for result in results}) == len(results)
        with pytest.raises(MachineError, match="full"):
            await commits.submit(insert(5))
    assert durable(path) == [1]
    async with running(path) as commits:
        assert await commits.submit(insert(5)) == 5
    assert durable(path) == [1, 5]


async def test_a_commit_that_fails_is_told_to_all_its_members(path: Path) -> None:
    async with running(path) as commits:
        stall = Stall()
        commits.submit(stall)
        await stall.reached()
        waits: list[asyncio.Future[object]] = [
            commits.submit(insert(1)),
            commits.submit(lambda connection: connection.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")),
            commits.submit(
                lambda connection: connection.execute(
                    "CREATE TABLE children (id INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
                )
            ),
            commits.submit(lambda connection: connection.execute("INSERT INTO children VALUES (1)")),
        ]
        # A constraint that is checked at the commit makes it fail, as a disk does.
        connection_wide = commits.submit(lambda connection: connection.execute("PRAGMA foreign_keys").fetchone())
        stall.let_go()
        await asyncio.gather(*waits, connection_wide)
        assert durable(path) == [1]

    @contextlib.contextmanager
    def strict() -> Iterator[Plain]:
        with plain(path) as store:
            store.connection.execute("PRAGMA foreign_keys=ON")
            store.connection.execute("DELETE FROM children")
            yield store

    async with GroupCommit.running(
        strict, on_commit=lambda _: None, translate=lambda error: translated(error, path)
    ) as commits:
        stall = Stall()
        first = commits.submit(stall)
        await stall.reached()
        waits = [
            commits.submit(lambda connection: connection.execute("INSERT INTO children VALUES (2)")),
            commits.submit(insert(2)),
        ]
        stall.let_go()
        results = await asyncio.gather(first, *waits, return_exceptions=True)
        assert results[0] is None
        assert all(isinstance(result, MachineError) for result in results[1:])
    assert durable(path) == [1]


async def test_a_measurement_that_fails_spoils_nothing(path: Path) -> None:
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def broken(_: float) -> None:
        raise LookupError("a broken metric")

    async with running(path, broken) as commits:
        assert await commits.submit(insert(1)) == 1
        assert await commits.submit(insert(2)) == 2
    assert [str(context["exception"]) for context in told] == ["a broken metric"] * 2


async def test_many_tasks_at_once(path: Path) -> None:
    async with running(path) as commits:

        async def work(start: int) -> list[int]:
            return [await commits.submit(insert(number)) for number in range(start, start + 20)]

        results = await asyncio.gather(*(work(start) for start in range(0, 640, 20)))
    assert sorted(number for result in results for number in result) == list(range(640))
    assert sorted(durable(path)) == list(range(640))
