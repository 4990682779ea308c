"""Listings of many pages, read to their end: one request a page, the next one only when the last has come.

Knows no endpoint and no error: what a page is, and what to do about a failed one, is the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["read_all"]

T = TypeVar("T")

PAGE: Final = 100
# The most that List packs and List files give at once (API.md, Details).


async def read_all(
    page: Callable[[int, int], Awaitable[tuple[Sequence[T], int]]], *, most: int | None = None
) -> list[T]:
    """Everything that a listing has, or its first `most` entries, in its order.

    `page(limit, offset)` gives the entries of one page and the total of the listing. An empty page is its end whatever
    the total says, so that one which shrinks meanwhile is not asked for ever.
    """
    found: list[T] = []
    while most is None or len(found) < most:
        limit = PAGE if most is None else min(PAGE, most - len(found))
        entries, total = await page(limit, len(found))
        found.extend(entries)
        if not entries or len(found) >= total:
            break
    return found
