"""One request on its way through the sandbox, and what an operation is.

A value that is filled in on the way; does nothing by itself, and shows no secret of a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from ingest.sandbox.faults import Lane, Operation

__all__ = ["Call", "Effect", "Prepare"]


@dataclass(kw_only=True)
class Call:
    """One request on its way."""

    request: web.Request
    operation: Operation
    lane: Lane
    body: bytes
    # Whole for the API; empty for the storage, whose bytes are streamed.

    stale_s: float = 0.0
    # How far behind a read may be.

    is_cut: bool = False
    error_code: str | None = None
    # What the ledger will tell.

    @cached_property
    def image_url(self) -> str | None:
        """What an add names, however wrong the rest of it is; None for other operations."""
        if self.operation != "add_image":
            return None
        try:
            content: Any = msgspec.json.decode(self.body)  # whatever a client sent
        except (ValueError, RecursionError):
            return None
        url = content.get("image_url") if isinstance(content, dict) else None
        return url if isinstance(url, str) else None

    @property
    def subject(self) -> str:
        """The text that `match` of a rule is looked for in."""
        return f"{self.request.method} {self.request.path_qs}\n{self.body.decode(errors='replace')}"

    @property
    def holder(self) -> str:
        """Whom limits count for."""
        return self.request.headers.get("Authorization", "") if self.lane == "api" else ""

    @property
    def public_id(self) -> str | None:
        """The part of the key that may be shown."""
        public_id, dot, _ = self.holder.removeprefix("Bearer ").partition(".")
        return public_id if dot and public_id.isascii() else None


Effect: TypeAlias = "Callable[[], web.Response]"
"""The synchronous step in which an operation happens; raises a `Refusal` when it does not."""

Prepare: TypeAlias = "Callable[[Call], Awaitable[Effect]]"
"""Awaits whatever an operation needs, such as its bytes; raises a `Refusal`, or gives the step that is left."""
