"""Manifests as sources: a list of jobs in a file, a pipe or on standard input.

JSON Lines (`.jsonl`, `.ndjson`, and standard input): an object a line, `{"image", "pack", "file_name", "id"}`, of which
only `image` has to be there. CSV (`.csv`): a header that names the same columns in any order and case, and a row a job.
Text (`.txt`): a path or URL a line, without the spaces around it; a line that is `#` alone, or begins with `#` and a
space, is a comment (`#1.jpg` is a name). Lines without text are no rows; other columns and fields are ignored, and told
once. All are UTF-8, with or without a byte order mark: a file whose name is not UTF-8 can't be named here, but its
directory can be a source. A JSON manifest can name any other file; CSV and text none whose name begins or ends with a
space or holds a line end.

A path is taken as relative to the directory that the manifest is named in (standard input: the current one), and one
that begins with `~/` to the home directory. Nothing but the manifest is opened here, and a URL is handed over as it is.

A manifest is read once, from its beginning to its end, while jobs are taken: what is appended meanwhile is read as
well. One that has changed by then is told in the report as unreadable, so that the run does not end as if all were well
and a later one reads it anew: what was changed behind the place of reading was not seen, and a line that was being
written may be half a line. One that is replaced (renamed over) is read as it was.

An id is a job's key: within a manifest it belongs to the first row that has it, and a later row that has it for another
image of the same pack is refused, in each pass the same one. Between passes an id may move to another image's path or
URL: that is what it is for.
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
from ingest.sources.base import Delivery, NoJob, SourceReport
from ingest.sources.ids import Ids
from ingest.sources.rows import FORMATS, Format, check_beginning, rows
from ingest.sources.walk import note_unreadable
from ingest.sources.wire import Misread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Sequence

    from ingest.sources.rows import Row

__all__ = ["STDIN", "ManifestSource", "StdinSource", "is_manifest", "names_packs"]

STDIN: Final = "-"
"""How standard input is named as a source."""

_BATCH_SIZE: Final = 256
# Deliveries; a commit of so many admissions takes some 20 ms.

_BEGINNING_BYTES: Final = 64 * 1024


def is_manifest(named: str) -> bool:
    """Whether a source of that name is a manifest, if it is no directory."""
    return named == STDIN or Path(named).suffix.lower() in FORMATS


def names_packs(named: str) -> bool:
    """Whether the rows of a manifest of that name can name packs of their own."""
    return named == STDIN or FORMATS.get(Path(named).suffix.lower()) in {Format.JSON_LINES, Format.CSV}


class ManifestSource:
    """The rows of one manifest; its name's ending tells how it is written, and one without a known ending is text.

    It may be a pipe (`mkfifo`), which is waited for. Rows are handed over as they come, in batches of at most
    `batch_size`, each with its line number as its place, and the stamp of its file where there is one: no image is
    opened. Leaving it stops a thread that is still reading within a fraction of a second.
    """

    name = "manifest"

    def __init__(self, path: str, *, batch_size: int = _BATCH_SIZE) -> None:
        self.origin = _absolute(str(Path.cwd()), path)
        self.report = SourceReport()
        self._batch_size = batch_size
        self._format = FORMATS.get(Path(path).suffix.lower(), Format.TEXT)

    def retells(self, place: str) -> bool:
        """See `RefusingSource.retells`."""
        return True

    def check(self) -> None:
        """Raise `UsageError` where it isn't there, or its beginning is that of no manifest. Blocks.

        A pipe is not touched: what it holds shows when it is read.
        """
        try:
            if stat.S_ISFIFO(os.stat(self.origin).st_mode):  # noqa: PTH116
                return  # whoever writes it would find it closed again
        except (OSError, ValueError) as error:
            raise _no_such_source(self.origin, error) from error
        os.close(self._checked())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass. `UsageError` as from `check`, and while it is read for what shows then."""
        descriptor = await anyio.to_thread.run_sync(self._checked)
        passing = _Pass(self, descriptor, self._format, str(Path(self.origin).parent), self._batch_size)
        try:
            yield passing
        finally:
            passing.close()

    async def count(self) -> int:
        """How many lines it has: a total for a progress display; 0 for a pipe, and where it can't be read."""
        stop = threading.Event()

        def counted() -> int:
            try:
                with Path(self.origin).open("rb", buffering=0) as file:
                    blocks = iter(lambda: b"" if stop.is_set() else file.read(1 << 20), b"")
                    return sum(block.count(b"\n") for block in blocks) - (self._format is Format.CSV)
            except OSError:
                return 0

        try:
            if not await anyio.Path(self.origin).is_file():
                return 0
            return max(0, await anyio.to_thread.run_sync(counted, abandon_on_cancel=True))
        finally:
            stop.set()

    def _checked(self) -> int:
        try:
            # Not to wait for who writes a pipe: opening is not cancellable, reading is.
            descriptor = os.open(self.origin, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise _no_such_source(self.origin, error) from error
        try:
            if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):  # its beginning can't be read twice
                beginning = os.pread(descriptor, _BEGINNING_BYTES, 0)
                check_beginning(beginning, self._format, shown=printable(self.origin))
        except OSError as error:
            os.close(descriptor)
            raise _no_such_source(self.origin, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


class StdinSource:
    """JSON Lines on standard input, as a manifest in the directory that is the current one when this is made.

    What it refused is remembered under the one origin `-`: another list on standard input takes its place.
    """

    name = "stdin"
    origin = STDIN

    def __init__(self, *, descriptor: int = 0, batch_size: int = _BATCH_SIZE) -> None:
        self.report = SourceReport()
        self._descriptor = descriptor
        self._directory = str(Path.cwd())
        self._batch_size = batch_size

    def retells(self, place: str) -> bool:
        """See `RefusingSource.retells`."""
        return True

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        """Open the source for one pass. `UsageError` where standard input is closed."""
        try:
            descriptor = os.dup(self._descriptor)
        except OSError as error:
            raise _no_such_source("standard input", error) from error
        passing = _Pass(self, descriptor, Format.JSON_LINES, self._directory, self._batch_size)
        try:
            yield passing
        finally:
            passing.close()

    async def count(self) -> int:
        """Nobody knows how many jobs come: 0."""
        return 0


class _Pass:
    """The batches of one pass, read in thread hops; the descriptor is its own.

    What a cancelled hop reads all the same is handed over by the next one. The file is closed by whoever comes last:
    `close`, or a thread that was still in it.
    """

    def __init__(
        self,
        source: ManifestSource | StdinSource,
        descriptor: int,
        written: Format,
        directory: str,
        batch_size: int,
    ) -> None:
        self._source = source
        self._descriptor: int | None = descriptor
        self._directory = directory
        self._batch_size = batch_size
        self._stop = threading.Event()
        self._in_use = threading.Lock()
        self._ids = Ids()
        self._rows = self._read(descriptor, written)
        self._ready: list[Delivery] = []
        self._is_over = False

    def __aiter__(self) -> AsyncIterator[Sequence[Delivery]]:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        while not self._ready:
            if self._is_over:
                raise StopAsyncIteration
            await anyio.to_thread.run_sync(self._hop, abandon_on_cancel=True)
        batch = self._ready[: self._batch_size]
        del self._ready[: len(batch)]
        return batch

    def close(self) -> None:
        """End the pass; never waits."""
        self._stop.set()
        self._close_unless_in_use()

    def _hop(self) -> None:
        try:
            with self._in_use:
                if not self._stop.is_set():
                    self._ready += self._deliveries()  # at once: the loop may be reading
        finally:
            if self._stop.is_set():
                self._close_unless_in_use()

    def _deliveries(self) -> list[Delivery]:
        found: list[Delivery] = []
        has_waited = False
        for row in self._rows:
            if row is None:
                # What has come is not kept waiting for more; and a hop that waits for ever could not be cancelled.
                if found or has_waited:
                    return found
                has_waited = True
                continue
            found.append(self._delivery(*row))
            if len(found) >= self._batch_size:
                return found
        self._is_over = True
        return found

    def _read(self, descriptor: int, written: Format) -> Generator[Row | None, None, None]:
        """The rows to the end of the file; what keeps it from being read to there is in the report."""
        try:
            before = os.fstat(descriptor)
            yield from rows(descriptor, written, shown=printable(self._source.origin), stop=self._stop)
            after = os.fstat(descriptor)
        except OSError as error:
            note_unreadable(self._source.report, self._source.origin, error)
            return
        is_same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        if stat.S_ISREG(after.st_mode) and not is_same and not self._stop.is_set():
            note_unreadable(self._source.report, self._source.origin, OSError("it was changed while it was read"))

    def _delivery(self, number: int, read: Job | Misread) -> Delivery:
        place = str(number)
        if isinstance(read, Misread):
            return Delivery(job=NoJob(place=place, reason=read.reason, detail=read.detail), place=place)
        job, stamp = read, None
        if "://" not in read.image:
            job = Job(image=_path(self._directory, read.image), pack=read.pack, file_name=read.file_name, id=read.id)
            stamp = _stamp(job.image)
        if (first := self._ids.first_with(job, number)) is not None:
            detail = f"its id is that of line {first}, which names another image"
            return Delivery(job=NoJob(place=place, reason="id_taken", detail=detail), place=place)
        return Delivery(job=job, stamp=stamp, place=place)

    def _close_unless_in_use(self) -> None:
        if self._in_use.acquire(blocking=False):
            try:
                if self._descriptor is not None:
                    os.close(self._descriptor)
                    self._descriptor = None
                self._ids.close()
            finally:
                self._in_use.release()


def _path(directory: str, named: str) -> str:
    """The absolute path that a row names."""
    return _absolute(directory, os.path.expanduser(named) if named.startswith("~/") else named)  # noqa: PTH111


def _absolute(directory: str, named: str) -> str:
    path = os.path.join(directory, named)  # noqa: PTH118 - a Path a row costs ten times as much
    # Not `abspath`, which takes `link/..` for the directory that holds the link.
    return os.path.realpath(path) if "/../" in f"{path}/" else os.path.abspath(path)  # noqa: PTH100


def _stamp(path: str) -> FileStamp | None:
    try:
        seen = os.stat(path)  # noqa: PTH116
    except OSError:
        return None  # inspection says what is wrong with it
    return FileStamp(size_bytes=seen.st_size, mtime_ns=seen.st_mtime_ns)


def _no_such_source(origin: str, error: OSError | ValueError) -> UsageError:
    if isinstance(error, IsADirectoryError):
        problem, hint = "is a directory, not a manifest", "name the manifest"
    elif isinstance(error, FileNotFoundError | ValueError):
        problem, hint = "does not exist", "check its spelling, and that what it lies on is mounted"
    else:
        problem, hint = f"can't be read: {error.strerror}", "check its permissions"
    return UsageError(f"{printable(origin)} {problem}", code="no_such_source", hint=hint)
