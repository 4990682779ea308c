"""The SQLite file: opening, checking and migrating it.

Knows nothing of jobs and runs: `rows` knows the columns, `lock` who may write.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ingest.errors import MACHINE_HINT, JournalCorrupt, JournalInUse, JournalNewer, MachineError, UsageError
from ingest.journal.presence import FileGone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.errors import StopError

__all__ = [
    "APPLICATION_ID",
    "NETWORK_FILE_SYSTEMS",
    "TEMPORARY_FILE_SYSTEMS",
    "connect",
    "connect_readonly",
    "file_system",
    "has_log",
    "transaction",
    "translated",
    "translating",
    "untouched",
]

APPLICATION_ID: Final = 0x696E6773
# "ings": tells our files from other programs' databases (https://www.sqlite.org/pragma.html#pragma_application_id).

MIGRATIONS: Final = ("0001.sql", "0002.sql", "0003.sql")
# Version N is what the first N make; `PRAGMA user_version` says how many a file has had.

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs"),
        *("fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.ceph", "fuse.glusterfs", "fuse.juicefs"),
    }
)
# WAL needs memory shared by all processes, which these can't give (https://www.sqlite.org/wal.html, "Disadvantages").

TEMPORARY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})

BUSY_TIMEOUT_S: Final = 20.0
# Only a foreign program (a backup, a person's sqlite3) can hold the write lock here: a pause is no reason to end a run.

MOUNTS: Final = Path("/proc/self/mountinfo")


def file_system(path: Path, *, mounts: Path = MOUNTS) -> str:
    """The kind of file system that holds `path` ("ext4", "nfs4"; "" where the system does not tell)."""
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return ""
    place = os.path.realpath(os.fsencode(path))
    best, kind = b"", b""
    for line in lines:
        # proc_pid_mountinfo(5): the fifth field is the mount point, the first after the dash the type.
        left, _, right = line.partition(b" - ")
        fields, mounted = left.split(), right.split()
        if len(fields) < 5 or not mounted:
            continue
        point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields[4])
        # A later mount on the same point hides the earlier one.
        if (place == point or place.startswith(point.rstrip(b"/") + b"/")) and len(point) >= len(best):
            best, kind = point, mounted[0]
    return kind.decode("ascii", "replace")


def connect(path: Path, *, mounts: Path = MOUNTS) -> sqlite3.Connection:
    """Open the journal for writing, making or migrating it where needed. The caller holds the writer's lock.

    Raises `JournalNewer`, `JournalCorrupt`, `JournalInUse` where a foreign program keeps it locked, or
    `UsageError`/`MachineError` where the file can't be had. Another program's file is left as it was.
    """
    kind = file_system(path, mounts=mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise UsageError(
            f"The journal {path} would lie on a network file system ({kind}), where SQLite's log can't work.",
            code="journal_on_network",
            hint="Choose a local disk with --journal PATH.",
        )
    try:
        connection = _open(os.fspath(path))
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise translated(error, path) from error
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection, path)
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise UsageError(
            f"The journal {path} lies where SQLite's log can't work (journal mode {mode!r}).",
            code="journal_on_network",
            hint="Choose a local disk with --journal PATH.",
        )
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA fullfsync=ON")
    connection.execute("PRAGMA checkpoint_fullfsync=ON")
    connection.execute("PRAGMA foreign_keys=ON")
    _migrate(connection, version)
    if version < len(MIGRATIONS):
        _checkpoint(connection)


def _checkpoint(connection: sqlite3.Connection) -> None:
    """Bring the log into the file: whatever becomes of the log, the file is a journal with a mark."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


@contextlib.contextmanager
def untouched(path: Path) -> Iterator[tuple[sqlite3.Connection, int]]:
    """An existing file and its version, to be read before it is opened for writing; whoever does holds the lock.

    Leaves the file and its log as they are, and brings neither into the other. Raises like `connect`.
    """
    with (
        translating(path),
        contextlib.closing(_open_readonly(path) if has_log(path) else _open_as_it_lies(path)) as connection,
    ):
        yield connection, _version(connection, path)


