"""URLs that callers name as images: which can be sent on as they are, and what makes two of them one.

Pure: resolves no name and connects to nothing; where a name leads is seen when it is connected to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from blake3 import blake3

from ingest.model import Fingerprint
from ingest.policy.addresses import is_local_name, is_public, meant_address
from ingest.policy.spelling import canonical

__all__ = ["MAX_URL_CHARACTERS", "Flaw", "flaw", "in_journal", "name_in", "url_fingerprint"]

MAX_URL_CHARACTERS: Final = 8000
# What everybody should support (RFC 9110, section 4.1); the API's own limit is unknown.

HOST: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*\.?")
MAX_HOST_CHARACTERS: Final = 253
MAX_LABEL_CHARACTERS: Final = 63
# RFC 1035, section 2.3.4: a longer one makes resolvers fail, each in a way of its own.

WITHHELD_USER: Final = "withheld"

DOMAIN: Final = "ingest 2026-11 fingerprint of an image that is a url"
# No bytes of an image have the fingerprint of a URL: BLAKE3 with a context is another function.


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """Why a URL can't be an image of a pack; `detail` goes on after the URL in a message."""

    reason: Literal["bad_url", "private_host"]
    detail: str


def flaw(url: str, *, allow_private: bool) -> Flaw | None:
    """What is wrong with a URL, as far as it can be seen without asking anybody; None where nothing is."""
    if len(url) > MAX_URL_CHARACTERS:
        return _bad(f"is longer than {MAX_URL_CHARACTERS} characters")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return _bad("holds what no URL may; percent-encode it, and write a host's name in its ASCII form (xn--…)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return _bad("has a host or port that can't be read")
    if parts.scheme not in {"http", "https"}:
        return _bad("is neither http:// nor https://")
    if "@" in parts.netloc:
        return _bad("has a user name or a password in it, which everybody would see who may see the pack")
    if "#" in url:
        return _bad("has a fragment (#…), which no server is ever sent; leave it out")
    if port == 0 or parts.netloc.endswith(":"):
        return _bad("has a port that can't be connected to")
    return _flaw_of_host(parts.netloc.removesuffix(f":{port}"), allow_private=allow_private)


def _flaw_of_host(host: str, *, allow_private: bool) -> Flaw | None:
    labels = host.split(".")
    if not HOST.fullmatch(host) or len(host) > MAX_HOST_CHARACTERS or max(map(len, labels)) > MAX_LABEL_CHARACTERS:
        return _bad("has no host, or one that can't be the name of any")
    try:
        address = meant_address(host)
    except ValueError:
        return _bad("has a host that ends in a number and is no address")
    is_private = is_local_name(host) if address is None else not is_public(address)
    if is_private and not allow_private:
        return Flaw(reason="private_host", detail=PRIVATE)
    if address is not None and host.strip("[]") != str(address) and address.version == 4:
        return _bad("has an address that is not written as four decimal numbers")
    return None


PRIVATE: Final = (
    "leads to a private or local address, which the API could not reach either; "
    "--allow-private-hosts takes it all the same"
)
"""The detail of every `private_host`."""


def _bad(detail: str) -> Flaw:
    return Flaw(reason="bad_url", detail=detail)


def in_journal(url: str) -> str:
    """The URL as the journal may hold it: as it was written, but for a password and what is beyond all measure.

    A URL that is changed by this has a flaw, and still has it afterwards.
    """
    scheme, separator, rest = url.partition("://")
    end = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    authority, tail = rest[:end], rest[end:]
    if "@" in authority:
        authority = f"{WITHHELD_USER}@{authority.rpartition('@')[2]}"
    return f"{scheme}{separator}{authority}{tail}"[: MAX_URL_CHARACTERS + 1]


def url_fingerprint(url: str) -> Fingerprint:
    """What all spellings of a URL have in common, and no bytes of an image."""
    spelt = canonical(url).encode("utf-8", "surrogatepass")
    return Fingerprint(blake3(spelt, derive_key_context=DOMAIN).digest())


def name_in(url: str) -> str:
    """The last part of the path, decoded, as a file name; empty where there is none. Nothing of the query."""
    path = url.partition("#")[0].partition("?")[0].partition("://")[2]
    return unquote(path.partition("/")[2].rpartition("/")[2], errors="replace").replace("/", "_")
