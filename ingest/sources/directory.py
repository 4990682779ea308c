"""Directories and single files as sources.

Names jobs and says what it passed over; opens no file but one without an ending, to see whether it is an image.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import anyio.to_thread

from ingest.errors import UsageError
from ingest.model import FileStamp, Job, Stretch
from ingest.observe.text import printable
from ingest.sources.base import Delivery, SourceReport
from ingest.sources.selection import Selection, Verdict, ending, file_name
from ingest.sources.walk import LONGEST, note_ignored, note_unreadable, walk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence, Set
    from contextlib import AbstractAsyncContextManager

    from ingest.sources.base import Recognise
    from ingest.sources.walk import Found

__all__ = ["DirectorySource", "FileSource", "absolute"]

_BATCH_SIZE: Final = 256
# Deliveries; a commit of so many admissions takes some 20 ms.

_SNIFF_BYTES: Final = 4096


class _Seen(NamedTuple):
    """Files that may be images: a stretch of them, and those of its names that don't tell."""

    stretch: Stretch
    doubtful: set[str]


class DirectorySource:
    """The images below a directory: each directory sorted by the bytes of its names, depth first, in flat memory.

    Discovered are files with an image's ending, and those with none whose first bytes `sniff` takes for an image's;
    `include` and `exclude` are globs as `Selection` has them. Hidden files and directories are passed over in silence,
    other files are counted in `report.ignored` by ending (or as `(excluded)`, `(link outside)`, `(special file)`);
    links are followed as `walk` says. The jobs' images are absolute paths as `os.fsdecode` gives them.

    What `skim` asks about is looked at by name and `stat` alone. Leaving either also stops a thread that is still
    looking, at its next name.
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
        look_size: int = LONGEST,
    ) -> None:
        self.root = absolute(root)
        self.report = SourceReport()
        self._sniff = sniff
        self._selection = Selection(include=include, exclude=exclude)
        self._batch_size = batch_size
        self._look_size = look_size

    def open(self) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass. `UsageError` where `root` is no directory or may not be listed."""
        return self._opened(None)

    def skim(self, recognise: Recognise) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """See `SkimmingSource.skim`."""
        return self._opened(recognise)

    def part(
        self, recognise: Recognise | None, below: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """One pass over a directory below the root, named relative to it and with a slash at its end; "" is all."""
        return self._opened(recognise, below)

    @asynccontextmanager
    async def _opened(
        self, recognise: Recognise | None, below: str = ""
    ) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        await anyio.to_thread.run_sync(self._check_root, abandon_on_cancel=True)
        hops = _Hops(self, recognise, self._batch_size, below)
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
            return sum(
                self._selection.of_file(name, found.below) is Verdict.DISCOVERED
                for found in walk(self.root, self._selection, SourceReport(), stop=stop)
                for name in found.names
            )

        try:
            return await anyio.to_thread.run_sync(counted, abandon_on_cancel=True)
        finally:
            stop.set()

    def looks(self, stop: threading.Event, below: str = "") -> Generator[list[_Seen], None, None]:
        """What may be an image, at least one file at a time, and about `look_size`; blocks, for a thread."""
        seen: list[_Seen] = []
        looked = 0
        for found in walk(self.root, self._selection, self.report, stop=stop, below=below, longest=self._look_size):
            looked += len(found.names)
            stretch = self._seen(found, stop)
            if stretch.stretch.stamps:
                seen.append(stretch)
            # Few images among many other files are not kept waiting for a full look.
            if seen and looked >= self._look_size:
                yield seen
                seen, looked = [], 0
        if seen:
            yield seen

    def _seen(self, found: Found, stop: threading.Event) -> _Seen:
        directory, below, names = found
        of_file = self._selection.of_file
        stamps: dict[str, tuple[int, int]] = {}
        doubtful: set[str] = set()
        for name in names:
            verdict = of_file(name, below)
            if verdict is Verdict.LOOK_INSIDE:
                doubtful.add(name)
            elif verdict is not Verdict.DISCOVERED:
                self._ignore(name, verdict)
                continue
            try:
                status = os.stat(directory + name)  # noqa: PTH116 - a Path a file costs as much as the stat
            except OSError as error:
                note_unreadable(self.report, directory + name, error)
            else:
                stamps[name] = (status.st_size, status.st_mtime_ns)
            if stop.is_set():
                break
        return _Seen(Stretch(directory=directory, stamps=stamps), doubtful)

    def deliveries(self, seen: Sequence[_Seen]) -> Iterator[Delivery]:
        """A delivery for each image among them; opens those whose names don't tell. Blocks, for a thread."""
        for stretch, doubtful in seen:
            for name, (size_bytes, mtime_ns) in stretch.stamps.items():
                path = stretch.directory + name
                if name not in doubtful or self._is_image(path, name):
                    yield _delivery(path, FileStamp(size_bytes=size_bytes, mtime_ns=mtime_ns))

    def _is_image(self, path: str, name: str) -> bool:
        try:
            if self._sniff(_first_bytes(path)):
                return True
        except OSError as error:
            note_unreadable(self.report, path, error)
        else:
            self._ignore(name, Verdict.IGNORED)
        return False

    def _ignore(self, name: str, verdict: Verdict) -> None:
        note_ignored(self.report, "(excluded)" if verdict is Verdict.EXCLUDED else printable(ending(name)))

    def _check_root(self) -> None:
        try:
            os.scandir(self.root).close()
        except (OSError, ValueError) as error:
            raise _no_such_source(self.root, error) from error


class _Hops:
    """The batches of one pass, found in thread hops: one to look, and one to deliver where something is left.

    What a cancelled hop finds all the same is handed over by the next one. The walk is closed by whoever comes last:
    `close`, or a thread that was still in it.
    """

    def __init__(self, source: DirectorySource, recognise: Recognise | None, batch_size: int, below: str) -> None:
        self._source = source
        self._recognise = recognise
        self._batch_size = batch_size
        self._stop = threading.Event()
        self._looks = source.looks(self._stop, below)
        self._in_use = threading.Lock()
        self._seen: list[_Seen] = []  # and not asked about
        self._left: list[_Seen] = []  # to be delivered
        self._ready: list[Delivery] = []

    def __aiter__(self) -> AsyncIterator[Sequence[Delivery]]:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        while not self._ready:
            if not self._left:
                await anyio.to_thread.run_sync(self._look, abandon_on_cancel=True)
                if not self._seen:
                    raise StopAsyncIteration
                # From the answer on, what is recognised is counted: nothing may come between.
                known = await self._recognised(self._seen)
                self._left, self._seen = _without(self._seen, known), []
            if self._left:
                await anyio.to_thread.run_sync(self._deliver, abandon_on_cancel=True)
        batch = self._ready[: self._batch_size]
        del self._ready[: len(batch)]
        return batch

    def close(self) -> None:
        """End the walk; never waits."""
        self._stop.set()
        self._close_unless_in_use()

    async def _recognised(self, seen: Sequence[_Seen]) -> Sequence[Set[str]]:
        if self._recognise is None:
            return [frozenset()] * len(seen)
        return await self._recognise([stretch for stretch, _ in seen])

    def _look(self) -> None:
        with self._in_use:
            if not self._seen:
                self._seen = next(self._looks, [])
        self._close_if_stopped()

    def _deliver(self) -> None:
        with self._in_use:
            self._ready += list(self._source.deliveries(self._left))  # at once: the loop may be reading
            self._left = []
        self._close_if_stopped()

    def _close_if_stopped(self) -> None:
        if self._stop.is_set():
            self._close_unless_in_use()

    def _close_unless_in_use(self) -> None:
        if self._in_use.acquire(blocking=False):
            try:
                self._looks.close()
            finally:
                self._in_use.release()


def _without(seen: Sequence[_Seen], known: Sequence[Set[str]]) -> list[_Seen]:
    """What nobody knows."""
    left: list[_Seen] = []
    for (stretch, doubtful), names in zip(seen, known, strict=True):
        if len(names) < len(stretch.stamps):
            stamps = {name: stamp for name, stamp in stretch.stamps.items() if name not in names}
            left.append(_Seen(replace(stretch, stamps=stamps), doubtful))
    return left


class FileSource:
    """One file, discovered whatever its ending and its content: inspection says what it is."""

    name = "file"

    def __init__(self, path: str) -> None:
        self.path = absolute(path)
        self.report = SourceReport()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass. `UsageError` where there is no such file."""
        try:
            seen = await anyio.to_thread.run_sync(os.stat, self.path, abandon_on_cancel=True)
        except (OSError, ValueError) as error:
            raise _no_such_source(self.path, error) from error
        yield _single(_delivery(self.path, FileStamp(size_bytes=seen.st_size, mtime_ns=seen.st_mtime_ns)))


async def _single(delivery: Delivery) -> AsyncIterator[Sequence[Delivery]]:
    yield (delivery,)


def _delivery(path: str, stamp: FileStamp) -> Delivery:
    return Delivery(job=Job(image=path, file_name=file_name(path)), stamp=stamp)


def _first_bytes(path: str) -> bytes:
    """The beginning of a regular file; opening never waits, should it have become a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _SNIFF_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def absolute(path: str) -> str:
    """The path from the root of the file system on, in which no `..` is left."""
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
