"""Amazon SQS, and whatever speaks its protocol: visibility extended while a message is worked on, and a queue of what
was not added.

Speaks SQS, from threads, and decides nothing. Queues are never made here: that is a right that few workers have.
"""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread
import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, PartialCredentialsError

from ingest.errors import UsageError
from ingest.observe.logging import get_logger
from ingest.sources.broker import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, Disconnected, Message, unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from ingest.sources.addresses import SqsAddress
    from ingest.sources.broker import Burial

__all__ = ["SqsBroker"]

log = get_logger("sources")

AT_ONCE: Final = 10
# The most that one request may hold (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/).

LOW_LIMIT: Final = 10
# A `maxReceiveCount` under this may be used up by workers that are killed for reasons of their own.

HELD_FOR_S: Final = 11 * 3600.0
# Twelve hours after its receipt a message can't be kept any longer, whatever is extended.

SETTINGS: Final = Config(
    connect_timeout=CONNECT_TIMEOUT_S / 2,
    read_timeout=REQUEST_TIMEOUT_S / 2,
    retries={"mode": "standard", "total_max_attempts": 2},
    max_pool_connections=16,
    user_agent_extra="ingest",
)

REFUSED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "InvalidSecurity", "SignatureDoesNotMatch"}
    | {"UnrecognizedClientException", "ExpiredToken", "InvalidAddress", "InvalidParameterValue", "OptInRequired"}
)
MISSING: Final = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
STALE: Final = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight"})


