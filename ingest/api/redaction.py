"""What may be shown of a URL, and of text that a server sent.

Presigned query strings and the API key are secrets, and a server may echo either. Cuts and withholds; judges nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["excerpt", "query_values", "without_query", "word"]

EXCERPT_CHARS: Final = 200
READ_CHARS: Final = 1000
SEARCHED_CHARS: Final = 64 * 1024
# The excerpt is made of the first so many characters, and a secret is looked for well beyond them: one that is cut in
# two by the end of the excerpt is still found.

TELLING_CHARS: Final = 8
# The beginning of a secret gives away that it is quoted, even if the server cut it short.

SECRET_CHARS: Final = 16
# Shorter values of a presigned query (an expiry, a header's name) are no secrets, and words of many a message.

PRESIGNED: Final = re.compile(r"x-(?:amz|goog)-|signature=|bearer\s+\S{16}", re.IGNORECASE)
WORD: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def without_query(url: str) -> str:
    """The URL without its query string, fragment, user and password."""
    scheme, separator, rest = url.partition("?")[0].partition("#")[0].partition("://")
    if not separator:
        return scheme.rpartition("@")[2]  # no URL, but perhaps one that lost its beginning
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def query_values(url: str) -> tuple[str, ...]:
    """What of a URL's query may be a secret by itself."""
    return tuple(part for part in re.split("[=&]", url.partition("?")[2]) if len(part) >= SECRET_CHARS)


def excerpt(text: str, secrets: Iterable[str]) -> str:
    """The beginning of a server's text on one line, or a word saying that it is withheld."""
    if _holds(text[:SEARCHED_CHARS], secrets):
        return "(withheld: it may hold a secret)"
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:READ_CHARS]).split())
    return line if len(line) <= EXCERPT_CHARS else f"{line[: EXCERPT_CHARS - 1]}…"


def word(text: str | None, secrets: Iterable[str]) -> str | None:
    """A server's word for machines, None unless it is one: up to 64 letters, digits and `_.:-`, and no secret."""
    return text if text and WORD.fullmatch(text) and not _holds(text, secrets) else None


def _holds(text: str, secrets: Iterable[str]) -> bool:
    return bool(PRESIGNED.search(text)) or any(secret[:TELLING_CHARS] in text for secret in secrets if secret)
