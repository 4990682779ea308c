"""Inspection tells what a file is, holds the memory it says, and never lets other bytes pass for those inspected."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from dataclasses import replace

import anyio
import anyio.to_thread
import image_samples as samples
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ImageChanged, ImageError, ImageRejected, ImageUnreadable
from ingest.images import inspect as inspect_module
from ingest.images.files import CHUNK_BYTES, StreamedFile
from ingest.images.inspect import inspect
from ingest.images.memory import MemoryBudget
from ingest.model import FileStamp
from ingest.settings import ImageSettings

JPEG = samples.taken()["jpeg"][1]
LARGE = JPEG + os.urandom(3 * CHUNK_BYTES)  # a motion photo, say
SETTINGS = ImageSettings(stream_over_bytes=CHUNK_BYTES, max_bytes=8 * CHUNK_BYTES)


@pytest.fixture
def memory():
    return MemoryBudget(64 * CHUNK_BYTES)


@pytest.fixture
def photo(tmp_path):
    """Writes a file and returns its locator."""

    def write(data: bytes, name: str = "photo.jpg") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


async def read(body: StreamedFile) -> list[bytes]:
    return [chunk async for chunk in body]


def rewrite(path: str, data: bytes, *, keep_times: bool = False) -> None:
    """Other bytes in the same file, with another time of change unless told otherwise."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()
    later = 0 if keep_times else 1_000_000_000
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later))


TAKEN = [data for _, data in samples.taken().values()]
ANYTHING = st.binary(max_size=300) | st.builds(
    lambda data, keep, tail: data[:keep] + tail, st.sampled_from(TAKEN), st.integers(0, 4000), st.binary(max_size=300)
)


@given(data=ANYTHING, stream_over_bytes=st.sampled_from([1, 100, CHUNK_BYTES]))
def test_any_bytes_are_an_image_or_one_of_our_errors(data: bytes, stream_over_bytes: int) -> None:
    async def look(path: str, memory: MemoryBudget) -> bytes | None:
        settings = replace(SETTINGS, stream_over_bytes=stream_over_bytes)
        try:
            image = await inspect(path, settings, memory)
        except ImageError:
            return None
        with image:
            body = image.body
            return body if isinstance(body, bytes) else b"".join(await read(body))

    memory = MemoryBudget(64 * CHUNK_BYTES)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert anyio.run(look, file.name, memory) in {None, data}
    assert memory.held_bytes == 0


class TestSmallFiles:
    @pytest.mark.parametrize("name", samples.taken())
    async def test_what_it_is(self, photo, memory, name):
        content_type, data = samples.taken()[name]
        path = photo(data, "misleading.txt")
        with await inspect(path, SETTINGS, memory) as image:
            assert image.content_type == content_type
            assert image.body == data
            assert image.fingerprint == blake3(data).digest()
            assert image.stamp == FileStamp(size_bytes=len(data), mtime_ns=os.stat(path).st_mtime_ns)

    async def test_memory_is_held_until_it_is_released(self, photo, memory):
        image = await inspect(photo(JPEG), SETTINGS, memory)
        assert memory.held_bytes == len(JPEG)
        image.release()
        image.release()
        assert memory.held_bytes == 0

    async def test_it_waits_for_memory(self, photo, memory):
        await memory.acquire(memory.limit_bytes)
        with anyio.move_on_after(0) as scope:
            await inspect(photo(JPEG), SETTINGS, memory)
        assert scope.cancelled_caught
        memory.release(memory.limit_bytes)
        assert memory.held_bytes == 0

    async def test_a_budget_smaller_than_a_file_is_enough(self, photo):
        memory = MemoryBudget(1)
        for _ in range(2):
            with await inspect(photo(JPEG), SETTINGS, memory) as image:
                assert image.body == JPEG
        assert memory.held_bytes == 0


