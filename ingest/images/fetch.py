"""Asking the hosts of URLs for images: whether one is there, and its bytes; behind the guard of addresses.

Nothing is ever sent to an address outside the public internet, unless that is allowed: what a name resolves to is
filtered before it is connected to, and an address in a URL, or in that of a redirect, is judged as it stands. No key,
cookie or proxy is used, nothing is decompressed, and each read is bounded. Keeps no image (`download` does), and does
not ask twice: whoever wants it again asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from ingest.errors import ImageError, ImageRejected, ImageUnreachable
from ingest.images.formats import HEAD_BYTES, Unusable, type_of
from ingest.images.hosts import Hosts
from ingest.observe.text import shown
from ingest.observe.version import version
from ingest.policy.addresses import is_public
from ingest.policy.urls import PRIVATE, flaw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aiohttp.abc import ResolveResult

    from ingest.model import ContentType
    from ingest.settings import FetchSettings

__all__ = ["Fetcher", "PublicResolver"]

PROGRESS_BYTES: Final = 16 * 1024
# What must have come since the last look at the clock to count as progress, as for the API.

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
GONE: Final = frozenset({404, 410})
FORBIDDEN: Final = frozenset({401, 402, 403, 407, 451})
PASSING: Final = frozenset({408, 425, 429})
# Client errors that speak of the moment, and not of the request.

NOT_SATISFIABLE: Final = 416

NO_CONNECTION: Final = frozenset({"connect", "dns", "tls"})
"""The reasons for which nothing was asked at all."""

Answered: TypeAlias = "tuple[aiohttp.ClientResponse, asyncio.Timeout, str]"
"""An answer that is no redirect, with its body still to be read; the deadline of that; where it came from."""


class PublicResolver(AbstractResolver):
    """Gives of what a name resolves to the addresses of the public internet; `ImageRejected` where none is one.

    What it gives is what is connected to: a name that leads elsewhere the next time is judged anew then.
    """

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See `AbstractResolver`."""
        found = await self._inner.resolve(host, port, family)
        public = [place for place in found if is_public(ip_address(place["host"].partition("%")[0]))]
        if found and not public:
            raise ImageRejected(f"{host} {PRIVATE}", reason="private_host")
        return public

    async def close(self) -> None:
        """See `AbstractResolver`."""
        await self._inner.close()


