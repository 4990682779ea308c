"""From an answer, or the lack of one, to a value or exactly one error of the tree.

The table of DESIGN §3, for both lanes: what the API says counts only in its envelope, what anything else says does not.
Pure but for the wall clock, against which a `Retry-After` date is read.
"""

from __future__ import annotations

import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from ingest.api.messages import Envelope, ErrorEnvelope
from ingest.api.redaction import excerpt, query_values, word
from ingest.errors import Fatal, Rejected, RequestError, RequestFailure, Retryable, Uncertain
from ingest.model import Lane, Operation
from ingest.settings import MAX_RETRY_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.api.transport import Answer, Call, NoAnswer

__all__ = ["check_put", "decode", "failed", "is_foreign", "retry_after_s", "unanswered", "unreadable"]

T = TypeVar("T")

HAS_LASTING_EFFECT: Final = frozenset({Operation.ADD_IMAGE, Operation.CREATE_PACK})
# Sending one of these twice makes two. Reserving an upload twice leaves garbage; all others say the same thing again.

PAGE_BYTES: Final = 64 * 1024
# As much of a foreign page as is looked at for an excerpt.

XML_HEAD_BYTES: Final = 4096
XML_CODE: Final = re.compile(rb"<Code>\s*([^<]{1,64}?)\s*</Code>")
XML_MESSAGE: Final = re.compile(rb"<Message>\s*([^<]{1,1024}?)\s*</Message>")
# An S3 error is `<Error><Code>…</Code><Message>…</Message>…`. Found, not parsed: an XML parser would expand entities.

HTML_STARTS: Final = (b"<!doctype html", b"<html")

LABELS: Final[Mapping[Operation, str]] = {
    Operation.LIST_PACKS: "Listing packs",
    Operation.GET_PACK: "Reading the pack",
    Operation.CREATE_PACK: "Creating a pack",
    Operation.UPDATE_PACK: "Changing the pack",
    Operation.DELETE_PACK: "Deleting the pack",
    Operation.ADD_IMAGE: "Adding an image",
    Operation.DELETE_IMAGE: "Deleting an image",
    Operation.UPLOAD_FILE: "Reserving an upload",
    Operation.PUT_FILE: "Uploading the bytes",
    Operation.LIST_FILES: "Listing files",
    Operation.GET_SUBSCRIPTION: "Reading the subscription",
}

HINTS: Final[Mapping[int, str]] = {
    401: "Set GENVIRAL_API_KEY to a valid key: {public_id} is wrong or revoked.",
    402: "The Partner API needs an active Creator, Professional or Business plan.",
    403: "The tier of this key has no Partner API: a higher plan has.",
    404: "Check the id, and that the key is of the pack's own workspace, or personal as the pack is.",
    413: "Send less: it is too large.",
    429: "The rate limit is reached: send it again later.",
}
REJECTED_HINT: Final = "Change the request: as it is it can't work."
LATER_HINT: Final = "Send it again later."
FOREIGN_HINT: Final = "Something before the API answered: check GENVIRAL_BASE_URL and the proxies if it stays so."
UNCERTAIN_HINT: Final = "It may have taken effect: look before sending it again."
FAILURE_HINTS: Final[Mapping[RequestFailure, str]] = {
    RequestFailure.CONNECT: "Check the network, the proxies and GENVIRAL_BASE_URL if it stays so.",
    RequestFailure.TLS: "If your network inspects TLS, set SSL_CERT_FILE to the certificate of its authority.",
}

_error_envelope: Final = msgspec.json.Decoder(ErrorEnvelope)


def decode(call: Call, answer: Answer, decoder: msgspec.json.Decoder[Envelope[T]]) -> T:
    """The `data` of a success, or one error: `Fatal`, `Rejected`, `Retryable` or `Uncertain`."""
    if not 200 <= answer.status < 300:
        raise failed(call, answer)
    envelope = _parsed(answer.body, decoder)
    if isinstance(envelope, _Defect):
        raise unreadable(call, answer, _contradiction(call, answer) or _kind(call, answer, envelope))
    if not envelope.ok:
        raise unreadable(call, answer, _contradiction(call, answer) or "an envelope that says it failed")
    if envelope.code not in {None, answer.status}:
        raise unreadable(call, answer, f"an envelope for HTTP {envelope.code}")
    return envelope.data


