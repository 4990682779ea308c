"""URLs: which can be sent to as they are, and which target a base URL names.

Resolves no name and connects to nothing.
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

from ingest.api.redaction import without_query
from ingest.errors import UsageError
from ingest.model import Target

__all__ = ["checked", "is_sendable", "target_of"]


def target_of(base_url: str) -> Target:
    """The target that a base URL names: scheme and host in lower case, no default port, no slash at the end."""
    try:
        parts = urlsplit(base_url.strip())
        port, host = parts.port, parts.hostname
    except ValueError:
        port, host = None, None
    if host is None or parts.scheme.lower() not in {"http", "https"}:
        raise UsageError(
            f"{without_query(base_url)!r} is no base URL.",
            code="bad_base_url",
            hint="Set GENVIRAL_BASE_URL to an http(s) URL such as https://www.genviral.io/api/partner/v1.",
        )
    default = {"http": 80, "https": 443}[parts.scheme.lower()]
    place = f"[{host}]" if ":" in host else host
    return Target(
        f"{parts.scheme.lower()}://{place}{f':{port}' if port not in {None, default} else ''}{parts.path.rstrip('/')}"
    )


def is_sendable(url: str) -> bool:
    """Whether it can be sent as it is: an absolute URL of a host, whose every character is one of a URL's."""
    try:
        scheme, place, *_ = urlsplit(url)
        return _is_place(scheme, place) and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        return False


@lru_cache(maxsize=64)  # a job names two of the same few places, and asking the codec is what takes the time
def _is_place(scheme: str, place: str) -> bool:
    parts = urlsplit(f"{scheme}://{place}")
    (parts.hostname or "").encode("idna")  # labels of at most 63 characters, or the resolver fails in its own way
    # Asking for a port that is out of range raises.
    return scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0


def checked(base_url: str) -> str:
    """A base URL as paths are put after it. `UsageError` for one that no request can be sent to as it is."""
    if not is_sendable(base_url) or without_query(base_url) != base_url:
        raise UsageError(
            f"The base URL {without_query(base_url)} can't be used.",
            code="bad_base_url",
            hint="Set GENVIRAL_BASE_URL to an https:// URL without user, query or fragment, or unset it.",
        )
    return base_url.rstrip("/")
