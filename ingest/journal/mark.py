"""The journal's mark: which journal it is, and how far it has come.

The mark lies in the database, and a copy of it in the lock file beside it, written only after the commit that holds
it: a database that is behind the copy has lost commits. Knows neither file; decides only which is behind.
"""

from __future__ import annotations

import msgspec

__all__ = ["Mark", "is_behind"]


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """`journal_id` never changes; `epoch` only grows."""

    journal_id: str
    epoch: int

    def raised(self) -> Mark:
        """The next one."""
        return Mark(journal_id=self.journal_id, epoch=self.epoch + 1)


def is_behind(found: Mark | None, last: Mark | None) -> bool:
    """Whether a database with the mark `found` (None: it has none) is older than when `last` was written beside it.

    Without `last` nothing is known, and another journal in this one's place is a person's decision. An unclean end
    leaves `last` at or behind `found`, never ahead of it.
    """
    if last is None:
        return False
    return found is None or (found.journal_id == last.journal_id and found.epoch < last.epoch)