class TestRefused:
    async def refused(self, path, memory, settings=SETTINGS) -> ImageError:
        with pytest.raises(ImageError) as caught:
            await inspect(path, settings, memory)
        assert memory.held_bytes == 0
        return caught.value

    @pytest.mark.parametrize(
        ("data", "reason"),
        [(b"", "empty"), (b"text", "not_an_image"), (JPEG[:-2], "cut_short"), (b"%PDF-1.7", "unsupported_type")],
    )
    async def test_what_is_no_image_that_packs_take(self, photo, memory, data, reason):
        error = await self.refused(photo(data, "odd\nname.jpg"), memory)
        assert isinstance(error, ImageRejected)
        assert error.reason == reason
        assert r"odd\nname.jpg" in str(error)

    async def test_a_large_file_is_looked_at_as_closely(self, photo, memory):
        error = await self.refused(photo(JPEG[:-2] + bytes(2 * CHUNK_BYTES)), memory)
        assert error.reason == "cut_short"

    async def test_too_large_is_told_without_reading(self, photo, memory, monkeypatch):
        monkeypatch.setattr(inspect_module.os, "read", None)
        error = await self.refused(photo(bytes(2001)), memory, ImageSettings(max_bytes=2000))
        assert isinstance(error, ImageRejected)
        assert error.reason == "too_large"
        assert "2,001" in str(error)
        assert "--max-bytes allows 2,000" in str(error)

    async def test_exactly_the_largest_size_is_taken(self, photo, memory):
        with await inspect(photo(JPEG), ImageSettings(max_bytes=len(JPEG)), memory):
            pass

    async def test_missing(self, tmp_path, memory):
        error = await self.refused(str(tmp_path / "none.jpg"), memory)
        assert isinstance(error, ImageUnreadable)
        assert error.reason == "missing"
        assert isinstance(error.__cause__, FileNotFoundError)

    @pytest.mark.parametrize(
        ("cause", "reason"),
        [(PermissionError(13, "no"), "permission_denied"), (OSError(5, "Input/output error"), "io_error")],
    )
    async def test_not_readable(self, photo, memory, monkeypatch, cause, reason):
        def fail(*_: object) -> bytes:
            raise cause

        path = photo(JPEG)
        monkeypatch.setattr(inspect_module.os, "read", fail)
        error = await self.refused(path, memory)
        assert isinstance(error, ImageUnreadable)
        assert error.reason == reason

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    async def test_permission_denied(self, photo, memory):
        path = photo(JPEG)
        os.chmod(path, 0)
        assert (await self.refused(path, memory)).reason == "permission_denied"

    async def test_what_is_no_file(self, tmp_path, memory):
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "directory").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(tmp_path)  # a socket's path is short
            listener.bind("socket")
            for name in ("pipe", "directory", "socket"):
                error = await self.refused(str(tmp_path / name), memory)
                assert isinstance(error, ImageRejected), name
                assert error.reason == "not_a_file", name
        assert (await self.refused("/dev/zero", memory)).reason == "not_a_file"

    @pytest.mark.parametrize("path", ["/a\0b.jpg", "/a\ud800b.jpg"])
    async def test_what_can_be_no_name(self, path, memory):
        error = await self.refused(path, memory)
        assert isinstance(error, ImageRejected)
        assert error.reason == "not_a_file"