def failed(call: Call, answer: Answer) -> RequestError:
    """The error that an answer outside 200–299 stands for."""
    status = answer.status
    if 300 <= status < 400:
        return _redirected(call, answer)
    envelope = _parsed(answer.body, _error_envelope)
    if isinstance(envelope, _Defect) or envelope.ok:
        return unreadable(call, answer, _kind(call, answer, answer.body[:PAGE_BYTES].decode("utf-8", "replace")))
    if envelope.code != status:
        return unreadable(call, answer, f"an envelope for HTTP {envelope.code}, “{_quote(call, envelope.message)}”")
    code = word(envelope.error_code, _secrets(call))
    came = f"HTTP {status}{f' {code}' if code else ''}, “{_quote(call, envelope.message)}”"
    match status:
        case 401 | 402 | 403:
            hint = HINTS[status].format(public_id=_public_id(call))
            return Fatal(_text(call, came, hint), operation=call.operation, status=status, error_code=code)
        case 400 | 404 | 413 | 422:
            hint = HINTS.get(status, REJECTED_HINT)
            return Rejected(_text(call, came, hint), operation=call.operation, status=status, error_code=code)
        case _ if status != 429 and call.operation in HAS_LASTING_EFFECT:
            return Uncertain(
                _text(call, came, UNCERTAIN_HINT), operation=call.operation, status=status, error_code=code
            )
        case _:
            return Retryable(
                _text(call, came, HINTS.get(status, LATER_HINT)),
                operation=call.operation,
                status=status,
                error_code=code,
                retry_after_s=_bounded_retry_after_s(answer),
            )


def unreadable(call: Call, answer: Answer, came_with: str, hint: str = FOREIGN_HINT) -> RequestError:
    """The error for an answer whose body is not what API.md documents for its status."""
    came = f"HTTP {answer.status} with {came_with}"
    if call.operation in HAS_LASTING_EFFECT:
        return Uncertain(
            _text(call, came, UNCERTAIN_HINT),
            operation=call.operation,
            status=answer.status,
            failure=RequestFailure.UNREADABLE,
        )
    return Retryable(
        _text(call, came, hint),
        operation=call.operation,
        status=answer.status,
        failure=RequestFailure.UNREADABLE,
        retry_after_s=_bounded_retry_after_s(answer),
    )


def unanswered(call: Call, problem: NoAnswer) -> RequestError:
    """The error for a request that ended without a whole answer."""
    if problem.was_sent and call.operation in HAS_LASTING_EFFECT:
        return Uncertain(
            _text(call, str(problem), UNCERTAIN_HINT),
            operation=call.operation,
            status=problem.status,
            failure=problem.failure,
        )
    return Retryable(
        _text(call, str(problem), FAILURE_HINTS.get(problem.failure, LATER_HINT)),
        operation=call.operation,
        status=problem.status,
        failure=problem.failure,
    )


