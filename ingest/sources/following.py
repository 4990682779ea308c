"""A directory that is looked for, heard of, and looked over again and again: what in it may have to be taken.

Finds paths, and says by `is_through`, `stay` and `problem` how it stands; opens nothing, and hands nothing over.
"""

from __future__ import annotations

import functools
import math
import os
import time
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from ingest.errors import UsageError
from ingest.model import Job, Occasion
from ingest.observe.logging import get_logger
from ingest.observe.text import printable
from ingest.policy.settling import Settling
from ingest.sources.hearing import Hearing

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from ingest.settings import WatchSettings
    from ingest.sources.base import Recognise, SourceReport
    from ingest.sources.directory import DirectorySource

    Identity: TypeAlias = tuple[int, int]

__all__ = ["Following"]

log = get_logger("sources")

SPACING: Final = 20.0
# Between two looks over a directory lie at least so many times their duration: they take a twentieth of one thread,
# however large it is. 100,000 files that did not change take about a second on a local disk.

CHECK_S: Final = 2.0
# Between two looks at whether the directory is the one that is watched: one `stat`.

MAX_UNSETTLED: Final = 10_000
# Files that wait to be quiet, about 4 MB. A look over everything waits for room; a backfill gets 5,000 a second so.

MAX_WANTED: Final = 1_000
# New directories that wait to be looked over; with more, everything is.

UNREADABLE_TOLD: Final = 5