class TestChangedWhileRead:
    @pytest.mark.parametrize("data", [JPEG, LARGE])
    @pytest.mark.parametrize("change", ["grows", "shrinks", "is touched"])
    async def test_it_is_noticed(self, photo, memory, monkeypatch, data, change):
        path = photo(data)
        reading = os.read

        def read_and_change(descriptor: int, size: int) -> bytes:
            chunk = reading(descriptor, size)
            if change == "grows":
                with open(path, "ab") as file:
                    file.write(b"more")
            elif change == "shrinks":
                os.truncate(path, len(data) // 2)
            else:
                os.utime(path)
            return chunk

        monkeypatch.setattr(inspect_module.os, "read", read_and_change)
        with pytest.raises(ImageChanged) as caught:
            await inspect(path, SETTINGS, memory)
        assert caught.value.reason == "changed"
        assert memory.held_bytes == 0

    async def test_cancelled_it_holds_nothing_and_stops_at_the_next_chunk(self, photo, memory, monkeypatch):
        path = photo(LARGE)
        reads = []
        began, go_on, ended = anyio.Event(), threading.Event(), threading.Event()
        reading, closing = os.read, os.close
        loop = asyncio.get_running_loop()

        def stall(descriptor: int, size: int) -> bytes:
            reads.append(size)
            loop.call_soon_threadsafe(began.set)
            go_on.wait()
            return reading(descriptor, size)

        def close(descriptor: int) -> None:
            closing(descriptor)
            ended.set()

        monkeypatch.setattr(inspect_module.os, "read", stall)
        monkeypatch.setattr(inspect_module.os, "close", close)
        async with anyio.create_task_group() as group:
            group.start_soon(inspect, path, SETTINGS, memory)
            await began.wait()
            group.cancel_scope.cancel()
        assert memory.held_bytes == 0
        go_on.set()
        await anyio.to_thread.run_sync(ended.wait)
        assert len(reads) == 1


class TestStreamedFiles:
    @pytest.fixture
    async def body(self, photo, memory):
        with await inspect(photo(LARGE), SETTINGS, memory) as image:
            assert isinstance(image.body, StreamedFile)
            assert image.stamp.size_bytes == image.body.size_bytes == len(LARGE)
            assert memory.held_bytes == 2 * CHUNK_BYTES
            yield image.body
        assert memory.held_bytes == 0

    async def test_each_pass_gives_all_the_bytes_in_bounded_chunks(self, body):
        assert body.fingerprint == blake3(LARGE).digest()
        for _ in range(2):
            chunks = await read(body)
            assert b"".join(chunks) == LARGE
            assert max(map(len, chunks)) <= CHUNK_BYTES

    async def interrupted(self, body, change) -> int:
        """How many bytes came although `change` was made to the file after each chunk."""
        size = 0

        async def read_on() -> None:
            nonlocal size
            async for chunk in body:
                size += len(chunk)
                change()

        with pytest.raises((ImageChanged, ImageUnreadable)):
            await read_on()
        return size

    async def test_other_bytes_of_the_same_size_and_time_never_complete_a_pass(self, body):
        other = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
        size = await self.interrupted(body, lambda: rewrite(body.path, other, keep_times=True))
        assert size < len(LARGE)

    @pytest.mark.parametrize("other", [LARGE + b"more", LARGE[:-1], b"", LARGE[: CHUNK_BYTES + 1], LARGE], ids=len)
    async def test_a_file_written_to_never_completes_a_pass(self, body, other):
        assert await self.interrupted(body, lambda: rewrite(body.path, other)) < len(LARGE)

    async def test_a_file_that_keeps_growing_ends(self, body):
        before = os.stat(body.path)

        def grow() -> None:
            with open(body.path, "ab") as file:
                file.write(os.urandom(2 * CHUNK_BYTES))
            os.utime(body.path, ns=(before.st_atime_ns, before.st_mtime_ns))

        assert await self.interrupted(body, grow) < len(LARGE)

    async def test_a_file_changed_before_the_pass_gives_nothing(self, body):
        rewrite(body.path, LARGE[:-1])
        with pytest.raises(ImageChanged):
            await anext(aiter(body))

    async def test_a_file_replaced_by_an_equal_one_is_another_file(self, body):
        before = os.stat(body.path)
        os.rename(body.path, body.path + ".old")
        with open(body.path, "wb") as file:
            file.write(LARGE)
        os.utime(body.path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(ImageChanged):
            await anext(aiter(body))

    async def test_a_file_that_is_gone(self, body):
        os.unlink(body.path)
        with pytest.raises(ImageUnreadable, match="not there"):
            await anext(aiter(body))

    async def test_a_pipe_in_its_place_is_not_waited_for(self, body):
        os.unlink(body.path)
        os.mkfifo(body.path)
        with pytest.raises(ImageRejected):
            await anext(aiter(body))

    async def test_a_pass_may_be_left_at_any_point(self, body):
        before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else set()
        chunks = aiter(body)
        await anext(chunks)
        await chunks.aclose()
        with anyio.CancelScope() as scope:
            async for _ in body:
                scope.cancel()
        after = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else set()
        assert len(after) <= len(before)
