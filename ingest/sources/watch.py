"""A directory as a source without end: looked over once, then watched, and looked over again now and then.

Looks at single files, and hands over what has been quiet; where they come from is `following`'s. Remembers nothing of
what it has handed over: what is done, the journal knows.
"""

from __future__ import annotations

import functools
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from ingest.model import FileStamp, Job, Occasion
from ingest.sources.base import Delivery, SourceReport
from ingest.sources.directory import DirectorySource, absolute
from ingest.sources.following import Following
from ingest.sources.glance import Directory, Glance
from ingest.sources.selection import Selection, file_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import TypeVar

    from ingest.settings import WatchSettings
    from ingest.sources.base import Recognise

    T = TypeVar("T")

__all__ = ["WatchSource"]

LOOKS: Final = 256
# At paths, in one thread hop: some 2 ms on a local disk.


class WatchSource:
    """The images below a directory, for ever; which they are, and what they are called, is as in `DirectorySource`.

    A file is taken when two looks at it, `settle_s` apart, found it unchanged. A name that is moved into place waits
    as well: what the system tells of it does not tell it from one that is being written. Deleted files are no jobs,
    and changed ones are jobs again. A directory that vanishes is told of once, and waited for.

    What is met on the first look over everything is named for the first time; see `Occasion` for what comes later.
    `sends_events` tells, in a thread, whether the system hears of what happens in a directory: where it does not, or
    can't, the directory is looked over every `poll_s` instead. `report` is that of the last look over everything.
    """

    name = "watch"

    def __init__(
        self,
        root: str,
        settings: WatchSettings,
        *,
        sniff: Callable[[bytes], bool],
        sends_events: Callable[[str], bool],
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        self.root = absolute(root)
        self.report = SourceReport()
        self._settings = settings
        self._sends_events = sends_events
        self._glance = Glance(self.root, Selection(include=include, exclude=exclude), sniff=sniff)
        self._directory = functools.partial(DirectorySource, self.root, sniff=sniff, include=include, exclude=exclude)

    def open(self) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """Open the source; its iterator has no end. `UsageError` where `root` is no directory or may not be listed."""
        return self._opened(None)

    def skim(self, recognise: Recognise) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Delivery]]]:
        """See `SkimmingSource.skim`."""
        return self._opened(recognise)

    @asynccontextmanager
    async def _opened(self, recognise: Recognise | None) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        async with self._directory().open():
            pass
        following = Following(
            self.root,
            self._settings,
            directory=self._directory,
            recognise=recognise,
            sends_events=self._sends_events,
            told=self._told,
        )
        problem: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(following.run)
            try:
                yield _Taken(following, self._glance)
            except Exception as error:  # raised below, in no group
                problem = error
            tasks.cancel_scope.cancel()
        if problem is not None:
            raise problem

    def _told(self, report: SourceReport) -> None:
        self.report = report


@dataclass(slots=True, kw_only=True)
class _Watched(Delivery):
    """A file of a directory that may vanish and come back."""

    is_gone: Callable[[], Awaitable[bool]]

    async def is_out_of_reach(self) -> bool:
        return await self.is_gone()


class _Taken:
    """What has been quiet, a batch at a time and without end.

    Paths that were heard of are looked at when the first look over everything is through: what happens meanwhile is met
    by that one, and counted once.
    """

    def __init__(self, following: Following, glance: Glance) -> None:
        self._following = following
        self._settling = following.settling
        self._glance = glance

    def __aiter__(self) -> AsyncIterator[Sequence[Delivery]]:
        return self

    async def __anext__(self) -> Sequence[Delivery]:
        while True:
            if self._following.problem is not None:
                raise self._following.problem
            if await self._look_at_noted():
                continue
            due = self._settling.due(time.monotonic(), LOOKS)
            if not due:
                await self._following.rest(self._settling.next_due)
            elif batch := await self._take(due):
                return batch

    async def _look_at_noted(self) -> bool:
        if not self._following.is_through or self._settling.is_full:
            return False
        paths = self._following.hearing.taken(LOOKS)
        for path, seen in zip(paths, await _each(self._glance.first, paths), strict=True):
            match seen:
                case FileStamp():
                    self._settling.see(path, seen, time.monotonic(), Occasion.CHANGED)
                case Directory(below=below):
                    self._following.want(below)
                case None:
                    pass
        return bool(paths)

    async def _take(self, due: Sequence[str]) -> Sequence[Delivery]:
        """What of the files that are due was quiet."""
        began_at, stay = time.monotonic(), self._following.stay
        # Where no events come from, what is asked may be answered from memory.
        again = functools.partial(self._glance.again, is_opened=not self._following.hearing.is_on)
        stamps = await _each(again, due)
        ended_at = time.monotonic()
        batch: list[Delivery] = []
        for path, stamp in zip(due, stamps, strict=True):
            occasion = self._settling.judge(path, stamp, began_at=began_at, ended_at=ended_at)
            if occasion is not None:
                is_gone = functools.partial(self._following.is_gone, stay)
                job = Job(image=path, file_name=file_name(path))
                batch.append(_Watched(job=job, stamp=stamp, occasion=occasion, is_gone=is_gone))
        self._following.stir()  # there is room
        return batch


async def _each(look: Callable[[str], T], paths: Sequence[str]) -> Sequence[T]:
    """What a look at each of the paths gave, all in one thread hop."""
    if not paths:
        return ()
    return await anyio.to_thread.run_sync(lambda: [look(path) for path in paths], abandon_on_cancel=True)
