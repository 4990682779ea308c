"""Directories and single files as sources.

Names jobs and says what it passed over; opens no file but one without an ending, to see whether it is an image.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from ingest.errors import UsageError
from ingest.model import FileStamp, Job
from ingest.observe.text import printable
from ingest.sources.base import Delivery, SourceReport
from ingest.sources.selection import Selection, Verdict, ending, file_name
from ingest.sources.walk import FoundFile, note_ignored, note_unreadable, walk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Sequence

__all__ = ["DirectorySource", "FileSource"]

_BATCH_SIZE: Final = 256
# About 3 ms of one thread, against 0.1 ms for the hop.

_LOOKS_A_HOP: Final = 16 * _BATCH_SIZE
# Few images among many other files: what was found is handed over without waiting for a full batch.

_SNIFF_BYTES: Final = 4096


class DirectorySource:
    """The images below a directory: each directory sorted by the bytes of its names, depth first, in flat memory.

    Discovered are files with an image's ending, and those with none whose first bytes `sniff` takes for an image's;
    `include` and `exclude` are globs as `Selection` has them. Hidden files and directories are passed over in silence,
    other files are counted in `report.ignored` by ending (or as `(excluded)`, `(link outside)`, `(special file)`);
    links are followed as `walk` says. The jobs' images are absolute paths as `os.fsdecode` gives them.

    Leaving `open` also stops a thread that is still looking, at its next name.
    """

    name = "directory"

    def __init__(
        self,
        root: str,
        *,
        sniff: Callable[[bytes], bool],
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        batch_size: int = _BATCH_SIZE,
    ) -> None:
        self.root = _absolute(root)
        self.report = SourceReport()
        self._sniff = sniff
        self._selection = Selection(include=include, exclude=exclude)
        self._batch_size = batch_size

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass. `UsageError` where `root` is no directory or may not be listed."""
        await anyio.to_thread.run_sync(self._check_root)
        hops = _Hops(self, self._batch_size)
        try:
            yield hops
        finally:
            hops.close()

    async def count(self) -> int:
        """How many files would be discovered by their names alone: a total for a progress display.

        Reports nothing, and is 0 for a directory that isn't there. Cancellable at any time.
        """
        stop = threading.Event()

        def counted() -> int:
            found = walk(self.root, self._selection, SourceReport(), stop=stop)
            return sum(self._selection.of_file(file.relative) is Verdict.DISCOVERED for file in found)

        try:
            return await anyio.to_thread.run_sync(counted, abandon_on_cancel=True)
        finally:
            stop.set()

    def deliveries(self, stop: threading.Event) -> Generator[Delivery | None, None, None]:
        """A delivery for each image, None for each other file; blocks, for a thread."""
        for file in walk(self.root, self._selection, self.report, stop=stop):
            yield self._delivery(file)

    def _delivery(self, file: FoundFile) -> Delivery | None:
        try:
            if not self._is_discovered(file):
                return None
            return _delivery(file.path, os.stat(file.path))  # noqa: PTH116 - a Path a file costs as much as the stat
        except OSError as error:
            note_unreadable(self.report, file.path, error)
            return None

    def _is_discovered(self, file: FoundFile) -> bool:
        verdict = self._selection.of_file(file.relative)
        if verdict is Verdict.LOOK_INSIDE:
            verdict = Verdict.DISCOVERED if self._sniff(_first_bytes(file.path)) else Verdict.IGNORED
        if verdict is not Verdict.DISCOVERED:
            kind = "(excluded)" if verdict is Verdict.EXCLUDED else printable(ending(file.relative))
            note_ignored(self.report, kind)
        return verdict is Verdict.DISCOVERED

    def _check_root(self) -> None:
        try:
            os.scandir(self.root).close()
        except (OSError, ValueError) as error:
            raise _no_such_source(self.root, error) from error


class _Hops:
    """The batches of one pass, each found in one thread hop.

    What a cancelled hop finds all the same is handed over by the next one. The walk is closed by whoever comes last:
    `close`, or a thread that was still in it.
    """

    def __init__(self, source: DirectorySource, batch_size: int) -> None:
        self._stop = threading.Event()
        self._deliveries = source.deliveries(self._stop)
        self._batch_size = batch_size
        self._in_use = threading.Lock()
        self._ready: list[Delivery] = []

    def __aiter__(self) -> AsyncIterator[Sequence[Delivery]]:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        if not self._ready:
            await anyio.to_thread.run_sync(self._look, abandon_on_cancel=True)
        batch, self._ready = self._ready, []
        if not batch:
            raise StopAsyncIteration
        return batch

    def close(self) -> None:
        """End the walk; never waits."""
        self._stop.set()
        self._close_unless_in_use()

    def _look(self) -> None:
        with self._in_use:
            if not self._ready:
                self._ready = self._batch()
        if self._stop.is_set():
            self._close_unless_in_use()

    def _batch(self) -> list[Delivery]:
        batch: list[Delivery] = []
        for looked, delivery in enumerate(self._deliveries, start=1):
            if delivery is not None:
                batch.append(delivery)
            if len(batch) >= self._batch_size or (batch and looked >= _LOOKS_A_HOP):
                break
        return batch

    def _close_unless_in_use(self) -> None:
        if self._in_use.acquire(blocking=False):
            try:
                self._deliveries.close()
            finally:
                self._in_use.release()


class FileSource:
    """One file, discovered whatever its ending and its content: inspection says what it is."""

    name = "file"

    def __init__(self, path: str) -> None:
        self.path = _absolute(path)
        self.report = SourceReport()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass. `UsageError` where there is no such file."""
        try:
            seen = await anyio.to_thread.run_sync(os.stat, self.path, abandon_on_cancel=True)
        except (OSError, ValueError) as error:
            raise _no_such_source(self.path, error) from error
        yield _single(_delivery(self.path, seen))


async def _single(delivery: Delivery) -> AsyncIterator[Sequence[Delivery]]:
    yield (delivery,)


def _delivery(path: str, seen: os.stat_result) -> Delivery:
    return Delivery(
        job=Job(image=path, file_name=file_name(path)),
        stamp=FileStamp(size_bytes=seen.st_size, mtime_ns=seen.st_mtime_ns),
    )


def _first_bytes(path: str) -> bytes:
    """The beginning of a regular file; opening never waits, should it have become a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _SNIFF_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _absolute(path: str) -> str:
    # Not `abspath`, which takes `link/..` for the directory that holds the link.
    absolute = Path(path).absolute()
    return str(absolute.resolve() if ".." in absolute.parts else absolute)


def _no_such_source(path: str, error: OSError | ValueError) -> UsageError:
    if isinstance(error, NotADirectoryError):
        problem, hint = "is not a directory", "name a directory, or one image file"
    elif isinstance(error, FileNotFoundError | ValueError):
        problem, hint = "does not exist", "check its spelling, and that what it lies on is mounted"
    else:
        problem, hint = f"can't be looked into: {error.strerror}", "check its permissions"
    return UsageError(f"{printable(path)} {problem}", code="no_such_source", hint=hint)
