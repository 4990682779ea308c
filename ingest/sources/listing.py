"""The names in one directory, sorted, in flat memory however many there are.

Follows nothing and decides nothing but to pass over hidden names; `walk` does the rest.
"""

from __future__ import annotations

import enum
import heapq
import os
import tempfile
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Final

from ingest.errors import MachineError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Iterator

__all__ = ["NAMES_IN_MEMORY", "EntryKind", "sorted_entries"]

NAMES_IN_MEMORY: Final = 50_000
# About 5 MB of names; a larger directory is sorted in runs of so many.

_BLOCK_BYTES: Final = 64 * 1024


class EntryKind(enum.Enum):
    """What a directory entry is, links not followed; the value is one byte in a spilled record."""

    FILE = b"f"
    DIRECTORY = b"d"
    LINK = b"l"
    OTHER = b"o"


_END_OF: Final = {kind: b"\0" + kind.value for kind in EntryKind}
_KIND_OF: Final = {end: kind for kind, end in _END_OF.items()}
_FILE: Final = _END_OF[EntryKind.FILE]
# Asking the enumeration takes four times as long, which tells in a directory of a million names.


def sorted_entries(
    directory: bytes,
    *,
    failed: Callable[[bytes, OSError], None],
    stop: threading.Event,
    names_in_memory: int = NAMES_IN_MEMORY,
) -> Generator[tuple[bytes, EntryKind], None, None]:
    """Name and kind of every entry of `directory` that is not hidden, ordered by the bytes of the name.

    The directory is read to its end, and closed, before the first entry comes. What can't be read is told to `failed`
    with its path, and the rest goes on. Blocks: for a thread. Ends early once `stop` is set. `MachineError` where
    the temporary file for a large directory can't be written.
    """
    with ExitStack() as held:
        names: list[bytes] = []
        runs: list[Iterator[bytes]] = []
        spill: IO[bytes] | None = None
        for record in _records(directory, failed):
            if stop.is_set():
                return
            names.append(record)
            if len(names) >= names_in_memory:
                spill = spill or held.enter_context(tempfile.TemporaryFile())
                runs.append(_spilled(spill, names))
                names.clear()
        names.sort()
        for record in heapq.merge(*runs, names) if runs else names:
            yield record[:-2], _KIND_OF[record[-2:]]


def _records(directory: bytes, failed: Callable[[bytes, OSError], None]) -> Iterator[bytes]:
    """Name, NUL, kind: records sort as their names do, since no name has a byte below the NUL or the NUL itself."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith(b"."):
                    try:
                        kind = _kind(entry)
                    except OSError as error:
                        failed(entry.path, error)
                    else:
                        yield entry.name + kind
    except OSError as error:
        failed(directory, error)


def _kind(entry: os.DirEntry[bytes]) -> bytes:
    """How the record ends."""
    if entry.is_file(follow_symlinks=False):
        return _FILE
    if entry.is_symlink():
        return _END_OF[EntryKind.LINK]
    return _END_OF[EntryKind.DIRECTORY if entry.is_dir(follow_symlinks=False) else EntryKind.OTHER]


def _spilled(spill: IO[bytes], records: list[bytes]) -> Iterator[bytes]:
    """Append the records to `spill` as one sorted run, and return what reads them back."""
    records.sort()
    try:
        start = spill.tell()
        spill.writelines(record + b"/" for record in records)  # no name has a slash
        spill.flush()
        return _read_back(spill.fileno(), start, spill.tell())
    except OSError as error:
        raise MachineError(
            f"a directory of many files could not be sorted in {tempfile.gettempdir()}: {error.strerror}",
            code="temporary_file",
            hint="free some space there, or set TMPDIR to a directory that has it",
        ) from error


def _read_back(descriptor: int, at: int, end: int) -> Iterator[bytes]:
    rest = b""
    while at < end:
        block = os.pread(descriptor, min(_BLOCK_BYTES, end - at), at)
        at += len(block)
        *records, rest = (rest + block).split(b"/")
        yield from records
