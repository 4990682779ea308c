"""The URLs of queues, each kind one value: what it carries, what is left out, and what is wrong with it.

Parses text and connects to nothing. A URL may hold a password: no message here repeats more of it than its host.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never
from urllib.parse import parse_qsl, unquote, urlsplit

from ingest.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from urllib.parse import SplitResult

__all__ = [
    "SCHEMES",
    "AmqpAddress",
    "NatsAddress",
    "QueueAddress",
    "RedisAddress",
    "SqsAddress",
    "is_queue",
    "password_of",
    "queue_address",
]

LEASE_S: Final = 60.0
# How long a message of a worker that died waits for another one. It is renewed three times as often, so that a pause of
# 40 s (a stop-the-world disk, a failover) costs nothing.

PREFETCH: Final = 256
# Messages in hand. Four times the requests that are made at once, so that jobs waiting for a lookup leave room.

ACK_TIMEOUT_S: Final = 1800.0
# RabbitMQ's own default (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout).

SCHEMES: Final = {"redis": "redis", "rediss": "redis", "amqp": "amqp", "amqps": "amqp", "nats": "nats", "sqs": "sqs"}
"""The kind of queue by the scheme of its URL; an `s` at the end means TLS. NATS servers ask for TLS by themselves, and
SQS always has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """`redis://[[user]:password@]host[:6379][/0]?stream=NAME`: a stream, read by a consumer group."""

    host: str
    port: int
    database: int
    user: str | None
    password: str | None = field(repr=False)
    is_tls: bool
    stream: str
    group: str  # ingest
    dead: str  # the stream of what is rejected or failed; NAME:dead
    lease_s: float
    prefetch: int

    @property
    def place(self) -> str:
        """What may be shown of it."""
        return f"redis://{self.host}:{self.port}/{self.database} (stream {self.stream})"


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpAddress:
    """`amqp://[user:password@]host[:5672][/vhost]?queue=NAME`: a queue of RabbitMQ, or of another AMQP 0-9-1 broker."""

    host: str
    port: int
    vhost: str
    user: str  # guest
    password: str = field(repr=False)  # guest
    is_tls: bool
    queue: str
    dead: str  # the queue of what is rejected or failed; NAME.dead
    ack_timeout_s: float  # the broker's consumer_timeout: what is in hand for two thirds of it is given back
    prefetch: int

    @property
    def place(self) -> str:
        """What may be shown of it."""
        return f"amqp://{self.host}:{self.port}/{self.vhost} (queue {self.queue})"


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsAddress:
    """`nats://[user:password@|token@]host[:4222]?stream=NAME`: a stream of JetStream, read by a pull consumer."""

    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)
    stream: str
    subject: str  # the stream's name in small letters
    durable: str  # ingest
    dead: str  # the stream, and its subject, of what is rejected or failed; NAME_DEAD
    lease_s: float  # the ack wait, where the consumer is made here; else its own holds
    prefetch: int

    @property
    def place(self) -> str:
        """What may be shown of it."""
        return f"nats://{self.host}:{self.port} (stream {self.stream}, subject {self.subject})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsAddress:
    """`sqs://QUEUE[?region=…]`, or a queue's URL with `sqs` for `https`; credentials come as AWS's tools take them."""

    queue: str
    url: str | None  # None: asked for by the queue's name
    region: str | None  # None: as AWS's tools have it
    endpoint: str | None  # None: AWS
    dead: str | None  # a queue's name; None: the one of the queue's redrive policy
    lease_s: float
    prefetch: int

    @property
    def place(self) -> str:
        """What may be shown of it."""
        return f"sqs://{self.queue}"


QueueAddress: TypeAlias = RedisAddress | AmqpAddress | NatsAddress | SqsAddress

_EXAMPLES: Final = {
    "redis": "redis://host:6379/0?stream=images",
    "amqp": "amqp://user:password@host/vhost?queue=images",
    "nats": "nats://host:4222?stream=IMAGES&subject=images",
    "sqs": "sqs://images?region=eu-central-1",
}
_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "redis": ("stream", "group", "dead", "lease", "prefetch"),
    "amqp": ("queue", "dead", "ack_timeout", "prefetch"),
    "nats": ("stream", "subject", "durable", "dead", "lease", "prefetch"),
    "sqs": ("region", "endpoint", "dead", "lease", "prefetch"),
}
_NAME: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")
_NATS_NAME: Final = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]{1,200}")
_SQS_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,80}(\.fifo)?")


def is_queue(named: str) -> bool:
    """Whether a source's name is the URL of a queue."""
    return named.partition("://")[0].lower() in SCHEMES and "://" in named


def queue_address(url: str) -> QueueAddress:
    """What a queue's URL says. `UsageError` for one that can't be meant, with what to write instead."""
    scheme = url.partition("://")[0].lower()
    kind = SCHEMES[scheme]
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Not chained: its text may be a part of a password.
        raise _wrong(kind, "its host or port can't be read; write special characters of a password as %XX") from None
    if "@" in parts.query or "@" in parts.path or parts.fragment or "#" in url:
        raise _wrong(kind, "it has a @ or # after the host; write special characters of a password as %XX")
    if not parts.hostname:
        raise _wrong(kind, "it names no host" if kind != "sqs" else "it names no queue")
    said = _Parameters(kind, parts.query)
    match kind:
        case "redis":
            return _redis(parts, port, said)
        case "amqp":
            return _amqp(parts, port, said)
        case "nats":
            return _nats(parts, port, said)
        case _:
            return _sqs(parts, said)


