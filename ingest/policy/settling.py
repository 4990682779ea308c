"""When a file has been quiet for long enough to be taken: no sooner than two looks at it, so far apart, found it equal.

Times are arguments, and are compared with each other only: no clock of a file system counts, for a server's may differ.
What a look is, is the caller's; nothing here opens a file or knows how a file came about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.model import FileStamp, Occasion

__all__ = ["Settling"]

EMPTY_LOOKS: Final = 10
# An empty file is more often one that is about to be filled than one that somebody wants: it must be quiet for ten
# times as long before it is taken, and rejected.


@dataclass(frozen=True, slots=True)
class _Unsettled:
    stamp: FileStamp
    since: float
    occasion: Occasion
    looks: int = 1  # that found it empty


class Settling:
    """The paths that are waited for, at most `capacity`. Times are monotonic seconds."""

    def __init__(self, *, quiet_s: float, capacity: int) -> None:
        self._quiet_s = quiet_s
        self._capacity = capacity
        self._unsettled: dict[str, _Unsettled] = {}  # in the order in which they fall due

    @property
    def is_full(self) -> bool:
        """Whether no other path is to be seen before one of these is settled."""
        return len(self._unsettled) >= self._capacity

    @property
    def next_due(self) -> float:
        """When the next look is due; infinite where nothing is waited for."""
        return next((waiting.since + self._quiet_s for waiting in self._unsettled.values()), math.inf)

    def see(self, path: str, stamp: FileStamp, now: float, occasion: Occasion) -> None:
        """A path was looked at. It waits from its first look on, and anew from each that found it changed."""
        known = self._unsettled.get(path)
        if known is None:
            self._unsettled[path] = _Unsettled(stamp, now, occasion)
            return
        occasion = min(known.occasion, occasion)
        if known.stamp == stamp:
            self._unsettled[path] = _Unsettled(stamp, known.since, occasion, known.looks)
        else:
            self._put_last(path, _Unsettled(stamp, now, occasion))

    def due(self, now: float, most: int) -> Sequence[str]:
        """The paths that have to be looked at once more, the longest waiting first; they wait on until `judge`."""
        paths: list[str] = []
        for path, waiting in self._unsettled.items():
            if len(paths) >= most or waiting.since + self._quiet_s > now:
                break
            paths.append(path)
        return paths

    def judge(self, path: str, stamp: FileStamp | None, *, began_at: float, ended_at: float) -> Occasion | None:
        """What was due was looked at, None for a file that is gone: why it is to be taken, None where it is not.

        What changed waits anew from the end of that look, as does what is empty.
        """
        known = self._unsettled.get(path)
        if known is None or stamp is None:
            self._unsettled.pop(path, None)
            return None
        if stamp != known.stamp:
            self._put_last(path, _Unsettled(stamp, ended_at, known.occasion))
            return None
        if began_at < known.since + self._quiet_s:
            return None  # another look found it changed while this one was being taken
        if not stamp.size_bytes and known.looks < EMPTY_LOOKS:
            self._put_last(path, _Unsettled(stamp, ended_at, known.occasion, known.looks + 1))
            return None
        del self._unsettled[path]
        return known.occasion

    def _put_last(self, path: str, waiting: _Unsettled) -> None:
        del self._unsettled[path]
        self._unsettled[path] = waiting
