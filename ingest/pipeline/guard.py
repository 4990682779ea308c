"""What is done when the API refuses the key: asked once more, and then nothing is sent any more.

Decides for the whole process, once; never marks a job for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from ingest.errors import Fatal, Refused, RequestError
from ingest.observe.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ingest.api.credentials import Credentials
    from ingest.observe.recorders import RunRecorder
    from ingest.pipeline.gate import Gate

__all__ = ["Guard", "refusal"]

log = get_logger("pipeline")

HINTS = {
    401: "Check GENVIRAL_API_KEY (or the file that GENVIRAL_API_KEY_FILE names), then run again to continue.",
    402: "The Partner API needs an active Creator, Professional or Business plan; then run again to continue.",
    403: "This plan's tier has no Partner API: change the plan, then run again to continue.",
}


WRONG_SCOPE_HINT = (
    "Use a key of the workspace that the journal's packs are in, or a journal of its own for this one: --journal PATH."
)


def refusal(error: Fatal) -> Refused:
    """A `Fatal` answer as the reason for which a run ends."""
    hint = WRONG_SCOPE_HINT if error.reason == "wrong_scope" else HINTS.get(error.status or 0, "")
    return Refused(str(error).partition("\n")[0], code=error.reason, hint=hint)


class Guard:
    """Hears of every 401, 402 and 403, while the gate that saw it holds back all other requests.

    `probe` sends one harmless request past the gate. `on_fatal` is called once, when the refusal is certain.
    """

    def __init__(
        self,
        gate: Gate,
        credentials: Credentials,
        *,
        probe: Callable[[], Awaitable[object]],
        recorder: RunRecorder,
        on_fatal: Callable[[Refused], None],
    ) -> None:
        self._gate = gate
        self._credentials = credentials
        self._probe = probe
        self._recorder = recorder
        self._on_fatal = on_fatal
        self._verdict: Fatal | None = None
        self._asking = anyio.Lock()
        self._answers = 0

    async def confirm(self, error: Fatal) -> None:
        """Ask a second time. Returns where the API takes the key after all, else raises the `Fatal` for good."""
        answers = self._answers
        async with self._asking:
            if self._verdict is not None:
                raise self._verdict
            if self._answers != answers:
                return  # it was asked for all that were refused meanwhile
            if await self._credentials.refresh():
                log.info("key.reread", key_id=self._credentials.public_id)
            try:
                await self._probe()
            except Fatal as second:
                self.convict(second)
                raise
            except RequestError as unclear:
                log.warning("refusal.unconfirmed", reason=error.reason, error=str(unclear))
            finally:
                if self._verdict is None:
                    self._answers += 1
                    self._gate.release()

    def convict(self, error: Fatal) -> None:
        """The refusal is certain: nothing is sent any more."""
        if self._verdict is not None:
            return
        self._verdict = error
        self._gate.shut(error)
        self._recorder.fatal(error.reason)
        log.error("key.refused", reason=error.reason, status=error.status)
        self._on_fatal(refusal(error))

    def dismiss(self) -> None:
        """It was no word of the API: let requests pass again, unless another refusal is being asked about."""
        if self._verdict is None and not self._asking.locked():
            self._gate.release()
