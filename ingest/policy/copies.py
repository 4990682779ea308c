"""Which images of a pack are copies of one job's own url, and how many of them may be deleted (DESIGN §3, step 7).

Pure: whoever read the pack counts, and whoever deletes asks here first.
"""

from __future__ import annotations

from ingest.policy.spelling import canonical

__all__ = ["is_copy", "surplus"]


def is_copy(url: str, *, minted: str | None, answered: str | None) -> bool:
    """Whether an image of the pack is a copy of this job's alone, so that a surplus one may be deleted.

    The minted url is. The server's own name for it is where it is the minted url in another spelling, or holds the
    minted file name, which no other url has; under any other name it might be another job's image as well.
    """
    if minted is None or url == minted:
        return url == minted
    return url == answered and (minted.rpartition("/")[2] in url or canonical(url) == canonical(minted))


def surplus(copies: int, *, adds_sent: int, condemned: int) -> int:
    """How many more of a url's `copies` may be deleted: those beyond the first that this job's own adds account for.

    `copies` are those that are not condemned. Each add makes one image at most. What is condemned, deleted already or
    not, is some add's, and no add's a second time: a copy that the adds can't account for is somebody else's.
    """
    return max(0, min(copies - 1, adds_sent - 1 - condemned))
