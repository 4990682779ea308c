"""The writer's lock: one process at a time on one journal file.

An advisory `flock` on a file beside the journal: the system frees it when the process ends, however it ends, so that
an unclean end never asks a person to remove anything. Readers take no lock. Its content tells others who has the
journal, and keeps a copy of the journal's mark; it may be absent or torn, and then says nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from ingest.errors import MACHINE_ERRNOS, MACHINE_HINT, JournalInUse, MachineError, UsageError
from ingest.journal.mark import Mark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.errors import StopError

__all__ = ["WriterLock", "lock_path", "make_directory", "writer_lock"]

ELSEWHERE_HINT: Final = "Choose another place with --journal PATH."

CONTENT_BYTES: Final = 1024
# More than is ever written: what is longer was written by somebody else.


class _Holder(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who has the journal, for the message to whoever wants it next, and the mark it had then."""

    pid: int
    since: float  # Unix seconds
    journal_id: str | None = None
    epoch: int | None = None


class WriterLock:
    """The lock that is held. `last` is the mark that it named when it was taken, None where it named none."""

    def __init__(self, descriptor: int, *, is_journal_there: bool) -> None:
        content = os.pread(descriptor, CONTENT_BYTES, 0)
        self._descriptor = descriptor
        self._length = len(content)
        self._since = time.time()
        named = _decoded(content, Mark)
        self.last = named if is_journal_there else None
        if self.last is named:
            # What is written is only told to others: where the disk is full the lock holds all the same.
            with contextlib.suppress(OSError):
                self._write(named)
        else:
            # The journal that is about to be made may be left empty by a kill or a loss of power, and must not be
            # measured by its predecessor then.
            self._write(None)
            os.fsync(descriptor)

    def tell(self, mark: Mark) -> None:
        """Name this mark, once the commit that holds it has returned. What can't be written is not told."""
        with contextlib.suppress(OSError):
            self._write(mark)

    def _write(self, mark: Mark | None) -> None:
        holder = _Holder(
            pid=os.getpid(),
            since=self._since,
            journal_id=None if mark is None else mark.journal_id,
            epoch=None if mark is None else mark.epoch,
        )
        # One write over all that was there: no kill leaves it cut.
        content = msgspec.json.encode(holder).ljust(self._length)
        self._length = len(content)
        os.pwrite(self._descriptor, content, 0)


def lock_path(journal: Path) -> Path:
    """Where the lock of `journal` lies: beside the file itself, by whichever link it is named."""
    return Path(os.path.realpath(journal) + ".lock")


def make_directory(directory: Path) -> None:
    """Make the journal's directory where there is none. Raises `UsageError`, `MachineError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _translated(error, f"The journal's directory {directory} can't be made") from error


@contextlib.contextmanager
def writer_lock(journal: Path) -> Iterator[WriterLock]:
    """Hold the journal for this process.

    Raises `JournalInUse` with the holder's pid and start where another process has it, `UsageError` or `MachineError`
    where the lock can't be made or the file has another name beside this one.
    """
    if journal.exists() and not journal.is_file() and not journal.is_dir():  # what a directory is, opening it tells
        raise UsageError(
            f"The journal {journal} is no regular file.",
            code="bad_journal_path",
            hint="Name a file with --journal PATH.",
        )
    path = lock_path(journal)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = (
            # Another journal would know nothing of what this one's runs have added.
            "Make the directory writable, or move the journal to one that is and name it with --journal PATH."
            if journal.exists()
            else ELSEWHERE_HINT
        )
        raise _translated(error, f"The journal's directory {path.parent} can't be written", hint) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_names(journal)
            lock = WriterLock(descriptor, is_journal_there=journal.exists())
        except BlockingIOError:
            raise _in_use(journal, os.pread(descriptor, CONTENT_BYTES, 0)) from None
        except OSError as error:
            raise _translated(error, f"The journal {journal} can't be locked") from error
        yield lock
    finally:
        os.close(descriptor)


def _check_names(journal: Path) -> None:
    names = journal.stat().st_nlink if journal.is_file() else 1
    if names > 1:
        # By each name it has another lock and another log (https://www.sqlite.org/howtocorrupt.html, "Multiple links
        # to the same file").
        raise UsageError(
            f"The journal {journal} is a file with {names} names (hard links): what a run by another one does would "
            "go unnoticed.",
            code="bad_journal_path",
            hint="Remove the other names, or make symbolic links of them; `cp` makes a copy that is a file of its own.",
        )


_T = TypeVar("_T")


def _decoded(content: bytes, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError:
        return None


def _translated(error: OSError, what: str, hint: str = ELSEWHERE_HINT) -> StopError:
    if error.errno in MACHINE_ERRNOS:
        return MachineError(
            f"{what}: {error.strerror}.",
            code="machine",
            hint=MACHINE_HINT,
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return MachineError(f"{what}: {error.strerror}.", code="journal_unwritable", hint=hint)
    return UsageError(f"{what}: {error.strerror}.", code="bad_journal_path", hint=hint)


def _in_use(journal: Path, content: bytes) -> JournalInUse:
    holder = _decoded(content, _Holder)
    if holder is None:
        who = "another process"
    else:
        since = datetime.fromtimestamp(holder.since).astimezone()
        is_today = since.date() == datetime.now().astimezone().date()
        who = f"pid {holder.pid} since {since:%H:%M}" if is_today else f"pid {holder.pid} since {since:%Y-%m-%d %H:%M}"
    return JournalInUse(
        f"Journal in use by {who} ({journal}).",
        code="journal_in_use",
        hint="Wait for it to end, or give this run a journal of its own with --journal PATH.",
    )
