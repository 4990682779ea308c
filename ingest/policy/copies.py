"""Which images of a pack are copies of one job's own url, and how many of them may be deleted (DESIGN §3, step 7).

Pure: whoever read the pack counts, and whoever deletes asks here first.
"""

from __future__ import annotations

import re
from typing import Final

from ingest.policy.spelling import canonical

__all__ = ["is_copy", "own_urls", "surplus"]

TELLING_CHARS: Final = 6
# A shorter file name says nothing of whose image it is: it may well be minted again in another folder.


def is_copy(url: str, *, minted: str | None, answered: str | None) -> bool:
    """Whether an image of the pack is a copy of this job's alone, so that a surplus one may be deleted.

    The minted url is. The server's own name for it is where it is the minted url in another spelling, or holds the
    minted file name; under any other name it might be another job's image as well. So it might where the file name is
    short, or stands there as a part of another word.
    """
    if minted is None or url == minted:
        return url == minted
    return url == answered and (_holds(url, minted.rpartition("/")[2]) or canonical(url) == canonical(minted))


def own_urls(*, minted: str | None, answered: str | None) -> tuple[str, ...]:
    """The names of a job's image that are no other job's: an image of the pack with one of them is a copy of it."""
    return tuple(
        url for url in (minted, answered) if url is not None and is_copy(url, minted=minted, answered=answered)
    )


def _holds(url: str, name: str) -> bool:
    is_telling = len(name) >= TELLING_CHARS
    return is_telling and re.search(rf"(?<![0-9A-Za-z]){re.escape(name)}(?![0-9A-Za-z])", url) is not None


def surplus(copies: int, *, adds_sent: int, condemned: int) -> int:
    """How many more of a url's `copies` may be deleted: those beyond the first that this job's own adds account for.

    `copies` are those that are not condemned. Each add makes one image at most. What is condemned, deleted already or
    not, is some add's, and no add's a second time: a copy that the adds can't account for is somebody else's.
    """
    return max(0, min(copies - 1, adds_sent - 1 - condemned))
