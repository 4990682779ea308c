"""Blocking reads: few threads and few wake-ups, and a reading that hangs holds up nobody but itself."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from ingest.images import readers as module
from ingest.images.readers import MAX_THREADS, Readers

pytestmark = pytest.mark.anyio


@pytest.fixture
async def readers() -> Readers:
    return Readers()


@pytest.fixture
def release():
    """Set at the end, so that no thread is left hanging."""
    event = threading.Event()
    yield event
    event.set()


def hang(release: threading.Event) -> Callable[[], str]:
    def work() -> str:
        release.wait()
        return "late"

    return work


async def test_what_it_returns_or_raises(readers):
    assert await readers.read(lambda: 7) == 7
    with pytest.raises(KeyError):
        await readers.read(lambda: {}["x"])


async def test_many_at_once_take_one_thread_and_few_wake_ups(readers, monkeypatch):
    handed_over = []
    hand_over = Readers._hand_over

    def counted(self: Readers) -> None:
        handed_over.append(len(self._read))
        hand_over(self)

    monkeypatch.setattr(Readers, "_hand_over", counted)
    threads = await asyncio.gather(*(readers.read(threading.get_ident) for _ in range(100)))
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads
    assert len([count for count in handed_over if count]) <= 100 / module.BATCH + 3


async def test_one_that_hangs_holds_up_only_itself(readers, release):
    hanging = [asyncio.create_task(readers.read(hang(release))) for _ in range(MAX_THREADS - 1)]
    behind = await asyncio.gather(*(readers.read(lambda: "read") for _ in range(50)))
    assert set(behind) == {"read"}
    assert not any(task.done() for task in hanging)
    release.set()
    assert set(await asyncio.gather(*hanging)) == {"late"}


async def test_what_no_future_takes_is_told_in_another_way(readers):
    def stops():
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        await readers.read(stops)
    assert await readers.read(lambda: 1) == 1


async def test_what_was_read_before_one_that_hangs_is_handed_over(readers, release):
    before = [asyncio.create_task(readers.read(lambda: "read")) for _ in range(3)]
    hanging = asyncio.create_task(readers.read(hang(release)))
    assert await asyncio.gather(*before) == ["read"] * 3
    assert not hanging.done()
    release.set()
    await hanging


async def test_never_more_threads_than_allowed(readers, release):
    running, most = 0, 0
    lock = threading.Lock()
    full = threading.Event()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == MAX_THREADS:
                full.set()
        release.wait()
        with lock:
            running -= 1

    tasks = [asyncio.create_task(readers.read(work)) for _ in range(3 * MAX_THREADS)]
    await asyncio.to_thread(full.wait)
    await asyncio.sleep(3 * module.PATIENCE_S)
    release.set()
    await asyncio.gather(*tasks)
    assert most == MAX_THREADS


async def test_a_cancelled_reading_that_waits_is_never_begun(readers, release):
    begun = []
    hanging = [asyncio.create_task(readers.read(hang(release))) for _ in range(MAX_THREADS)]
    waiting = asyncio.create_task(readers.read(lambda: begun.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    await asyncio.gather(*hanging)
    assert await readers.read(lambda: "read") == "read"
    assert begun == []


async def test_threads_that_hang_with_what_was_given_up_are_replaced(readers, release):
    hanging = [asyncio.create_task(readers.read(hang(release))) for _ in range(MAX_THREADS)]
    while sum(thread.name == "ingest reader" for thread in threading.enumerate()) < MAX_THREADS:
        await asyncio.sleep(module.PATIENCE_S)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert await readers.read(lambda: "read") == "read"


async def test_idle_threads_end(readers, monkeypatch):
    monkeypatch.setattr(module, "IDLE_S", 0.01)
    thread = await readers.read(threading.current_thread)
    await asyncio.to_thread(thread.join)
    assert await readers.read(lambda: "read") == "read"


async def test_no_thread_can_be_started(readers, monkeypatch):
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        await readers.read(lambda: "read")


def test_a_thread_outlives_its_event_loop_in_peace():
    release, begun = threading.Event(), threading.Event()

    def work() -> threading.Thread:
        begun.set()
        release.wait()
        return threading.current_thread()

    async def leave() -> None:
        task = asyncio.create_task(Readers().read(work))
        await asyncio.to_thread(begun.wait)
        task.cancel()

    asyncio.run(leave())
    release.set()
    for thread in threading.enumerate():
        if thread.name == "ingest reader":
            thread.join(10)
