"""The subscription behind a key, made up: the sandbox sells nothing and spends no credits.

Pure: the time is an argument, and who may ask is decided elsewhere.
"""

from __future__ import annotations

import calendar
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from datetime import datetime

    from ingest.sandbox.keys import ApiKey

__all__ = ["Subscription", "subscription_of"]

# Made up: the documentation names the fields, not the amounts.
MONTHLY_CREDITS: Final = {"creator": 500, "professional": 2000, "business": 10000}


class Credits(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan allows; the sandbox spends none."""

    limit: int
    used_this_period: int
    remaining: int
    reset_at: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription behind a key."""

    status: str
    tier: str
    billing_interval: str
    current_period_start: str
    current_period_end: str
    renews_at: str
    canceled_at: str | None
    is_paused: bool
    paused_until: str | None
    credits: Credits


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to Subscription."""

    scope: str
    workspace_id: str | None
    subscription: Plan


def subscription_of(key: ApiKey, now: datetime) -> Subscription:
    """A plan that began with this month and renews with the next; `now` is in UTC."""
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = start + timedelta(days=calendar.monthrange(start.year, start.month)[1])
    began, ends = (f"{at:%Y-%m-%dT%H:%M:%S}.000Z" for at in (start, end))
    limit = MONTHLY_CREDITS[key.tier]
    plan = Plan(
        status="active",
        tier=key.tier,
        billing_interval="month",
        current_period_start=began,
        current_period_end=ends,
        renews_at=ends,
        canceled_at=None,
        is_paused=False,
        paused_until=None,
        credits=Credits(limit=limit, used_this_period=0, remaining=limit, reset_at=ends),
    )
    workspace_id = key.workspace_id if key.kind == "workspace" else None
    return Subscription(scope=key.kind, workspace_id=workspace_id, subscription=plan)