class SqsBroker:
    """See `Broker` and `Outlet`. Made by `open`."""

    def __init__(self, client: Any, address: SqsAddress) -> None:
        self._client = client  # botocore makes its classes when it is asked, and has no types
        self._address = address
        self._url = address.url or ""
        self._dead_url = ""
        self._max_receives = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, address: SqsAddress, *, is_reader: bool = True) -> AsyncIterator[SqsBroker]:
        """Find the queue and its dead-letter queue. `UsageError`, `GaveUp`."""
        try:
            broker = cls(await anyio.to_thread.run_sync(_client, address), address)
            await broker._prepare(is_reader=is_reader)
        except (NoCredentialsError, PartialCredentialsError, NoRegionError, ValueError) as error:
            raise UsageError(
                f"{address.place} can't be used: {str(error).rstrip('.')}.",
                code="no_such_source",
                hint="Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or AWS_PROFILE.",
            ) from error
        except ClientError as error:
            if _code(error) not in REFUSED | MISSING:
                raise unreachable(address.place, error) from error
            raise UsageError(
                f"{address.place} can't be used: {str(error).rstrip('.')}.",
                code="no_such_source",
                hint="Check the queue's name and region, and what the credentials may do; queues are not made here.",
            ) from error
        except (BotoCoreError, OSError) as error:
            raise unreachable(address.place, error) from error
        try:
            yield broker
        finally:
            broker._client.close()

    @property
    def lease_s(self) -> float:
        """See `Broker.lease_s`: the visibility timeout that is asked for with every message."""
        return self._address.lease_s

    async def receive(self, limit: int, wait_s: float) -> Sequence[Message]:
        """See `Broker.receive`. The queue is asked again while it has as many as one answer holds."""
        found: list[Message] = []
        while len(found) < limit:
            wanted = min(AT_ONCE, limit - len(found))
            answer = await self._ask(
                "receive_message",
                MaxNumberOfMessages=wanted,
                WaitTimeSeconds=0 if found else max(1, int(wait_s)),
                VisibilityTimeout=int(self.lease_s),
                AttributeNames=["ApproximateReceiveCount"],
                MessageAttributeNames=["All"],
            )
            now = time.monotonic()
            came = [
                Message(body=raw["Body"].encode(), place=raw["MessageId"], receipt=raw, received_at=now)
                for raw in answer.get("Messages", ())
            ]
            found += came
            if len(came) < wanted:
                break
        return found

    async def extend(self, messages: Sequence[Message]) -> Sequence[Message]:
        """See `Broker.extend`. What was held for eleven of the twelve hours that SQS allows is given back."""
        oldest = time.monotonic() - HELD_FOR_S
        old = [message for message in messages if message.received_at <= oldest]
        for message in old:
            await self._send_again(message)
        young = [message for message in messages if message.received_at > oldest]
        return old + await self._set_visibility(young, int(self.lease_s))

    async def bury(self, message: Message, burial: Burial) -> None:
        """See `Broker.bury`."""
        await self._ask(
            "send_message",
            QueueUrl=self._dead_url,
            MessageBody=message.receipt["Body"],
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value} for name, value in burial.fields(message).items()
            },
        )

    async def finish(self, messages: Sequence[Message]) -> None:
        """See `Broker.finish`."""
        for at, chunk in _chunks(messages):
            entries = [
                {"Id": str(at + nth), "ReceiptHandle": message.receipt["ReceiptHandle"]}
                for nth, message in enumerate(chunk)
            ]
            answer = await self._ask("delete_message_batch", Entries=entries)
            _raise_failed(answer)

    async def give_back(self, messages: Sequence[Message]) -> None:
        """See `Broker.give_back`. Receiving was counted; what may not be received once more is sent anew instead."""
        last = [message for message in messages if self._is_last_receive(message)]
        for message in last:
            await self._send_again(message)
        await self._set_visibility([message for message in messages if message not in last], 0)

    async def held_elsewhere(self, own: int) -> bool:
        """See `Broker.held_elsewhere`; roughly, as SQS counts."""
        name = "ApproximateNumberOfMessagesNotVisible"
        answer = await self._ask("get_queue_attributes", AttributeNames=[name])
        return int(answer.get("Attributes", {}).get(name, 0)) > own

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """See `Outlet.publish`."""
        for at, chunk in _chunks(bodies):
            entries = [{"Id": str(at + nth), "MessageBody": body.decode()} for nth, body in enumerate(chunk)]
            _raise_failed(await self._ask("send_message_batch", Entries=entries))

    async def _prepare(self, *, is_reader: bool) -> None:
        if not self._url:
            self._url = await self._url_of(self._address.queue)
        answer = await self._call(
            self._client.get_queue_attributes, QueueUrl=self._url, AttributeNames=["RedrivePolicy"]
        )
        if not is_reader:
            return
        policy = json.loads(answer.get("Attributes", {}).get("RedrivePolicy", "{}"))
        self._max_receives = int(policy.get("maxReceiveCount", 0))
        dead = self._address.dead or policy.get("deadLetterTargetArn", "").rpartition(":")[2]
        if not dead:
            raise UsageError(
                f"{self._address.place} has no dead-letter queue for what is rejected or failed.",
                code="no_dead_letter_queue",
                hint="Name one, dead=QUEUE in the URL, or give the queue a redrive policy.",
            )
        self._dead_url = await self._url_of(dead)
        if 0 < self._max_receives < LOW_LIMIT:
            log.warning(
                "limit.too_low",
                queue=self._address.queue,
                limit=self._max_receives,
                message=f"The queue {self._address.queue} gives a message up after {self._max_receives} receives: "
                f"workers that are killed may lose it. Set its maxReceiveCount to {LOW_LIMIT} or more.",
            )

    def _is_last_receive(self, message: Message) -> bool:
        received = int(message.receipt.get("Attributes", {}).get("ApproximateReceiveCount", 0))
        return 0 < self._max_receives <= received

    async def _send_again(self, message: Message) -> None:
        raw = message.receipt
        attributes = {
            name: {key: value for key, value in said.items() if key in {"DataType", "StringValue", "BinaryValue"}}
            for name, said in raw.get("MessageAttributes", {}).items()
        }
        await self._ask("send_message", MessageBody=raw["Body"], MessageAttributes=attributes)
        await self.finish([message])

    async def _set_visibility(self, messages: Sequence[Message], seconds: int) -> list[Message]:
        """Those that are ours no longer."""
        lost: list[Message] = []
        for _, chunk in _chunks(messages):
            entries = [
                {"Id": str(nth), "ReceiptHandle": message.receipt["ReceiptHandle"], "VisibilityTimeout": seconds}
                for nth, message in enumerate(chunk)
            ]
            answer = await self._ask("change_message_visibility_batch", Entries=entries)
            lost += [chunk[int(failed["Id"])] for failed in answer.get("Failed", ()) if failed.get("Code") in STALE]
        return lost

    async def _url_of(self, name: str) -> str:
        answer = await self._call(self._client.get_queue_url, QueueName=name)
        return str(answer["QueueUrl"])

    async def _ask(self, operation: str, **arguments: Any) -> Any:
        arguments.setdefault("QueueUrl", self._url)
        with _translated():
            return await self._call(getattr(self._client, operation), **arguments)

    async def _call(self, method: Callable[..., Any], **arguments: Any) -> Any:
        # A request that is cancelled ends by itself: its timeouts are short, and what it gets comes back later.
        return await anyio.to_thread.run_sync(lambda: method(**arguments), abandon_on_cancel=True)


def _client(address: SqsAddress) -> Any:
    session = boto3.session.Session(region_name=address.region)
    return session.client("sqs", endpoint_url=address.endpoint, config=SETTINGS)


def _chunks(items: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    for at in range(0, len(items), AT_ONCE):
        yield at, items[at : at + AT_ONCE]


def _raise_failed(answer: Any) -> None:
    """A batch is answered with success even where a part of it failed; a message that is gone is done with."""
    codes = [failed.get("Code", "") for failed in answer.get("Failed", ())]
    if any(code not in STALE for code in codes):
        raise Disconnected(f"SQS did not take a part of a batch: {', '.join(sorted(set(codes)))}")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError, OSError) as error:
        raise Disconnected(str(error) or type(error).__name__) from error