def connect_readonly(path: Path) -> sqlite3.Connection:
    """Open the journal for reading, beside whoever writes it. Raises like `connect`; never makes or changes a file."""
    try:
        # An empty file is what is left of a first start that was killed at once, or of a journal that somebody emptied:
        # it is not even opened, because SQLite takes a log beside it for a stray, and deletes it.
        status = path.stat()
        is_there = status.st_size > 0 or not stat.S_ISREG(status.st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_there = False
    except OSError:
        is_there = True  # behind a directory that may not be searched: opening it tells why
    if not is_there:
        raise _no_journal(path)
    try:
        connection = _open_readonly(path)
        try:
            version = _version(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise translated(error, path) from error
    if version == 0:  # killed a moment later
        connection.close()
        raise _no_journal(path)
    return connection


def _no_journal(path: Path) -> UsageError:
    return UsageError(
        f"There is no journal at {path}.",
        code="no_journal",
        hint="Start a run first, or name the journal with --journal PATH.",
    )


def _open(name: str, *, is_uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(
        name,
        timeout=BUSY_TIMEOUT_S,
        uri=is_uri,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )


def _open_as_it_lies(path: Path) -> sqlite3.Connection:
    """Read the file alone: right only where no log is beside it and nobody writes it. Makes no file."""
    return _open(f"{path.absolute().as_uri()}?immutable=1", is_uri=True)


def _open_readonly(path: Path) -> sqlite3.Connection:
    connection = _open(f"{path.absolute().as_uri()}?mode=ro", is_uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        if _primary(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY} or has_log(path):
            raise
        # In a directory that can't be written SQLite can't make the shared memory that a WAL is read with. Without a
        # log beside it the file is whole and nobody writes it, so it may be read as it lies.
        return _open_as_it_lies(path)
    except BaseException:
        connection.close()
        raise
    return connection


def has_log(path: Path) -> bool:
    """Whether a log that holds something lies beside the journal."""
    try:
        return Path(f"{os.path.realpath(path)}-wal").stat().st_size > 0
    except OSError:
        return False


def _version(connection: sqlite3.Connection, path: Path) -> int:
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
    if application != APPLICATION_ID and (tables > 0 or application != 0 or version != 0):
        raise JournalCorrupt(
            f"{path} is another program's database, not a journal.",
            code="journal_corrupt",
            hint="Choose another file with --journal PATH.",
        )
    if version > len(MIGRATIONS):
        raise JournalNewer(
            f"The journal {path} was written by a newer version of ingest (schema {version}, known {len(MIGRATIONS)}).",
            code="journal_newer",
            hint="Use that version, or another journal with --journal PATH.",
        )
    return version


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    for number, name in enumerate(MIGRATIONS[version:], start=version + 1):
        script = resources.files("ingest.journal").joinpath("schema", name).read_text(encoding="utf-8")
        # One transaction a step: a crash leaves the version before or after it, never between.
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION_ID}; {script}; PRAGMA user_version={number}; COMMIT;"
        )


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise


def _primary(error: Exception) -> int:
    """The primary result code, without what the extended one adds (https://www.sqlite.org/rescode.html)."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def translated(error: Exception, path: Path) -> StopError:
    """What a failure of the file at `path` means for a person."""
    if path.is_dir():
        return UsageError(
            f"The journal {path} can't be opened: it is a directory.",
            code="bad_journal_path",
            hint="Name a file with --journal PATH.",
        )
    if isinstance(error, FileGone):
        return MachineError(
            f"The journal {path} was deleted, replaced or cut short while it was in use, or its -wal file was: nothing "
            "more is sent, and what this run has sent since then is in no journal.",
            code="journal_gone",
            hint="Put the files back and run again; without them, a new journal knows nothing of what was added.",
        )
    told = str(error)
    match _primary(error):
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return MachineError(
                f"The journal {path} can't be opened: {told}.",
                code="journal_unwritable",
                hint="Mend its permissions and its directory's, or choose another place with --journal PATH.",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return JournalInUse(
                f"Journal in use by another program ({path}: {told}).",
                code="journal_in_use",
                hint="Close whatever has the file open (a backup, a database browser) and run again.",
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return JournalCorrupt(
                f"{path} is no journal, or a damaged one: {told}.",
                code="journal_corrupt",
                hint="Put it aside and name another with --journal PATH; a new one knows nothing of what was added.",
            )
        case _:
            return MachineError(
                f"The journal {path} can't be used: {told}.",
                code="machine",
                hint=MACHINE_HINT,
            )


@contextlib.contextmanager
def translating(path: Path) -> Iterator[None]:
    """What fails inside comes out as a person should hear of it."""
    try:
        yield
    except (sqlite3.Error, FileGone) as error:
        raise translated(error, path) from error
