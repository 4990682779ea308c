"""Which files of a directory the journal knows as they are: a range of keys in one statement.

Reads only, and makes no record of a row: most files of a second run are told from here alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ingest.journal.rows import encoded

if TYPE_CHECKING:
    import sqlite3

    from ingest.model import PackId, Stretch

__all__ = ["unchanged"]

_BETWEEN: Final = (
    "SELECT substr(key, ?1), size_bytes, mtime_ns, state IN ('added', 'duplicate') FROM jobs "
    "WHERE target_id = ?2 AND pack_id = ?3 AND key BETWEEN ?4 AND ?5 "
    # Keys are ordered by their bytes, by which all that is below `b` stands between `b.jpg` and `c.jpg`.
    "AND instr(substr(key, ?1), x'2f') = 0 "
    "ORDER BY key, revision LIMIT ?6"
)

ROWS_A_FILE: Final = 16
# Of files that are gone from the disk as many rows may lie between as cost less than an admission (60 us against 1 us
# a row); and the writer is not kept by millions of them. What lies below a subdirectory in between is passed over at
# 0.2 us a row, once.


def unchanged(connection: sqlite3.Connection, target_id: int, pack_id: PackId, stretch: Stretch) -> set[str]:
    """The names whose latest revision is `added` or `duplicate` with the stamp that they have."""
    names = list(stretch.stamps)
    if not names:
        return set()
    directory = encoded(stretch.directory)
    limit = ROWS_A_FILE * len(names)
    rows = connection.execute(
        _BETWEEN,
        (
            len(directory) + 1,  # SQL counts from 1
            target_id,
            pack_id,
            directory + encoded(names[0]),
            directory + encoded(names[-1]),
            limit,
        ),
    )
    known: set[str] = set()
    stamp_of = stretch.stamps.get
    name, read = "", 0
    for read, (stored, size_bytes, mtime_ns, is_done) in enumerate(rows, start=1):  # noqa: B007 - used after the loop
        name = stored.decode("utf-8", "surrogateescape")
        if is_done and stamp_of(name) == (size_bytes, mtime_ns):
            known.add(name)
        else:
            known.discard(name)  # a later revision decides
    if read == limit:
        known.discard(name)  # it may have later revisions still
    return known
