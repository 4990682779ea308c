"""The second line of defence against secrets in what is shown: known ones and signed query strings are withheld.

The first line is not to hand a secret over at all; nothing here is a licence to do so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias
from urllib.parse import quote

from ingest.observe.text import printable

__all__ = ["WITHHELD", "Plain", "Scrubber", "withhold_signatures"]

Plain: TypeAlias = "str | int | float | bool | list[Plain] | dict[str, Plain] | None"
"""What JSON can say."""

WITHHELD: Final = "[withheld]"

_MAX_DEPTH: Final = 8
# Deeper values are data, not something to log; also ends a value that contains itself.

_SIGNED: Final = re.compile(r"X-Amz-|Signature=", re.IGNORECASE)
_WORD: Final = re.compile(r"[^\s\"'<>]+")
# A URL in running text ends where a word does: at a space, a quote or an angle bracket.

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# In paths that are not UTF-8 (`os.fsdecode`): strict JSON readers refuse them, and so do strict streams.


def withhold_signatures(text: str) -> str:
    """`text` without the query strings that sign a request: `https://host/key?[withheld]`."""
    return _WORD.sub(_unsigned, text) if _SIGNED.search(text) else text


def _unsigned(word: re.Match[str]) -> str:
    signed = _SIGNED.search(word[0])
    if signed is None:
        return word[0]
    head, mark, _ = word[0].partition("?")
    # Without a question mark it is a query string by itself.
    return f"{head}?{WITHHELD}" if mark else f"{word[0][: signed.start()]}{WITHHELD}"


class Scrubber:
    """Turns any value into plain data without secrets. May be used by one thread while another one registers."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        for secret in secrets:
            self.register(secret)

    def register(self, secret: str) -> None:
        """Withhold `secret` too, as it is and as URLs and quoted text write it. An empty one is ignored."""
        if not secret:
            return
        self._forms |= {secret, quote(secret, safe=""), repr(secret)[1:-1]}
        longest_first = sorted(self._forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)

    def text(self, text: str) -> str:
        """`text` without secrets, and encodable."""
        if self._pattern is not None:
            text = self._pattern.sub(WITHHELD, text)
        text = withhold_signatures(text)
        return text if text.isascii() else _LONE_SURROGATE.sub(lambda lone: printable(lone[0]), text)

    def plain(self, value: object, *, depth: int = 0) -> Plain:
        """`value` as plain data without secrets, keys included; what JSON can't say becomes text."""
        match value:
            case None | bool() | int():
                return value
            case float():
                return value if math.isfinite(value) else str(value)
            case str():
                return self.text(str(value))
            case _ if depth >= _MAX_DEPTH:
                return "..."
            case Mapping():
                return {self.text(_said(key)): self.plain(item, depth=depth + 1) for key, item in value.items()}
            case list() | tuple() | AbstractSet():
                return [self.plain(item, depth=depth + 1) for item in value]
            case _:
                return self.text(_said(value))


def _said(value: object) -> str:
    """What `value` says of itself; a value that fails to must not cost the line it is in."""
    try:
        return str(value) or repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
