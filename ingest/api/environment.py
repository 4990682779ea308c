"""What the process environment says about the network: certificate authorities and proxies, read once on opening.

The usual variables, with the usual meaning. Decides about no request; turning verification off is not a choice.
"""

from __future__ import annotations

import base64
import os
import ssl
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from yarl import URL

from ingest.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Proxies", "Proxy", "tls_context"]

ADDED_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# SSL_CERT_FILE and SSL_CERT_DIR are read by OpenSSL itself and replace its default store. These two are what a company
# with an inspecting proxy sets for other programs; they come on top, so that the store still counts.


def tls_context() -> ssl.SSLContext:
    """A verifying context that trusts what the environment names. Reads files: call it in a thread.

    `UsageError` where a variable names something that can't be read, which OpenSSL would pass over in silence.
    """
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(name)
        if path and not all(Path(part).exists() for part in path.split(os.pathsep)):
            raise UsageError(
                f"{name} names {path}, which isn't there.",
                code="bad_ca",
                hint=f"Correct {name}, or unset it to trust the system's certificate authorities.",
            )
    context = ssl.create_default_context()
    for name in ADDED_BUNDLES:
        path = os.environ.get(name)
        if not path:
            continue
        try:
            context.load_verify_locations(**{"capath" if Path(path).is_dir() else "cafile": path})
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"{name} names {path}, which can't be read as certificates: {error}.",
                code="bad_ca",
                hint=f"Correct {name}, or unset it to trust the system's certificate authorities.",
            ) from error
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy. `authorization` is the value of `Proxy-Authorization`, None where the URL names no user."""

    url: URL
    authorization: str | None = field(default=None, repr=False)


class Proxies:
    """Which proxy, if any, leads to a host: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` in either case.

    Read when it is made, and remembered by host: the standard library asks the environment, and on some systems the
    operating system, on every question.
    """

    def __init__(self) -> None:
        self._by_scheme: Mapping[str, str] = urllib.request.getproxies()
        self._by_origin: dict[tuple[str, str], Proxy | None] = {}

    def for_url(self, url: URL) -> Proxy | None:
        """The proxy for this URL, None for a direct connection; `UsageError` where it is one that can't be used."""
        if not self._by_scheme:
            return None
        origin = (url.scheme, url.raw_host or "")
        if origin not in self._by_origin:
            self._by_origin[origin] = self._find(*origin)
        return self._by_origin[origin]

    def _find(self, scheme: str, host: str) -> Proxy | None:
        named = self._by_scheme.get(scheme) or self._by_scheme.get("all")
        if not named or urllib.request.proxy_bypass(host):
            return None
        try:
            url = URL(named if "://" in named else f"http://{named}")
        except ValueError:
            url = URL()
        if url.scheme not in {"http", "https"} or not url.host:
            raise UsageError(
                f"The proxy that the environment names for {scheme}://{host} is no HTTP proxy"
                f"{f' but {url.scheme}://' if url.scheme else ''}.",
                code="bad_proxy",
                hint=f"Set {scheme.upper()}_PROXY to an http:// proxy, or add {host} to NO_PROXY.",
            )
        if url.user is None:
            return Proxy(url=url)
        pair = f"{unquote(url.raw_user or '')}:{unquote(url.raw_password or '')}"
        token = base64.b64encode(pair.encode()).decode()
        return Proxy(url=url.with_user(None), authorization=f"Basic {token}")
