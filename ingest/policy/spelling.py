"""When two spellings of a url are the same url, so that an image is known under whichever the server stored.

Pure. Takes escapes in the path for what they stand for, and nothing else: another host, query or path is another url.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Spellings", "canonical"]

KEPT: Final = frozenset(b"/?#%")
# Decoded, these would make another url of it: they divide one, or begin an escape.

DECODED: Final[Mapping[str, str]] = {
    digits: f"%{octet:02X}" if octet in KEPT else chr(octet if octet < 0x80 else 0xDC00 + octet)
    for octet in range(0x100)
    for upper in (f"{octet:02X}",)
    for digits in (upper, upper.lower(), upper[0] + upper[1].lower(), upper[0].lower() + upper[1])
}
# What follows a `%`, and what both stand for. Octets of UTF-8 are surrogates, as Python's `surrogateescape` has them.


def canonical(url: str) -> str:
    """The spelling that all spellings of a url share: `%28` and `(` are one, and so are `%c3` and `%C3`.

    A url without a `%` is its own. Some 2 µs for one with four.
    """
    if "%" not in url:
        return url
    path, query = url, ""
    for mark in ("#", "?"):
        if mark in path:
            path, _, rest = path.partition(mark)
            query = f"{mark}{rest}{query}"
    first, *others = path.split("%")
    if first.count("/") < 3:  # in the host, or there is none
        return url
    try:
        spelt = first + "".join([DECODED[part[:2]] + part[2:] for part in others])
        if not spelt.isascii():
            spelt = spelt.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except (KeyError, UnicodeEncodeError):  # no escapes, or no text
        return url
    return spelt + query


class Spellings:
    """Urls that are wanted, each under any of its spellings."""

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = wanted
        self._escaped = {canonical(url): url for url in wanted if "%" in url}

    def meant(self, url: str) -> str | None:
        """The spelling in which this url is wanted; None where it is not."""
        if url in self._wanted:
            return url
        if "%" not in url:  # the common way: two looks into a table
            return self._escaped.get(url)
        if not self._wanted:
            return None
        spelt = canonical(url)
        if (meant := self._escaped.get(spelt)) is not None:
            return meant
        return spelt if "%" not in spelt and spelt in self._wanted else None