class _Parameters:
    """What is after the question mark."""

    def __init__(self, kind: str, query: str) -> None:
        self._kind = kind
        self._said: dict[str, str] = {}
        known = _PARAMETERS[kind]
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in known:
                shown = repr(name) if re.fullmatch(r"[A-Za-z_-]{1,30}", name) else "a parameter"
                raise _wrong(kind, f"{shown} is not known there; it takes {', '.join(known)}")
            if name in self._said:
                raise _wrong(kind, f"{name!r} is there twice")
            if not value:
                raise _wrong(kind, f"{name!r} is empty")
            self._said[name] = value

    def name(self, name: str, default: str | None, pattern: re.Pattern[str] = _NAME) -> str:
        """A name that may be left out where there is a default."""
        value = self._said.get(name, default)
        if value is None:
            raise _wrong(self._kind, f"{name!r} is missing")
        if not pattern.fullmatch(value):
            raise _wrong(self._kind, f"{name!r} is no name that the broker takes")
        return value

    def optional(self, name: str, pattern: re.Pattern[str] = _NAME) -> str | None:
        """A name that may be left out."""
        return self.name(name, None, pattern) if name in self._said else None

    def prefetch(self) -> int:
        """Messages in hand."""
        return int(self._parsed("prefetch", int, PREFETCH, least=1, most=10_000))

    def seconds(self, name: str, default: float) -> float:
        """A lease: half a day at most, which is what SQS takes."""
        return self._parsed(name, float, default, least=1, most=43_200)

    def _parsed(self, name: str, parse: Callable[[str], float], default: float, *, least: float, most: float) -> float:
        if name not in self._said:
            return default
        try:
            value = parse(self._said[name])
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise _wrong(self._kind, f"{name!r} can't be used; expected is a number from {least} to {most}")
        return value


def _redis(parts: SplitResult, port: int | None, said: _Parameters) -> RedisAddress:
    database = parts.path.strip("/") or "0"
    if not re.fullmatch(r"\d{1,5}", database):
        raise _wrong("redis", "its path is no number of a database")
    stream = said.name("stream", None)
    return RedisAddress(
        host=parts.hostname or "",
        port=port or 6379,
        database=int(database),
        user=_unquoted(parts.username),
        password=_unquoted(parts.password),
        is_tls=parts.scheme == "rediss",
        stream=stream,
        group=said.name("group", "ingest"),
        dead=said.name("dead", f"{stream}:dead"),
        lease_s=said.seconds("lease", LEASE_S),
        prefetch=said.prefetch(),
    )


def _amqp(parts: SplitResult, port: int | None, said: _Parameters) -> AmqpAddress:
    is_tls = parts.scheme == "amqps"
    queue = said.name("queue", None)
    return AmqpAddress(
        host=parts.hostname or "",
        port=port or (5671 if is_tls else 5672),
        vhost=unquote(parts.path.removeprefix("/")) or "/",
        user=_unquoted(parts.username) or "guest",
        password=_unquoted(parts.password) or "guest",
        is_tls=is_tls,
        queue=queue,
        dead=said.name("dead", f"{queue}.dead"),
        ack_timeout_s=said.seconds("ack_timeout", ACK_TIMEOUT_S),
        prefetch=said.prefetch(),
    )


def _nats(parts: SplitResult, port: int | None, said: _Parameters) -> NatsAddress:
    if parts.path.strip("/"):
        raise _wrong("nats", "it has a path")
    stream = said.name("stream", None, _NATS_NAME)
    user, password = _unquoted(parts.username), _unquoted(parts.password)
    return NatsAddress(
        host=parts.hostname or "",
        port=port or 4222,
        user=user if password is not None else None,
        password=password,
        token=user if password is None else None,
        stream=stream,
        subject=said.name("subject", stream.lower()),
        durable=said.name("durable", "ingest", _NATS_NAME),
        dead=said.name("dead", f"{stream}_DEAD", _NATS_NAME),
        lease_s=said.seconds("lease", LEASE_S),
        prefetch=said.prefetch(),
    )


def _sqs(parts: SplitResult, said: _Parameters) -> SqsAddress:
    if parts.username is not None or parts.password is not None:
        raise _wrong("sqs", "it holds credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
    # `hostname` is in small letters, and a queue's name is not.
    host = parts.netloc
    url = f"https://{host}{parts.path}" if parts.path.strip("/") else None
    queue = parts.path.rpartition("/")[2] if url else host
    if not _SQS_NAME.fullmatch(queue):
        raise _wrong("sqs", "it names no queue")
    if queue.endswith(".fifo"):
        raise UsageError(
            "FIFO queues can't be used: nothing here depends on order, and what they take for a repetition is lost.",
            code="bad_queue_url",
            hint="Use a standard queue.",
        )
    region = re.fullmatch(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?", host) if url else None
    return SqsAddress(
        queue=queue,
        url=url,
        region=said.optional("region") or (region[1] if region else None),
        endpoint=said.optional("endpoint"),
        dead=said.optional("dead", _SQS_NAME),
        lease_s=said.seconds("lease", LEASE_S),
        prefetch=said.prefetch(),
    )


def password_of(address: QueueAddress) -> str | None:
    """What must never be shown of it."""
    match address:
        case RedisAddress() | AmqpAddress():
            return address.password
        case NatsAddress():
            return address.password or address.token
        case SqsAddress():
            return None
        case _:
            assert_never(address)


def _unquoted(text: str | None) -> str | None:
    return unquote(text) if text else None


def _wrong(kind: str, problem: str) -> UsageError:
    return UsageError(
        f"The URL of the {kind} queue can't be used: {problem}.",
        code="bad_queue_url",
        hint=f"Write it like {_EXAMPLES[kind]}; it takes {', '.join(_PARAMETERS[kind])}.",
    )
