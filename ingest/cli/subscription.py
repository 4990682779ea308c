"""The `subscription` command: whose key this is and what is paid for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer  # noqa: TC002 - typer reads the annotations at run time

from ingest.cli import options, output, values
from ingest.cli.origins import told

if TYPE_CHECKING:
    from ingest.api.messages import Subscription
    from ingest.assemble import Connection

__all__ = ["subscription"]


def subscription(
    ctx: typer.Context,
    *,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """Show whose key this is and what is paid for."""
    import msgspec  # noqa: PLC0415 - loaded when a command runs

    from ingest.cli import calling  # noqa: PLC0415

    async def question(connection: Connection) -> Subscription:
        return await connection.ask(connection.client.get_subscription)

    origins = told(ctx)
    found = calling.ask(origins, question)
    if origins.one("json", values.truth, False):
        output.json_line(msgspec.to_builtins(found))
        return
    plan, left = found.plan, found.plan.credits if found.plan is not None else None
    rows = [
        ("scope", found.scope),
        ("workspace", found.workspace_id),
        ("status", plan and plan.status),
        ("tier", plan and plan.tier),
        ("billed", plan and plan.billing_interval),
        ("period ends", plan and plan.current_period_end),
        ("paused until", plan and plan.paused_until),
        ("credits left", left and _credits(left.remaining)),
        ("credits used", left and _credits(left.used_this_period)),
        ("credits again", left and left.reset_at),
    ]
    output.table(("WHAT", "VALUE"), [(name, value) for name, value in rows if value is not None])


def _credits(amount: float | None) -> str | None:
    return None if amount is None else f"{amount:,.10g}"
