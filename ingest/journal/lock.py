"""The writer's lock: one process at a time on one journal file.

An advisory `flock` on a file beside the journal: the system frees it when the process ends, however it ends, so that
an unclean end never asks a person to remove anything. Readers take no lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from ingest.errors import MACHINE_ERRNOS, MACHINE_HINT, JournalInUse, MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.errors import StopError

__all__ = ["lock_path", "make_directory", "writer_lock"]

ELSEWHERE_HINT: Final = "Choose another place with --journal PATH."


class _Holder(msgspec.Struct, frozen=True):
    """Who has the journal, for the message to whoever wants it next."""

    pid: int
    since: float  # Unix seconds


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
def writer_lock(journal: Path) -> Iterator[None]:
    """Hold the journal for this process.

    Raises `JournalInUse` with the holder's pid and start where another process has it, `UsageError` or `MachineError`
    where the lock can't be made.
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
        except BlockingIOError:
            raise _in_use(journal, os.read(descriptor, 200)) from None
        except OSError as error:
            raise _translated(error, f"The journal {journal} can't be locked") from error
        # What is written is only told to others: where the disk is full the lock holds all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(_Holder(pid=os.getpid(), since=time.time())), 0)
        yield
    finally:
        os.close(descriptor)


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
    try:
        holder = msgspec.json.decode(content, type=_Holder)
    except msgspec.DecodeError:
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
