"""What sources could not read as jobs, in a table of its own.

Knows its rows and nothing of jobs; which deliveries are refused is not decided here.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from ingest.journal.records import Refusal
from ingest.journal.rows import decoded, encoded, plain
from ingest.model import RunId

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from ingest.model import Target

__all__ = ["drop", "keep", "stored"]

BATCH: Final = 500
# Rows in memory at once while many are dropped.

_KNOWN: Final = "SELECT reason FROM refusals WHERE target_id = ? AND source = ? AND place = ?"
_KEEP: Final = (
    "INSERT INTO refusals (target_id, source, place, reason, detail, run_id, refused_at) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (target_id, source, place) DO UPDATE SET "
    "reason = excluded.reason, detail = excluded.detail, run_id = excluded.run_id, refused_at = excluded.refused_at"
)
_EARLIER: Final = (
    "SELECT place FROM refusals WHERE target_id = ? AND source = ? AND run_id <> ? AND place > ? ORDER BY place"
)
_DROP: Final = "DELETE FROM refusals WHERE target_id = ? AND source = ? AND place = ?"
_STORED: Final = "SELECT source, place, reason, detail, run_id, refused_at FROM refusals"
_IN_ORDER: Final = "ORDER BY source, CAST(place AS INTEGER), place"
# Places that are numbers, as numbers.


def keep(connection: sqlite3.Connection, target_id: int, refusals: Sequence[Refusal]) -> list[bool]:
    """See `JournalRefusals.refuse`."""
    are_news = []
    for refusal in refusals:
        source, place = encoded(refusal.source), plain(refusal.place)
        row = connection.execute(_KNOWN, (target_id, source, place)).fetchone()
        are_news.append(row is None or row[0] != refusal.reason)
        told = refusal.reason, plain(refusal.detail), refusal.run_id, refusal.refused_at
        connection.execute(_KEEP, (target_id, source, place, *told))
    return are_news


def drop(
    connection: sqlite3.Connection, target_id: int, run_id: RunId, source: str, retells: Callable[[str], bool]
) -> int:
    """See `JournalRefusals.mended`."""
    count, after = 0, ""
    while True:
        rows = connection.execute(_EARLIER, (target_id, encoded(source), run_id, after))
        places = [place for (place,) in itertools.islice(rows, BATCH)]
        if not places:
            return count
        gone = [(target_id, encoded(source), place) for place in places if retells(place)]
        connection.executemany(_DROP, gone)
        count, after = count + len(gone), places[-1]


def stored(connection: sqlite3.Connection, target: Target | None, reason: str | None) -> Iterator[Refusal]:
    """Those of a target, or of all, for a reason, or any; none where the journal's schema is older than they are."""
    if connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'refusals'").fetchone()[0] == 0:
        return
    where, parameters = "1", list[str]()
    if target is not None:
        where += " AND target_id = (SELECT target_id FROM targets WHERE base_url = ?)"
        parameters.append(target)
    if reason is not None:
        where += " AND reason = ?"
        parameters.append(reason)
    for row in connection.execute(f"{_STORED} WHERE {where} {_IN_ORDER}", parameters):
        yield Refusal(
            source=decoded(row[0]), place=row[1], reason=row[2], detail=row[3], run_id=RunId(row[4]), refused_at=row[5]
        )
