"""The seam between a queue's source and its broker: what every adapter does with messages, in the same words.

Values and Protocols only. What a message means, and when it is told what, is `consumer`'s and `publisher`'s.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from ingest.errors import GaveUp, IngestError
from ingest.policy.retry import backoff_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.model import Outcome

__all__ = [
    "CONNECT_TIMEOUT_S",
    "REQUEST_TIMEOUT_S",
    "Broker",
    "Burial",
    "Disconnected",
    "Message",
    "Outlet",
    "pause_s",
    "unreachable",
]

CONNECT_TIMEOUT_S: Final = 10.0
# For the first connection, and each later one: a broker across an ocean takes one second, a lost packet three.

REQUEST_TIMEOUT_S: Final = 10.0
# For one question to a broker; what it has not answered by then is asked again on another connection.

BACKOFF_BASE_S: Final = 0.2
BACKOFF_CAP_S: Final = 10.0
# Between two looks for a broker that went away: one that restarts is found soon, and one that stays away is left alone.


class Disconnected(IngestError):
    """The broker did not take or give something: try again after a pause. Nothing was lost by it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Message:
    """What came out of a queue. `place` is the broker's name for it, for people; `receipt` is the adapter's alone."""

    body: bytes
    place: str
    receipt: Any
    received_at: float  # monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Burial:
    """Why a message goes to the dead-letter place; these words become its headers or fields."""

    outcome: Outcome
    reason: str | None
    detail: str | None = None

    def fields(self, message: Message) -> dict[str, str]:
        """The headers or fields, by name; none is empty."""
        said = {"outcome": self.outcome.value, "reason": self.reason, "detail": self.detail, "message": message.place}
        return {f"ingest-{name}": value for name, value in said.items() if value}


class Broker(Protocol):
    """One queue at one broker. Every method may raise `Disconnected`, after which it may be called again.

    An adapter mends its connection by itself when it is next asked for something. Messages of a connection that is
    gone may be handed to any method: what can't be done for them any more is left out, since the broker delivers them
    again. Calls run side by side, but for `receive`. No method outlasts its timeouts by much.
    """

    @property
    def lease_s(self) -> float:
        """For how long a message stays ours without `extend`."""
        ...

    async def receive(self, limit: int, wait_s: float) -> Sequence[Message]:
        """Up to `limit` messages, at least one if there is any; none after about `wait_s` seconds without."""
        ...

    async def extend(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Keep these for another lease. Returns those that are ours no longer; the broker delivers them again."""
        ...

    async def bury(self, message: Message, burial: Burial) -> None:
        """Put a copy with the reason into the dead-letter place; confirmed when it returns."""
        ...

    async def finish(self, messages: Sequence[Message]) -> None:
        """These are done, and must not be delivered again."""
        ...

    async def give_back(self, messages: Sequence[Message]) -> None:
        """Somebody else may have these at once, not counted as a try where that would use up the broker's limit."""
        ...

    async def held_elsewhere(self, own: int) -> bool:
        """Whether others hold messages of this queue that may come back; `own` is how many are held here."""
        ...


class Outlet(Protocol):
    """Where jobs are published to."""

    async def publish(self, bodies: Sequence[bytes]) -> None:
        """Append these, confirmed when it returns. After `Disconnected` some may be there and some not."""
        ...


def pause_s(failures: int) -> float:
    """How long to leave a broker alone after so many failures in a row."""
    jitter = 0.5 + random.random() / 2  # noqa: S311 - jitter, not a secret
    return backoff_s(failures, base_s=BACKOFF_BASE_S, cap_s=BACKOFF_CAP_S, jitter=jitter)


def unreachable(place: str, problem: object) -> GaveUp:
    """What ends a command whose broker does not answer."""
    return GaveUp(
        f"The broker of {place} does not answer: {problem}",
        code="broker_unreachable",
        hint="Check its address and that it runs; then run the same command again. Nothing is lost.",
    )
