"""From a queue's URL to a source or a sink: which adapter speaks to it, loaded when it is first asked for.

Names the adapters and nothing else; connects to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, assert_never

from ingest.errors import UsageError
from ingest.sources.addresses import AmqpAddress, NatsAddress, RedisAddress, SqsAddress, queue_address
from ingest.sources.consumer import QueueSource
from ingest.sources.message import Reader
from ingest.sources.publisher import QueueSink
from ingest.sources.root import Root

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from ingest.sources.addresses import QueueAddress

__all__ = ["queue_sink", "queue_source"]


def queue_source(
    url: str, *, root: str | None, has_pack: bool, idle_s: float | None, give_up_after_s: float | None
) -> QueueSource:
    """The queue that `url` names. `UsageError` for a wrong URL or root, and for a broker whose client is missing."""
    address = queue_address(url)
    kind, broker = _adapter(address)
    return QueueSource(
        kind,
        place=address.place,
        connect=lambda: broker(address),
        reader=Reader(root=Root(root), has_pack=has_pack),
        prefetch=address.prefetch,
        idle_s=idle_s,
        give_up_after_s=give_up_after_s,
    )


def queue_sink(url: str, *, give_up_after_s: float | None) -> QueueSink:
    """See `queue_source`."""
    address = queue_address(url)
    kind, broker = _adapter(address)
    return QueueSink(
        kind,
        place=address.place,
        connect=lambda: broker(address, is_reader=False),
        give_up_after_s=give_up_after_s,
    )


def _adapter(address: QueueAddress) -> tuple[str, Callable[..., AbstractAsyncContextManager[Any]]]:
    """The kind of queue, and what opens its broker."""
    match address:
        case RedisAddress():
            return "redis", _loaded("redis").RedisBroker.open
        case AmqpAddress():
            return "amqp", _loaded("amqp").AmqpBroker.open
        case NatsAddress():
            return "nats", _loaded("nats").NatsBroker.open
        case SqsAddress():
            return "sqs", _loaded("sqs").SqsBroker.open
        case _:
            assert_never(address)


def _loaded(name: str) -> Any:
    try:
        return importlib.import_module(f"ingest.sources.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ingest"):
            raise
        raise UsageError(
            f"{name}:// needs the module {error.name}, which is not installed.",
            code="extra_missing",
            hint=f"Install it: pip install 'ingest[{name}]'",
        ) from error
