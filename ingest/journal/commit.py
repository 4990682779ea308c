"""Group commit: one writer thread, and one commit for all that arrived while the last one ran.

As in bbolt's `DB.Batch`: a caller returns only after the commit that holds its record, and a failing member is taken
out and the rest run again, so that it can't spoil its neighbours. Knows nothing of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar

import anyio

from ingest.journal.database import transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from ingest.errors import StopError

__all__ = ["GroupCommit", "Store"]

T = TypeVar("T")

MAX_BATCH: Final = 1024
# A commit costs the same up to some 64 records (DESIGN §6); the bound keeps one transaction, and so the wait of its
# first member, short when thousands are waiting.

CLOSE_DEADLINE_S: Final = 60.0
# A disk that takes longer for its last commit hangs. The writer then keeps the file, and its lock, until it is done or
# the process ends; what it was given stays untold.


class Store(Protocol):
    """The open store that is committed to. Called in the writer thread; what it raises is a failure of the store."""

    @property
    def connection(self) -> sqlite3.Connection:
        """The only connection that writes."""
        ...

    def before(self) -> None:
        """Before each transaction."""
        ...

    def within(self) -> None:
        """The last of each transaction that has changed something."""
        ...

    def after(self) -> None:
        """A commit has returned, and nobody has been told of it."""
        ...


class _Member(NamedTuple, Generic[T]):
    """One unit of work and whoever waits for it."""

    work: Callable[[sqlite3.Connection], T]
    future: asyncio.Future[T]


class _Told(NamedTuple):
    """What a waiter is told: a value, or an error."""

    future: asyncio.Future[Any]
    value: Any = None
    error: BaseException | None = None


class GroupCommit:
    """Runs units of work on one connection in one thread, in the order of their submission.

    Enter it with `running`. A unit may be run more than once, of which one run is committed. After a failure that the
    whole file shares (disk full, I/O error) every later unit fails with `MachineError`: what was committed stays,
    nothing else is accepted.
    """

    def __init__(
        self,
        on_commit: Callable[[float], None],
        translate: Callable[[Exception], StopError],
        on_rollback: Callable[[], None],
    ) -> None:
        self._on_commit = on_commit
        self._translate = translate
        self._on_rollback = on_rollback
        self._queue: queue.SimpleQueue[_Member[Any] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._failure: Exception | None = None
        self._is_closed = False

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        open_store: Callable[[], contextlib.AbstractContextManager[Store]],
        *,
        on_commit: Callable[[float], None],
        translate: Callable[[Exception], StopError],
        on_rollback: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[GroupCommit]:
        """Serve until the block is left; then all that was submitted is committed.

        `open_store` is entered and left in the writer thread; what it raises on entry comes out here. `on_commit` is
        called in the event loop with each commit's duration in seconds. `translate` says what a failure of the whole
        store means; it is asked anew for each waiter. `on_rollback` is called in the writer thread when what units
        wrote was taken back and units run on: what they remember of it is void.
        """
        self = cls(on_commit, translate, on_rollback)
        ready: asyncio.Future[None] = self._loop.create_future()
        finished = asyncio.Event()
        thread = threading.Thread(
            target=self._serve, args=(open_store, ready, finished), name="ingest-journal", daemon=True
        )
        thread.start()
        try:
            await ready
            yield self
        finally:
            self._is_closed = True
            self._queue.put(None)
            with anyio.move_on_after(CLOSE_DEADLINE_S, shield=True):
                await finished.wait()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Queue `work`; the future is done when the commit that holds it has returned."""
        if self._is_closed:
            raise RuntimeError("the journal is closed: nothing more can be recorded")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Member(work, future))
        return future

    # Everything below runs in the writer thread, but for `_resolve`.

    def _serve(
        self,
        open_store: Callable[[], contextlib.AbstractContextManager[Store]],
        ready: asyncio.Future[None],
        finished: asyncio.Event,
    ) -> None:
        try:
            with open_store() as store:
                self._call(self._resolve, [_Told(ready)], ())
                while batch := self._next_batch():
                    self._call(self._resolve, *self._commit(store, batch))
        except BaseException as error:
            self._call(self._resolve, [_Told(ready, error=error)], ())
        finally:
            self._call(finished.set)

    def _next_batch(self) -> list[_Member[Any]]:
        first = self._queue.get()
        if first is None:
            return []
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                member = self._queue.get_nowait()
            except queue.Empty:
                break
            if member is None:
                self._queue.put(None)
                break
            batch.append(member)
        return batch

    def _commit(self, store: Store, batch: list[_Member[Any]]) -> tuple[list[_Told], list[float]]:
        """What each member is told, in their order, and how long the commit took, if there was one."""
        if self._failure is not None:
            return self._refuse(batch), []
        started = time.perf_counter()
        try:
            store.before()
            try:
                told = self._run(store, batch)
            except _MemberFailed:
                self._on_rollback()
                told = self._run_guarded(store, batch)
            store.after()
        except Exception as error:
            self._failure = error
            return self._refuse(batch), []
        return told, [time.perf_counter() - started]

    @staticmethod
    def _run(store: Store, batch: list[_Member[Any]]) -> list[_Told]:
        told: list[_Told] = []
        connection = store.connection
        with _closed_by(store):
            for work, future in batch:
                try:
                    told.append(_Told(future, work(connection)))
                except Exception as error:
                    if _is_shared(error):
                        raise
                    raise _MemberFailed from error
        return told

    def _run_guarded(self, store: Store, batch: list[_Member[Any]]) -> list[_Told]:
        """The same with a savepoint a member, which costs two statements more: however many fail, once is enough."""
        told: list[_Told] = []
        connection = store.connection
        with _closed_by(store):
            for work, future in batch:
                connection.execute("SAVEPOINT member")
                try:
                    told.append(_Told(future, work(connection)))
                except Exception as error:
                    if _is_shared(error):
                        raise
                    told.append(_Told(future, error=error))
                    connection.execute("ROLLBACK TO member")
                    self._on_rollback()
                connection.execute("RELEASE member")
        return told

    def _refuse(self, batch: list[_Member[Any]]) -> list[_Told]:
        # An error of its own for each: a shared one would gather the traceback of every waiter.
        return [_Told(member.future, error=self._refusal()) for member in batch]

    def _refusal(self) -> StopError:
        assert self._failure is not None  # noqa: S101 - refused only after a failure
        made = self._translate(self._failure)
        made.__cause__ = self._failure
        return made

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _resolve(self, told: Sequence[_Told], durations_s: Sequence[float]) -> None:
        for future, value, error in told:
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
                future.exception()  # whoever posted without waiting learns of it from the next call
        for duration_s in durations_s:
            self._on_commit(duration_s)


@contextlib.contextmanager
def _closed_by(store: Store) -> Iterator[None]:
    """One transaction; what only reads stays one that writes nothing."""
    with transaction(store.connection):
        changes = store.connection.total_changes
        yield
        if store.connection.total_changes != changes:
            store.within()


class _MemberFailed(Exception):
    """One member's work failed; nothing of its batch is committed yet."""


def _is_shared(error: Exception) -> bool:
    """Whether the store failed, and not one member's work: a full disk, an I/O error, a damaged file."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError
    )