def check_put(call: Call, answer: Answer) -> None:
    """Return if the storage took the bytes, else raise `Rejected` (too large) or `Retryable`.

    Storage answers S3 XML and not the envelope. 403 says that the ticket is used up or out of date: reserve again.
    """
    head = answer.body[:XML_HEAD_BYTES]
    is_success = 200 <= answer.status < 300
    if is_success and _is_html(answer):
        raise unreadable(call, answer, "an HTML page, which no storage sends")
    if is_success and _is_foreign_to_storage(answer):
        raise unreadable(call, answer, "a body and no ETag, which no storage sends")
    if is_success and b"<Error>" not in head:
        return
    if 300 <= answer.status < 400:
        raise _redirected(call, answer)
    found = XML_CODE.search(head)
    code = word(found[1].decode("utf-8", "replace"), _secrets(call)) if found else None
    said = XML_MESSAGE.search(head)
    text = _quote(call, said[1].decode("utf-8", "replace")) if said else ""
    came = f"HTTP {answer.status}{f' {code}' if code else ''}{f', “{text}”' if text else ''}"
    if answer.status == 413 or code == "EntityTooLarge":
        raise Rejected(_text(call, came, HINTS[413]), operation=call.operation, status=answer.status, error_code=code)
    raise Retryable(
        _text(call, came, "Reserve a new upload." if answer.status == 403 else LATER_HINT),
        operation=call.operation,
        status=answer.status,
        error_code=code,
        failure=None if code else RequestFailure.UNREADABLE,
        retry_after_s=_bounded_retry_after_s(answer),
    )


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """`Retry-After` in seconds from now on, None without one or with one that can't be read (RFC 9110, 10.2.3).

    `headers` ignores case; `now` is wall time in seconds since the epoch, and stands back for the server's own `Date`:
    two clocks that differ must not make a pause of hours. As it was asked for: who waits has a bound.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,300}(\.\d{1,9})?", value, re.ASCII):
        return float(value)
    until = _timestamp(value)
    if until is None:
        return None
    server_now = _timestamp(headers.get("Date", ""))
    return max(until - (now if server_now is None else server_now), 0.0)


def _bounded_retry_after_s(answer: Answer) -> float | None:
    asked_s = retry_after_s(answer.headers, time.time())
    return None if asked_s is None else min(asked_s, MAX_RETRY_AFTER_S)


def _timestamp(http_date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(http_date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


class _Defect(str):
    """What is wrong with a body. Not an exception: some hold the whole body, presigned URL and all, as a cause."""

    __slots__ = ()


def _parsed(body: bytes, decoder: msgspec.json.Decoder[T]) -> T | _Defect:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _Defect(error)


def _redirected(call: Call, answer: Answer) -> RequestError:
    try:
        host = urlsplit(answer.headers.get("Location", "")).hostname
    except ValueError:
        host = None
    where = f"a redirect to {excerpt(host, _secrets(call))}" if host else "a redirect"
    if call.operation.lane is Lane.STORAGE:
        return unreadable(call, answer, f"{where}, which is not followed", "Reserve a new upload.")
    hint = "Correct GENVIRAL_BASE_URL: redirects are not followed, for they would take the key along."
    return unreadable(call, answer, where, hint)


def is_foreign(call: Call, answer: Answer) -> bool:
    """Whether somebody else answered in the API's or the storage's place: a redirect, or a page where none belongs.

    A look at the first byte, for whoever judges the lane; what the answer means is `decode`'s.
    """
    if 300 <= answer.status < 400:
        return True
    if call.operation.lane is Lane.STORAGE:
        return _is_html(answer)
    is_streamed = call.sink is not None and answer.status == 200
    return not is_streamed and answer.body.lstrip()[:1] != b"{"


def _is_foreign_to_storage(answer: Answer) -> bool:
    """Whether a success is somebody else's: a PUT is answered with an `ETag`, and with nothing or XML beside it.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html#API_PutObject_ResponseSyntax
    """
    body = answer.body.strip()
    return bool(body) and "ETag" not in answer.headers and not body.startswith(b"<")


def _is_html(answer: Answer) -> bool:
    start = answer.body[:XML_HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    is_declared = answer.headers.get("Content-Type", "").lower().startswith("text/html")
    return start.startswith(HTML_STARTS) or (is_declared and bool(start))


def _kind(call: Call, answer: Answer, otherwise: str) -> str:
    """What a body is that is not the envelope, for a person."""
    if not answer.body.strip():
        return "an empty body"
    if answer.body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "a page of HTML or XML"
    return f"an answer that is not documented ({_quote(call, otherwise)})"


def _contradiction(call: Call, answer: Answer) -> str | None:
    """What a body says that calls its own success a failure; None for any other body."""
    refusal = _parsed(answer.body, _error_envelope)
    if isinstance(refusal, _Defect) or refusal.ok:
        return None
    code = word(refusal.error_code, _secrets(call)) or refusal.code
    return f"an envelope that says it failed ({code}, “{_quote(call, refusal.message)}”)"


def _quote(call: Call, text: str) -> str:
    return excerpt(text, _secrets(call))


def _secrets(call: Call) -> tuple[str, ...]:
    """What may not be quoted from an answer to this call: the key's secret part, or a presigned URL's values."""
    if call.operation.lane is Lane.STORAGE:
        return query_values(call.url)
    return (call.headers.get("Authorization", "").partition(".")[2], *call.secrets)


def _public_id(call: Call) -> str:
    return call.headers.get("Authorization", "").removeprefix("Bearer ").partition(".")[0] or "none"


def _text(call: Call, came: str, hint: str) -> str:
    return f"{LABELS[call.operation]} ({call}): {came}.\n{hint}"
