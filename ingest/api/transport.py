"""One HTTP exchange: what is sent, what comes back, and how it can end without an answer.

Knows, with `wire`, the HTTP library and its errors. It does not know the envelope, retries nothing, follows no
redirect, keeps no cookie and waits for no limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from ingest.api.bodies import PIECE_BYTES, Upload, in_pieces
from ingest.api.deadlines import Deadline, Deadlines, Expired
from ingest.api.environment import Proxies, tls_context
from ingest.api.redaction import without_query
from ingest.api.wire import Wire, head, received
from ingest.errors import RequestFailure
from ingest.model import Lane, Operation

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping

    from ingest.settings import ApiSettings

__all__ = ["MAX_ANSWER_BYTES", "Answer", "Call", "HttpTransport", "NoAnswer", "Transport"]

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
# The largest documented answer is Get Pack, at about 600 bytes an image: 50 000 images. Larger packs are streamed.

CONNECT_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `url` is absolute and already encoded: not a byte of it is changed on the way.

    `body` is all of it, or an iterable of exactly `content_length` bytes, read at most once. `sink` takes the pieces of
    a 200 answer in order instead of having them kept; a `ValueError` from it means that the answer is unreadable.
    `secrets` are what an answer may quote of the body and nobody may be shown.
    """

    operation: Operation
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | AsyncIterable[bytes] | None = field(default=None, repr=False)
    content_length: int | None = None
    sink: Callable[[bytes], None] | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{self.method} {without_query(self.url)}"

    def __repr__(self) -> str:
        return f"<Call {self.operation}: {self}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer: status, headers by any case, and the decompressed body (empty where a sink took it).

    `began_at` is when the request was begun, in monotonic seconds, and `duration_s` how long it took to its last byte:
    without the time that it waited to be let through.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    began_at: float = 0.0
    duration_s: float = 0.0


