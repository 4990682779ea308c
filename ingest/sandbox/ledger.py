"""The ledger: what the sandbox saw and did, told to tests.

Counts since the start or the last reset, in memory; what packs and files hold is read from the database when asked.
Decides nothing, and holds no secret: of a key only the part before its dot.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Final

import msgspec

from ingest.sandbox.faults import Operation
from ingest.sandbox.files import HeldFile
from ingest.sandbox.packs import HeldPack

if TYPE_CHECKING:
    from ingest.sandbox.faults import Lane
    from ingest.sandbox.files import Files
    from ingest.sandbox.packs import Packs

__all__ = ["AddCount", "Ledger", "LedgerView", "RequestRecord"]

# Enough for a test to see a pause or an order; a throughput test must not fill the memory.
RECENT_REQUESTS: Final = 2000

REFUSALS: Final = ("401", "402", "403")


class AddCount(msgspec.Struct):
    """Adds of one URL."""

    received: int = 0
    # Requests that arrived whole, before limits and faults.
    applied: int = 0
    # Images that they made.


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request, when it had ended."""

    at_s: float
    # When it came, since the ledger began.
    took_s: float
    operation: Operation
    answer: str
    # A status, `cut` (closed by a fault) or `gone` (the client went first).
    error_code: str | None
    key: str | None


class LedgerView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a test may ask for; `GET /sandbox/ledger` answers the same as JSON."""

    packs: list[HeldPack]
    files: list[HeldFile]
    requests: dict[str, dict[str, int]]
    # Operation -> answer (see RequestRecord) -> count. Unknown paths and methods are not counted.
    effects: dict[str, int]
    # Operation -> how often it changed something, whatever the client was told.
    faults: dict[str, dict[str, int]]
    # Operation -> kind -> count.
    limited: dict[str, int]
    # Lane -> requests that a limit refused.
    adds: dict[str, AddCount]
    # Image URL -> count.
    bytes_stored: int
    bytes_served: int
    max_concurrency: dict[str, int]
    # Lane -> requests at once, those that hang included.
    storage_authorizations: int
    # Requests to an upload URL that carried an Authorization header: each one leaked a key.
    after_refusal: int
    # API requests that came after the first 401, 402 or 403 was answered.
    recent: list[RequestRecord]
    # The last 2000 requests, in the order of their ends.


class Ledger:
    """The counters. Used on one thread only."""

    def __init__(self, packs: Packs, files: Files) -> None:
        self._packs = packs
        self._files = files
        self._in_flight: Counter[Lane] = Counter()
        self.reset()

    def reset(self) -> None:
        """Begin anew; packs, files and what is in flight stay."""
        self._began_s = time.monotonic()
        self._requests: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._effects: Counter[str] = Counter()
        self._faults: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._limited: Counter[str] = Counter({"api": 0, "storage": 0})
        self._adds: dict[str, AddCount] = {}
        self._max_concurrency: dict[str, int] = {"api": self._in_flight["api"], "storage": self._in_flight["storage"]}
        self._recent: deque[RequestRecord] = deque(maxlen=RECENT_REQUESTS)
        self._has_refused = False
        self._after_refusal = 0
        self.bytes_stored = 0
        self.bytes_served = 0
        self.storage_authorizations = 0

    def begin(self, lane: Lane, image_url: str | None) -> float:
        """A request came; the time is for its `end`."""
        self._in_flight[lane] += 1
        self._max_concurrency[lane] = max(self._max_concurrency[lane], self._in_flight[lane])
        if lane == "api" and self._has_refused:
            self._after_refusal += 1
        if image_url is not None:
            self._adds.setdefault(image_url, AddCount()).received += 1
        return time.monotonic()

    def end(
        self, lane: Lane, operation: Operation, *, begun_s: float, answer: str, error_code: str | None, key: str | None
    ) -> None:
        """A request that came has ended."""
        self._in_flight[lane] -= 1
        self._requests[operation][answer] += 1
        self._has_refused = self._has_refused or (lane == "api" and answer in REFUSALS)
        self._recent.append(
            RequestRecord(
                at_s=begun_s - self._began_s,
                took_s=time.monotonic() - begun_s,
                operation=operation,
                answer=answer,
                error_code=error_code,
                key=key,
            )
        )

    def took_effect(self, operation: Operation, image_url: str | None) -> None:
        """An operation changed something."""
        self._effects[operation] += 1
        if image_url is not None:
            self._adds.setdefault(image_url, AddCount()).applied += 1

    def injected(self, operation: Operation, kind: str) -> None:
        """A request met a fault."""
        self._faults[operation][kind] += 1

    def limited(self, lane: Lane) -> None:
        """A limit refused a request."""
        self._limited[lane] += 1

    def view(self) -> LedgerView:
        """Everything as it stands."""
        return LedgerView(
            packs=list(self._packs.held()),
            files=list(self._files.held()),
            requests={operation: dict(answers) for operation, answers in self._requests.items()},
            effects=dict(self._effects),
            faults={operation: dict(kinds) for operation, kinds in self._faults.items()},
            limited=dict(self._limited),
            adds={url: AddCount(count.received, count.applied) for url, count in self._adds.items()},
            bytes_stored=self.bytes_stored,
            bytes_served=self.bytes_served,
            max_concurrency=dict(self._max_concurrency),
            storage_authorizations=self.storage_authorizations,
            after_refusal=self._after_refusal,
            recent=list(self._recent),
        )
