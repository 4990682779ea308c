"""What the system tells of a directory: paths to which something happened, from `watchfiles`.

Hears and notes; what the paths are, and whether they are looked at, is `watch`'s. What is missed is said so, once.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from ingest.observe.logging import get_logger
from ingest.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.abc import TaskStatus
    from watchfiles._rust_notify import RustNotify

__all__ = ["Hearing"]

log = get_logger("sources")

MAX_NOTED: Final = 10_000
# Paths that wait to be looked at, some 2 MB; beyond that, looking everything over costs less than to remember.

GROUP_MS: Final = 400
STEP_MS: Final = 100
TIMEOUT_MS: Final = 5_000
# Events of 400 ms are told at once, and sooner after 100 ms without one; the thread looks up at each step.

LIMITS_HINT: Final = "Is a limit reached? See fs.inotify.max_user_watches and max_user_instances in inotify(7)."


class Hearing:
    """Hears of a directory while `listen` runs, which is while `is_on` says so.

    `stirred` is called when there is something new; `missed`, where events were lost, and everything must be looked
    over. Both in the event loop.
    """

    def __init__(
        self,
        root: str,
        *,
        sends_events: Callable[[str], bool],
        stirred: Callable[[], None],
        missed: Callable[[], None],
        pause_s: float,
    ) -> None:
        self.is_on = False
        self._noted: dict[str, None] = {}
        self._root = root
        self._sends_events = sends_events
        self._stirred = stirred
        self._missed = missed
        self._pause_s = pause_s
        self._was_told = False

    def taken(self, most: int) -> Sequence[str]:
        """So many of the paths to which something happened, in the order of their first event; they are forgotten."""
        paths = list(itertools.islice(self._noted, most))
        for path in paths:
            del self._noted[path]
        return paths

    async def listen(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Hear until cancelled, or return where nothing is to be heard. Started once nothing later can be missed."""
        try:
            watcher = await self._begun()
            task_status.started()
            while watcher is not None:
                self.is_on = True
                try:
                    await self._hear(watcher)
                except RuntimeError as error:
                    # One name that is no UTF-8 is enough: what else happened is unknown.
                    self._tell("watch.disturbed", error, "Events were lost; everything is looked over again.")
                self.is_on = False
                await anyio.sleep(self._pause_s)
                watcher = await self._begun()
                self._missed()  # after that, so that nothing falls in between
        finally:
            self.is_on = False

    async def _begun(self) -> RustNotify | None:
        try:
            watcher = await anyio.to_thread.run_sync(self._begin, abandon_on_cancel=True)
        except (OSError, RuntimeError, ValueError) as error:
            self._tell("watch.unavailable", error, f"The directory is looked over now and then instead. {LIMITS_HINT}")
            return None
        if watcher is None and not self._was_told:
            self._was_told = True
            log.info(
                "watch.silent", directory=printable(self._root), message="No events come from there; it is polled."
            )
        return watcher

    def _begin(self) -> RustNotify | None:
        from watchfiles._rust_notify import RustNotify  # noqa: PLC0415 - `run` watches nothing

        if not self._sends_events(self._root):
            return None
        # Not `awatch`, which may wait for its thread for as long as nothing happens.
        # `ignore_permission_denied` would hide a limit that is reached as well.
        return RustNotify([self._root], False, False, 0, True, False)

    async def _hear(self, watcher: RustNotify) -> None:
        stop = threading.Event()
        limiter = anyio.CapacityLimiter(1)  # of its own: what waits for ever takes no other hop's place

        try:
            while True:
                heard = await anyio.to_thread.run_sync(
                    watcher.watch, GROUP_MS, STEP_MS, TIMEOUT_MS, stop, abandon_on_cancel=True, limiter=limiter
                )
                if isinstance(heard, set):
                    self._note(heard)
        finally:
            stop.set()  # the thread ends at its next step
            watcher.close()  # which may be done beneath it; an error's traceback may keep the watcher itself for long

    def _note(self, heard: set[tuple[int, str]]) -> None:
        for _, path in sorted(heard, key=lambda change: change[1]):
            if len(self._noted) >= MAX_NOTED:
                self._missed()
                break
            self._noted[path] = None
        self._stirred()

    def _tell(self, event: str, error: Exception, message: str) -> None:
        tell = log.debug if self._was_told else log.warning
        tell(event, directory=printable(self._root), error=printable(str(error)), message=message)
        self._was_told = True