class Fetcher:
    """Asks hosts that are nobody's own, a few requests at once each. Use `open`; connects when it is first asked."""

    def __init__(
        self, settings: FetchSettings, tls: Callable[[], ssl.SSLContext], resolver: AbstractResolver | None
    ) -> None:
        self._settings = settings
        self._tls = tls
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._hosts = Hosts(settings.max_requests_per_host)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, settings: FetchSettings, *, tls: Callable[[], ssl.SSLContext], resolver: AbstractResolver | None = None
    ) -> AsyncIterator[Fetcher]:
        """Keep connections until the block is left. `tls` makes a verifying context, in a thread."""
        fetcher = cls(settings, tls, resolver)
        try:
            yield fetcher
        finally:
            if fetcher._session is not None:
                await fetcher._session.close()

    async def check(self, url: str) -> ContentType:
        """The type of the image that the URL leads to, told from its first bytes.

        Raises `ImageRejected` where it leads to none that packs take (`not_found`, `forbidden`, `http_…`, `redirects`,
        `bad_url`, `private_host`, `encoded`, and the reasons of `formats`), and `ImageUnreachable` where its host did
        not tell.
        """
        place = await self._place(url)
        head = await self._head(url, place, ranged=True)
        if head is None:
            head = await self._head(url, place, ranged=False)
        verdict = type_of(head or b"")
        if isinstance(verdict, Unusable):
            raise ImageRejected(f"{shown(url)} {verdict.detail}", reason=verdict.reason)
        return verdict

    async def _place(self, url: str) -> str:
        """Where a HEAD request is redirected to: what is asked for next. It decides nothing else.

        Servers refuse it, answer it with another status than a GET, or never: only a GET tells.
        """
        try:
            async with self._asked("HEAD", url, url) as (_, _, place):
                return place
        except ImageUnreachable as error:
            if error.reason in NO_CONNECTION:  # nor would it answer anything else
                raise
        except ImageRejected as error:
            if error.reason == "private_host":
                raise
        return url

    async def _head(self, url: str, place: str, *, ranged: bool) -> bytes | None:
        """The first bytes; None where the server is wrong about ranges."""
        headers = {"Range": f"bytes=0-{HEAD_BYTES - 1}"} if ranged else {}
        async with self._asked("GET", url, place, headers) as (answer, _, _):
            if ranged and (answer.status == NOT_SATISFIABLE or _is_elsewhere(answer)):
                return None
            _refuse(url, answer)
            head = b""
            while len(head) < HEAD_BYTES and (piece := await answer.content.read(HEAD_BYTES)):
                head += piece
            return head[:HEAD_BYTES]

    @contextlib.asynccontextmanager
    async def download(self, url: str, max_bytes: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """All bytes of what the URL leads to, in pieces, at most `max_bytes`; nothing is kept.

        Raises as `check` does, and `ImageRejected` (`too_large`), then or while it is read; `ImageUnreachable` also
        where less came than was announced, or nothing was announced and the block ends in `cut_short`. The host's place
        is kept until the block is left.
        """
        async with self._asked("GET", url, url) as (answer, deadline, _):
            _refuse(url, answer)
            if (answer.content_length or 0) > max_bytes:
                raise _too_large(url, max_bytes)
            try:
                yield self._pieces(url, answer, deadline, max_bytes)
            except ImageRejected as error:
                if error.reason != "cut_short" or _is_announced(answer):
                    raise
                raise ImageUnreachable(str(error), reason="cut_short") from None

    async def _pieces(
        self, url: str, answer: aiohttp.ClientResponse, deadline: asyncio.Timeout, max_bytes: int
    ) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        read_bytes = moved_bytes = 0
        while piece := await answer.content.readany():
            read_bytes += len(piece)
            moved_bytes += len(piece)
            if read_bytes > max_bytes:
                raise _too_large(url, max_bytes)
            if moved_bytes >= PROGRESS_BYTES:
                moved_bytes = 0
                deadline.reschedule(clock() + self._settings.timeout_s)
            yield piece
            # What is done with the piece is no fault of the host's, but its time is small beside the timeout.

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, named: str, url: str, headers: dict[str, str] | None = None
    ) -> AsyncIterator[Answered]:
        """Ask, follow redirects, and give the answer. `named` is the URL that people know."""
        host = ""
        try:
            with _translated(named, self._settings.timeout_s):
                for _ in range(self._settings.max_redirects + 1):
                    # In each URL that is asked for: aiohttp resolves no address, so no resolver sees one.
                    if (wrong := flaw(url, allow_private=self._settings.allow_private_hosts)) is not None:
                        led = "" if url == named else f"is redirected to {shown(url)}, which "
                        raise ImageRejected(f"{shown(named)} {led}{wrong.detail}", reason=wrong.reason)
                    host = URL(url, encoded=True).host_port_subcomponent or ""
                    async with self._hosts.turn(host), self._answer(method, named, url, headers) as (answer, deadline):
                        self._hosts.answered(host)
                        location = answer.headers.get("Location")
                        if answer.status not in REDIRECTS or location is None:
                            yield answer, deadline, url
                            return
                    # Without what stands behind a `#`, which is for browsers.
                    url = urljoin(url, location).partition("#")[0]
        except ImageUnreachable as error:
            if error.reason in NO_CONNECTION and not error.is_host_down:
                self._hosts.failed(host)
            raise
        raise ImageRejected(f"{shown(named)} is redirected again and again", reason="redirects")

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, named: str, url: str, headers: dict[str, str] | None
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, asyncio.Timeout]]:
        """One answer, with the deadline of its reading. What is not read of it is not waited for."""
        session = self._session or await self._opened()
        asked = URL(url, encoded=True)
        if self._hosts.is_down(asked.host_port_subcomponent or ""):
            told = f"{shown(named)} was not asked for: its host took no connection again and again"
            raise ImageUnreachable(told, reason="connect", is_host_down=True)
        async with (
            asyncio.timeout(self._settings.timeout_s) as deadline,
            session.request(method, asked, headers=headers, allow_redirects=False) as answer,
        ):
            try:
                yield answer, deadline
            finally:
                if not answer.content.at_eof():
                    answer.close()  # the rest may never end

    async def _opened(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                tls = await asyncio.to_thread(self._tls)
                names = self._resolver or ThreadedResolver()
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(
                        resolver=names if self._settings.allow_private_hosts else PublicResolver(names),
                        ssl=tls,
                        limit=0,
                    ),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=False,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_s),
                    headers={"User-Agent": f"ingest/{version()}", "Accept": "image/*", "Accept-Encoding": "identity"},
                )
            return self._session


