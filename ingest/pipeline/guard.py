"""What is done when the API refuses the key: it is asked once more, then a person is waited for, or the run ends.

Decides for the whole process, once for all requests that are refused together; never marks a job for it.
"""

from __future__ import annotations

import enum
import random
import time
from typing import TYPE_CHECKING, Final

import anyio

from ingest.errors import Fatal, Refused, RequestError
from ingest.observe.logging import get_logger
from ingest.pipeline.pulse import Pulse
from ingest.pipeline.stop import Stopped
from ingest.policy.vigil import Vigil

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ingest.api.credentials import Credentials
    from ingest.observe.recorders import RunRecorder
    from ingest.pipeline.gate import Gate
    from ingest.pipeline.scope import Scope
    from ingest.pipeline.stop import Stop

__all__ = ["Guard", "State", "refusal"]

log = get_logger("pipeline")

POLL_S: Final = 1.0
# Between two looks at the key file: a read of a few bytes, and a new key is tried before anyone wonders.

HINTS = {
    401: "Check GENVIRAL_API_KEY (or the file that GENVIRAL_API_KEY_FILE names), then run the same command again.",
    402: "The Partner API needs an active Creator, Professional or Business plan; then run the same command again.",
    403: "This plan's tier has no Partner API: change the plan, then run the same command again.",
}


WRONG_SCOPE_HINT = (
    "Use a key of the workspace that the journal's packs are in, or a journal of its own for this one: --journal PATH."
)


def refusal(error: Fatal) -> Refused:
    """A `Fatal` answer as the reason for which a run ends."""
    hint = WRONG_SCOPE_HINT if error.reason == "wrong_scope" else HINTS.get(error.status or 0, "")
    return Refused(error.headline, code=error.reason, hint=hint)


class State(enum.StrEnum):
    """What is known of the key."""

    TAKING = "taking"
    ASKING = "asking"
    WAITING = "waiting"
    REFUSED = "refused"


class Guard:
    """Hears of every 401, 402 and 403, and of a key that sees none of the packs. In all states but TAKING the API's
    gate is held, so that nothing passes but the guard's own probes.

        TAKING  --a request is refused----------------------> ASKING    the key file is read again, one probe is sent
        TAKING  --refused twice, or of another scope--------> WAITING
        ASKING  --the probe is taken, or not clearly refused> TAKING    what was refused is sent again
        ASKING  --the probe is refused----------------------> WAITING   so is, if not clearly taken, that of a new key
        WAITING --a probe is taken--------------------------> TAKING    everything goes on where it was
        WAITING --patience ends-----------------------------> REFUSED   the gate is shut and the run ends, with exit 3
        WAITING --the run stops-----------------------------> REFUSED   the gate is shut; what is in hand is put back

    Without patience WAITING is over at once. A probe sees the scope as well, so no job's request goes out under a key
    of another workspace. PUTs whose tickets are there go on meanwhile, in the storage's lane: tickets expire.
    """

    def __init__(
        self,
        gate: Gate,
        credentials: Credentials,
        *,
        scope: Scope,
        recorder: RunRecorder,
        stop: Stop,
        patience_s: float = 0.0,
    ) -> None:
        self.scope = scope
        self.state = State.TAKING
        self._gate = gate
        self._credentials = credentials
        self._recorder = recorder
        self._stop = stop
        self._vigil = Vigil(patience_s=patience_s)
        self._verdict: Fatal | None = None
        self._deciding = anyio.Lock()
        self._decisions = 0
        self._changed = Pulse()

    async def confirm(self, error: Fatal) -> None:
        """A request was refused. Returns when the API takes the key after all, else raises the `Fatal` for good."""
        await self._decide(error, self._ask)

    async def convict(self, error: Fatal) -> None:
        """The refusal is certain. Returns when the API takes a key again, else raises the `Fatal` for good."""
        await self._decide(error, self._wait)

    def dismiss(self) -> None:
        """It was no word of the API: let requests pass again, unless another refusal is being decided."""
        if self._verdict is None and not self._deciding.locked():
            self._gate.release()

    async def not_waiting(self) -> None:
        """Return at once, but when a person is waited for: then when that has come to its end."""
        while self.state is State.WAITING:
            await self._changed.wait()

    async def _decide(self, error: Fatal, decide: Callable[[Fatal], Awaitable[None]]) -> None:
        decisions = self._decisions
        try:
            await self._deciding.acquire()
        except BaseException:
            self.dismiss()  # whoever was refused had the gate held
            raise
        try:
            if self._verdict is not None:
                raise self._verdict
            if self._decisions != decisions:
                return  # it was decided for all that were refused meanwhile
            try:
                await decide(error)
            finally:
                self._decisions += 1
                if self._verdict is None:
                    self._enter(State.TAKING)
                    self._recorder.fatal(None)
                    self._gate.release()
        finally:
            self._deciding.release()

    async def _ask(self, error: Fatal) -> None:
        self._enter(State.ASKING)
        is_new = await self._reread()
        try:
            await self.scope.probe()
        except Fatal as second:
            await self._wait(second, is_new=is_new)
        except RequestError as unclear:
            log.warning("refusal.unconfirmed", reason=error.reason, error=str(unclear))
            if is_new and self._vigil.patience_s:
                await self._wait(error, is_new=True)

    async def _wait(self, error: Fatal, *, is_new: bool = False) -> None:
        """Wait for a person. `is_new`: the key in use is not the one that requests were refused with."""
        began_at = time.monotonic()
        self._vigil.begin(began_at, jitter=_jitter())
        if is_new:
            self._vigil.renew(began_at)
        if not self._vigil.is_over(began_at):
            log.warning("key.awaited", reason=error.reason, status=error.status)
            self._hold(error)
        try:
            while not self._vigil.is_over(now := time.monotonic()):
                await self._stop.sleep(min(POLL_S, self._vigil.left_s(now)))
                if await self._reread():
                    self._vigil.renew(time.monotonic())
                if self._vigil.is_due(time.monotonic()):
                    answer = await self._answer()
                    if answer is None:
                        self._vigil.end(time.monotonic())
                        log.warning("key.taken", waited_s=round(time.monotonic() - began_at, 3))
                        return
                    if isinstance(answer, Fatal):
                        error = answer
                        self._hold(error)
                    self._vigil.asked(time.monotonic(), jitter=_jitter())
        except Stopped:
            raise error from None
        finally:
            if self._stop.is_requested:  # however the wait was ended for it
                self._shut(error)
        self._shut(error)
        log.error("key.refused", reason=error.reason, status=error.status)
        self._stop.because(refusal(error))
        raise error

    async def _answer(self) -> RequestError | None:
        """What the API says to a probe; None where it takes the key. The end of the run ends the question."""
        with self._stop.interrupts():
            try:
                await self.scope.probe()
            except RequestError as error:
                return error
            return None
        raise Stopped

    async def _reread(self) -> bool:
        """Read the key file again; whether there is another key."""
        is_new = await self._credentials.refresh()
        if is_new:
            self._gate.turn_away()
            log.info("key.reread", key_id=self._credentials.public_id)
        return is_new

    def _hold(self, error: Fatal) -> None:
        self._gate.hold(error)
        self._recorder.fatal(error.reason)
        self._enter(State.WAITING)

    def _shut(self, error: Fatal) -> None:
        self._verdict = error
        self._gate.shut(error)
        self._recorder.fatal(error.reason)
        self._enter(State.REFUSED)

    def _enter(self, state: State) -> None:
        self.state = state
        self._changed.beat()


def _jitter() -> float:
    return random.random()  # noqa: S311 - jitter, not a secret