class Following:
    """Follows the directory `root` while `run` runs. What it meets goes into `settling`; it waits while that is full.

    `recognise` leaves out what the journal knows as done, None nothing; `told` gets the report of each look over
    everything; `sends_events` is as in `WatchSource`.
    """

    def __init__(
        self,
        root: str,
        settings: WatchSettings,
        *,
        directory: Callable[[], DirectorySource],
        recognise: Recognise | None,
        sends_events: Callable[[str], bool],
        told: Callable[[SourceReport], None],
    ) -> None:
        self.settling = Settling(quiet_s=settings.settle_s, capacity=MAX_UNSETTLED)
        self.hearing = Hearing(
            root, sends_events=sends_events, stirred=self.stir, missed=self._miss, pause_s=settings.poll_s
        )
        self.stay = 0  # one more each time that the directory was found to be gone, or another one
        self._identity: Identity | None = None  # of the directory that is followed
        self.is_through = False  # with the first look over everything
        self.problem: Exception | None = None  # that ended it for good
        self._root = root
        self._settings = settings
        self._directory = directory
        self._recognise = recognise
        self._told = told
        self._unreadable_count = 0
        self._missed = False
        self._waited_s = 0.0  # for room, in this look over everything
        self._wanted: dict[str, tuple[float, bool]] = {}  # new directories: when, and whether for the second time
        self._stirred = anyio.Event()

    async def run(self) -> None:
        """Follow the directory until cancelled, or there is a `problem`."""
        occasion = Occasion.FIRST
        while self.problem is None:
            identity = await self._found()
            async with anyio.create_task_group() as tasks:
                await tasks.start(self.hearing.listen)
                try:
                    await self._follow(identity, occasion)
                except Exception as error:
                    self.problem = error
                    self.stir()
                tasks.cancel_scope.cancel()
            occasion = Occasion.AGAIN

    async def _found(self) -> Identity:
        """Wait for the directory; which one it is."""
        before, self._identity = self._identity, None
        self.stay += 1
        if (found := await self._seen()) is None:
            self._tell("directory.lost", "The directory is gone; it is waited for, and nothing of it is failed.")
            while (found := await self._seen()) is None:
                await self.rest(time.monotonic() + CHECK_S)
            self._tell("directory.found", "The directory is there again.")
        elif before is not None:
            self._tell("directory.replaced", "Another directory is in its place: was it unmounted, or mounted?")
        self._identity = found
        return found

    async def _follow(self, identity: Identity, occasion: Occasion) -> None:
        """Look everything over again and again; return when the directory is another one, or gone."""
        while True:
            self._missed, self._waited_s = False, 0.0
            began_at = time.monotonic()
            if not await self._look_over("", occasion):
                return
            ended_at = time.monotonic()
            self.is_through = True
            self.stir()
            occasion = Occasion.AGAIN
            earliest = ended_at + SPACING * (ended_at - began_at - self._waited_s)
            while (now := time.monotonic()) < max(earliest, ended_at + self._interval_s()):
                if await self._seen() != identity:
                    return
                await self._look_over_wanted(now)
                due = min((at for at, _ in self._wanted.values()), default=math.inf)
                await self.rest(min(due, now + CHECK_S))

    def _interval_s(self) -> float:
        if self._missed:
            return 0.0
        return self._settings.rescan_s if self.hearing.is_on else self._settings.poll_s

    async def _look_over_wanted(self, now: float) -> None:
        for below, (at, is_second) in list(self._wanted.items()):
            if at > now:
                continue
            del self._wanted[below]
            if not is_second:
                # What was made in it before it was heard of is met by one of two looks, so far apart.
                self._wanted[below] = (now + self._settings.settle_s, True)
            await self._look_over(below, Occasion.CHANGED)

    async def _look_over(self, below: str, occasion: Occasion) -> bool:
        """Put into `settling` what the journal does not know as done; whether the directory could be looked into."""
        directory = self._directory()
        recognise = None if self._recognise is None else functools.partial(self._recognise, occasion=occasion)
        try:
            async with directory.part(recognise, below) as batches:
                async for batch in batches:
                    for delivery in batch:
                        if self.settling.is_full:
                            await self._room()
                        if delivery.stamp is not None and isinstance(delivery.job, Job):
                            self.settling.see(delivery.job.image, delivery.stamp, time.monotonic(), occasion)
                    self.stir()
        except UsageError as error:
            if error.code != "no_such_source":
                raise
            return False
        if not below:
            self._report(directory.report)
        return True

    async def _room(self) -> None:
        began_at = time.monotonic()
        while self.settling.is_full:
            self.stir()  # nobody else makes room
            await self.rest(math.inf)
        self._waited_s += time.monotonic() - began_at

    def _report(self, report: SourceReport) -> None:
        if report.unreadable_count > self._unreadable_count:
            self._tell("directory.unreadable", "; ".join(report.unreadable[:UNREADABLE_TOLD]))
        self._unreadable_count = report.unreadable_count
        self._told(report)

    # What whoever takes the files asks and says.

    def want(self, below: str) -> None:
        """A directory is new: look it over."""
        if len(self._wanted) >= MAX_WANTED:
            self._miss()
        else:
            self._wanted[below] = (time.monotonic(), False)
            self.stir()

    async def is_gone(self, stay: int) -> bool:
        """Whether the directory is gone or another one, or was since that stay; then all is looked over once more."""
        identity = self._identity  # none any more, as soon as it is looked for
        if self.stay == stay and await self._seen() == identity and self.stay == stay:
            return False
        self._miss()
        return True

    def stir(self) -> None:
        """Something is new: whoever rests looks up."""
        self._stirred.set()
        self._stirred = anyio.Event()

    async def rest(self, until: float) -> None:
        """Wait until something is new, or until that moment (monotonic seconds)."""
        with anyio.move_on_after(until - time.monotonic()):
            await self._stirred.wait()

    def _miss(self) -> None:
        """Something may have been missed: everything is looked over again, as soon as that may be."""
        self._missed = True
        self.stir()

    async def _seen(self) -> Identity | None:
        # A file system that hangs keeps nobody from ending.
        return await anyio.to_thread.run_sync(_identity, self._root, abandon_on_cancel=True)

    def _tell(self, event: str, message: str) -> None:
        log.warning(event, directory=printable(self._root), message=message)


def _identity(root: str) -> Identity | None:
    """Which directory it is; None where there is none, or it may not be listed."""
    try:
        seen = os.stat(root)  # noqa: PTH116
        os.scandir(root).close()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino
