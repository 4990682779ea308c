"""The way of one request through the sandbox: counted, limited, harmed by a fault, done, answered.

Knows no endpoint: an operation is prepared (whatever must be awaited) and then takes effect in one synchronous step,
so that a fault can come before it, after it or in its stead, and nothing can come in between.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final, assert_never

from aiohttp import web

from ingest.sandbox.answers import Refusal, default_error, html_page, refuse
from ingest.sandbox.call import Call
from ingest.sandbox.chance import Chance
from ingest.sandbox.faults import (
    CutAfter,
    CutBefore,
    CutJson,
    ErrorAnswer,
    Fault,
    FaultPlan,
    Hang,
    Html,
    Lane,
    Late,
    Operation,
    Slow,
    StaleRead,
)
from ingest.sandbox.limits import Limits, Verdict

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ingest.sandbox.call import Effect, Prepare
    from ingest.sandbox.faults import Delay, Limit
    from ingest.sandbox.ledger import Ledger

__all__ = ["Exchange"]

CHANGING: Final[frozenset[Operation]] = frozenset(
    {
        "create_pack",
        "update_pack",
        "delete_pack",
        "add_image",
        "delete_image",
        "upload_file",
        "put",
    }
)


class Exchange:
    """What every request passes through. `tasks` owns the effects that land late."""

    def __init__(self, ledger: Ledger, tasks: TaskGroup, plan: FaultPlan, *, hang_s: float) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._hang_s = hang_s
        self.replace_plan(plan)

    def replace_plan(self, plan: FaultPlan) -> None:
        """From the next request on; counters and limits begin anew."""
        self._chance = Chance(plan)
        self._limits = Limits(plan)

    async def handle(self, request: web.Request, operation: Operation, lane: Lane, prepare: Prepare) -> web.Response:
        """The answer to one request; a request that its client gave up ends here, by cancellation."""
        body = await request.read() if lane == "api" else b""
        call = Call(request=request, operation=operation, lane=lane, body=body)
        begun_s = self._ledger.begin(lane, call.image_url)
        limits = self._limits  # a plan may be replaced while the request is on its way
        answer = "gone"
        verdicts = limits.enter(lane, call.holder, begun_s)
        is_allowed = all(verdict.is_allowed for _, verdict in verdicts)
        try:
            response = await self._conduct(call, prepare) if is_allowed else self._limited(call, verdicts)
            _tell_limits(response, verdicts)
            answer = "cut" if call.is_cut else str(response.status)
        finally:
            if is_allowed:
                limits.leave(lane, call.holder)
            self._ledger.end(
                lane, operation, begun_s=begun_s, answer=answer, error_code=call.error_code, key=call.public_id
            )
        return response

    async def _conduct(self, call: Call, prepare: Prepare) -> web.Response:
        fault = self._chance.draw(call.operation, call.subject) if self._chance.has_rules else None
        if isinstance(fault, StaleRead):
            call.stale_s = fault.within_s
        if fault is None:
            return await self._perform(call, prepare)
        self._ledger.injected(call.operation, str(fault.__struct_config__.tag))
        return await self._harm(call, prepare, fault)

    async def _harm(self, call: Call, prepare: Prepare, fault: Fault) -> web.Response:  # noqa: C901, PLR0912 - one case a kind
        match fault:
            case StaleRead():
                return await self._perform(call, prepare)
            case ErrorAnswer():
                if fault.effect:
                    await self._perform(call, prepare)
                response = self._refuse(call, default_error(call.lane, call.operation, fault.status, fault.error_code))
                if fault.retry_after is not None:
                    response.headers["Retry-After"] = _header(fault.retry_after)
                return response
            case Slow():
                response = await self._perform(call, prepare)
                await asyncio.sleep(self._chance.seconds(fault.delay_s))
                return response
            case CutBefore():
                return self._cut(call)
            case CutAfter():
                await self._perform(call, prepare)
                return self._cut(call)
            case CutJson():
                response = await self._perform(call, prepare)
                if isinstance(response.body, bytes):
                    response.body = response.body[: len(response.body) // 2]
                return response
            case Html():
                if fault.effect:
                    await self._perform(call, prepare)
                return html_page(fault.status)
            case Hang():
                if fault.effect:
                    await self._perform(call, prepare)
                await asyncio.sleep(self._hang_s)
                return self._cut(call)
            case Late():
                await self._perform_late(call, prepare, fault.delay_s)
                if fault.status is None:
                    return self._cut(call)
                return self._refuse(call, default_error(call.lane, call.operation, fault.status, None))
            case _:
                assert_never(fault)

    async def _perform(self, call: Call, prepare: Prepare) -> web.Response:
        try:
            return self._take_effect(call, await prepare(call))
        except Refusal as refusal:
            return self._refuse(call, refusal)

    def _take_effect(self, call: Call, effect: Effect) -> web.Response:
        response = effect()
        if call.operation in CHANGING:
            self._ledger.took_effect(call.operation, call.image_url)
        return response

    async def _perform_late(self, call: Call, prepare: Prepare, delay: Delay) -> None:
        # A refusal is no effect, and the client gets another answer anyway.
        with suppress(Refusal):
            self._tasks.start_soon(self._land, call, await prepare(call), self._chance.seconds(delay))

    async def _land(self, call: Call, effect: Effect, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        with suppress(Refusal):
            self._take_effect(call, effect)

    def _limited(self, call: Call, verdicts: list[tuple[Limit, Verdict]]) -> web.Response:
        self._ledger.limited(call.lane)
        # S3 says SlowDown with 503, the API 429.
        status = 429 if call.lane == "api" else 503
        response = self._refuse(call, default_error(call.lane, call.operation, status, None))
        limit, verdict = verdicts[-1]
        if limit.retry_after:
            # Whole seconds (RFC 9110, 10.2.3), and never too early.
            response.headers["Retry-After"] = str(math.ceil(verdict.reset_s))
        return response

    def _refuse(self, call: Call, refusal: Refusal) -> web.Response:
        call.error_code = refusal.error_code
        return refuse(refusal)

    def _cut(self, call: Call) -> web.Response:
        call.is_cut = True
        if call.request.transport is not None:
            call.request.transport.abort()
        return web.Response()  # for the server's bookkeeping: it reaches nobody


def _tell_limits(response: web.Response, verdicts: list[tuple[Limit, Verdict]]) -> None:
    for limit, verdict in verdicts:
        if limit.headers:
            response.headers["X-RateLimit-Limit"] = str(verdict.limit)
            response.headers["X-RateLimit-Remaining"] = str(verdict.remaining)
            response.headers["X-RateLimit-Reset"] = str(math.ceil(verdict.reset_s))


def _header(retry_after: float | str) -> str:
    return retry_after if isinstance(retry_after, str) else f"{retry_after:g}"
