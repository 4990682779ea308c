"""From an answer's rate-limit headers to a `Quota`.

Three ways of saying it are read, in this order; what can't be read is as if it had not been sent. Pure: wall time is an
argument, for resets that are a point in time.

- `RateLimit: "policy";r=50;t=30`, and before that `RateLimit: limit=100, remaining=50, reset=30`
  (draft-ietf-httpapi-ratelimit-headers, from -08 and -07); of several policies, the one that is used up first.
- `RateLimit-Limit`, `-Remaining`, `-Reset` (the draft up to -06): a reset in seconds from now on.
- `X-RateLimit-Limit`, `-Remaining`, `-Reset`: no standard; seconds from now on, or since the epoch, or milliseconds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ingest.policy.quota import Quota

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["quota_of"]

ITEM: Final = re.compile(r"[^,]*?;\s*r=(\d{1,15})\b[^,]*?;\s*t=(\d{1,15})\b", re.ASCII)
NAMED: Final = re.compile(r"\b(limit|remaining|reset)=(\d{1,15})\b", re.ASCII)
NUMBER: Final = re.compile(r"\s*(\d{1,15})(?:\.\d{1,9})?\b", re.ASCII)

EPOCH_S: Final = 1e9
# Seconds from now on are fewer, those since the epoch have been more since 2001.

EPOCH_MS: Final = 1e12


def quota_of(headers: Mapping[str, str], now: float) -> Quota | None:
    """What is left, None where nothing readable was said. `headers` ignores case; `now` is wall time."""
    combined = headers.get("RateLimit")
    if combined is not None:
        return _combined(combined)
    for prefix in ("RateLimit-", "X-RateLimit-"):
        remaining = headers.get(prefix + "Remaining")
        if remaining is not None:
            return _separate(remaining, headers.get(prefix + "Reset", ""), headers.get(prefix + "Limit", ""), now)
    return None


def _combined(value: str) -> Quota | None:
    items = [Quota(remaining=int(r), reset_s=float(t)) for r, t in ITEM.findall(value)]
    if items:
        return min(items, key=lambda item: item.remaining)
    named = {name: int(number) for name, number in NAMED.findall(value)}
    if "remaining" not in named or "reset" not in named:
        return None
    return Quota(remaining=named["remaining"], reset_s=float(named["reset"]), limit=named.get("limit"))


def _separate(remaining: str, reset: str, limit: str, now: float) -> Quota | None:
    left, until, whole = NUMBER.match(remaining), NUMBER.match(reset), NUMBER.match(limit)
    if left is None or until is None:
        return None
    reset_s = float(until[0])
    if reset_s >= EPOCH_MS:
        reset_s /= 1000.0
    if reset_s >= EPOCH_S:
        reset_s = max(0.0, reset_s - now)
    return Quota(remaining=int(left[1]), reset_s=reset_s, limit=int(whole[1]) if whole else None)