class NoAnswer(Exception):
    """The request ended without a whole answer. Its text holds no secret.

    `was_sent` is False only when it is certain that no byte of the request was written. `status` is the status of an
    answer that began and could not be read to its end.
    """

    def __init__(self, message: str, *, failure: RequestFailure, was_sent: bool, status: int | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.was_sent = was_sent
        self.status = status


class Transport(Protocol):
    """Carries one call to its answer."""

    async def exchange(self, call: Call) -> Answer:
        """Send the call, once, and return the whole answer, whatever its status.

        Calls may overlap and are not ordered. `NoAnswer` is the only error of its own; what the body iterable raises
        comes out unchanged, with the connection closed. A cancellation passes through and closes the connection; the
        request may have been sent. After the return, in any way, the body and the sink are not touched again.
        """
        ...


class HttpTransport:
    """HTTP/1.1 with one pool of connections for each lane. Use `open`.

    Certificates are always verified. Proxies and certificate authorities come from the environment (see `environment`);
    `.netrc` is not read, for it would put a second `Authorization` on requests that have one or must have none.
    """

    def __init__(self, lanes: Mapping[Lane, _Lane], proxies: Proxies) -> None:
        self._lanes = lanes
        self._proxies = proxies

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: ApiSettings, concurrency: int) -> AsyncIterator[HttpTransport]:
        """Open both pools, for at most `concurrency` requests at once in each; more wait, outside any timeout.

        `UsageError` where the environment names a proxy or a certificate authority that can't be used.
        """
        proxies = Proxies()
        proxies.for_url(URL(settings.base_url))
        tls = await asyncio.to_thread(tls_context)
        async with contextlib.AsyncExitStack() as stack:
            lanes: dict[Lane, _Lane] = {}
            for lane in Lane:
                deadlines = Deadlines(settings.timeout_s)
                stack.enter_context(deadlines.sweeping())
                wire = await stack.enter_async_context(Wire.open(tls, min(settings.timeout_s, CONNECT_TIMEOUT_S)))
                lanes[lane] = _Lane(wire=wire, deadlines=deadlines, slots=asyncio.Semaphore(concurrency))
            yield cls(lanes, proxies)

    async def exchange(self, call: Call) -> Answer:
        """See `Transport`; also `UsageError` where the proxy that leads to this very host can't be used."""
        lane = self._lanes[call.operation.lane]
        progress = _Progress()
        async with lane.slots:
            try:
                with lane.deadlines.guard() as deadline:
                    answer = await self._send(lane.wire, call, deadline, progress)
                problem = _unsent(answer, progress.upload)
                if problem is None:
                    return answer
            except (Expired, aiohttp.ClientError, HttpProcessingError, OSError) as error:
                upload = progress.upload
                problem = (upload and upload.error) or _no_answer(call, error, progress, lane.deadlines.timeout_s)
            finally:
                if progress.upload is not None:
                    await progress.upload.stop()
        # Raised out here so that the library's error is not its context: it can hold the URL with its query string and
        # the headers with the key, and a traceback would print them.
        raise problem

    async def _send(self, wire: Wire, call: Call, deadline: Deadline, progress: _Progress) -> Answer:
        began_at = time.monotonic()
        url = URL(call.url, encoded=True)
        route = wire.route(url, self._proxies.for_url(url))
        body = call.body or b""
        size_bytes = len(body) if isinstance(body, bytes) else call.content_length
        if size_bytes is None:
            msg = "a streamed body needs its content_length"
            raise TypeError(msg)
        start = head(route, call.method, url, call.headers, None if call.body is None else size_bytes)
        connection, transport, protocol = await wire.connect(route)
        try:
            progress.was_sent = True
            if isinstance(body, bytes) and size_bytes <= 2 * PIECE_BYTES:
                transport.write(start + body)  # copying it costs less than what `writelines` is not safe from
            else:
                pieces = in_pieces(body) if isinstance(body, bytes) else body
                progress.upload = Upload(pieces, size_bytes, deadline)
                progress.upload.begin(start, protocol)
            progress.status, headers, content = await received(protocol)
            answer = await _read(content, progress.status, call, deadline)
        except BaseException:
            connection.close()
            raise
        if progress.upload is None or progress.upload.is_out:
            connection.release()
        else:
            connection.close()
        return Answer(
            status=progress.status,
            headers=headers,
            body=answer,
            began_at=began_at,
            duration_s=time.monotonic() - began_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    wire: Wire
    deadlines: Deadlines
    slots: asyncio.Semaphore


@dataclass(slots=True)
class _Progress:
    """How far one exchange got; read when it fails."""

    was_sent: bool = False
    status: int | None = None
    upload: Upload | None = None


async def _read(content: aiohttp.StreamReader, status: int, call: Call, deadline: Deadline) -> bytes:
    sink = call.sink if status == 200 else None
    pieces: list[bytes] = []
    size_bytes = 0
    while piece := await content.readany():
        if sink is None:
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes > MAX_ANSWER_BYTES:
                raise _unreadable(status, f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
            continue
        deadline.progress(len(piece))
        try:
            sink(piece)
        except ValueError as error:
            raise _unreadable(status, str(error)) from error
    return b"".join(pieces)


def _unsent(answer: Answer, upload: Upload | None) -> Exception | None:
    """What is wrong with an answer that came before the body was out: only a refusal may do that."""
    if upload is None or upload.is_whole:
        return None
    if upload.error is not None or not 200 <= answer.status < 300:
        return upload.error
    return _unreadable(answer.status, "the answer came before the whole body was sent")


def _unreadable(status: int, message: str) -> NoAnswer:
    return NoAnswer(message, failure=RequestFailure.UNREADABLE, was_sent=True, status=status)


def _no_answer(call: Call, error: Exception, progress: _Progress, timeout_s: float) -> NoAnswer:
    """The library's error in our words, none of which are its own: they can hold a URL or a header."""
    host = URL(call.url, encoded=True).host
    was_sent = progress.was_sent
    failure = RequestFailure.CONNECT
    match error:
        case Expired():
            failure, message = RequestFailure.TIMEOUT, f"no progress for {timeout_s:g} s"
        case aiohttp.ConnectionTimeoutError():
            was_sent, message = False, f"no connection to {host} within {min(timeout_s, CONNECT_TIMEOUT_S):g} s"
        case aiohttp.ClientConnectorCertificateError():
            was_sent, failure = False, RequestFailure.TLS
            message = f"the certificate of {host} can't be trusted ({_os_text(error.certificate_error)})"
        case aiohttp.ClientSSLError():
            was_sent, failure = False, RequestFailure.TLS
            message = f"no TLS connection to {host} ({_os_text(error)})"
        case aiohttp.ClientHttpProxyError():
            was_sent, message = False, f"the proxy refused to connect to {host} (HTTP {error.status})"
        case aiohttp.ClientProxyConnectionError():
            was_sent, message = False, f"no connection to the proxy {error.host}:{error.port} ({_os_text(error)})"
        case aiohttp.ClientConnectorDNSError():
            was_sent, message = False, f"the host name {host} can't be resolved ({_os_text(error)})"
        case aiohttp.ClientConnectorError():
            was_sent, message = False, f"no connection to {host} ({_os_text(error)})"
        case aiohttp.ClientPayloadError():
            failure, message = RequestFailure.UNREADABLE, "the answer was cut short or can't be decompressed"
        case HttpProcessingError():
            failure, message = RequestFailure.UNREADABLE, "the answer is no HTTP"
        case _ if progress.status is not None:
            failure, message = RequestFailure.UNREADABLE, "the connection was lost within the answer"
        case _:
            message = f"{host} closed the connection without an answer ({type(error).__name__})"
    return NoAnswer(message, failure=failure, was_sent=was_sent, status=progress.status)


def _os_text(error: BaseException) -> str:
    """What the operating system or OpenSSL says, which names no URL."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case ssl.SSLError(reason=str(reason)):
            return reason.replace("_", " ").lower()
        case OSError(strerror=str(text)):
            return text
        case _:
            return type(error).__name__