def _is_elsewhere(answer: aiohttp.ClientResponse) -> bool:
    """Whether it is a part that does not begin where it was asked to."""
    return answer.status == 206 and not answer.headers.get("Content-Range", "bytes 0-").startswith("bytes 0-")


def _is_announced(answer: aiohttp.ClientResponse) -> bool:
    """Whether the end of the body is told otherwise than by the end of the connection, which any accident may be."""
    return answer.content_length is not None or "Transfer-Encoding" in answer.headers


def _refuse(url: str, answer: aiohttp.ClientResponse) -> None:
    """Raise where the status, or how the body is sent, says that no image comes."""
    status = answer.status
    told = f"{shown(url)} was answered with HTTP {status}"
    if status in GONE:
        raise ImageRejected(told, reason="not_found")
    if status in FORBIDDEN:
        raise ImageRejected(f"{told}: it is not public", reason="forbidden")
    if status >= 500 or status in PASSING:
        raise ImageUnreachable(told, reason=f"http_{status}", retry_after_s=_retry_after_s(answer))
    if not 200 <= status < 300:
        raise ImageRejected(told, reason=f"http_{status}")
    if (encoding := answer.headers.get("Content-Encoding", "identity").strip().lower()) not in {"", "identity"}:
        raise ImageRejected(
            f"{shown(url)} is sent compressed ({encoding[:20]!r}), though that was not asked for", reason="encoded"
        )


def _retry_after_s(answer: aiohttp.ClientResponse) -> float | None:
    told = answer.headers.get("Retry-After", "")
    if told.isdecimal():
        return float(told[:9])
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _too_large(url: str, max_bytes: int) -> ImageRejected:
    return ImageRejected(f"{shown(url)} has more bytes than --max-bytes allows ({max_bytes:,})", reason="too_large")


@contextlib.contextmanager
def _translated(url: str, timeout_s: float) -> Iterator[None]:
    """The library's errors in our words, none of which are its own: they can hold the query of a URL."""
    try:
        yield
    except ImageError:
        raise
    except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, TimeoutError, OSError, ValueError) as error:
        reason, message = _told(error, timeout_s)
        # Without its cause, which a traceback would print with the whole URL.
        raise ImageUnreachable(f"{shown(url)} was not handed over: {message}", reason=reason) from None


def _told(error: Exception, timeout_s: float) -> tuple[str, str]:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "connect", "its host takes no connection"
        case aiohttp.ClientConnectorDNSError():
            return "dns", "the name of its host can't be resolved"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls", "no trusted TLS connection to its host"
        case aiohttp.ClientConnectorError():
            return "connect", f"no connection to its host ({error.os_error.strerror or type(error).__name__})"
        case TimeoutError():
            return "timeout", f"no progress for {timeout_s:g} s"
        case aiohttp.ClientPayloadError():
            return "cut_short", "the answer was cut short"
        case _:
            return "unreadable", f"the connection was lost, or what came is no HTTP ({type(error).__name__})"
