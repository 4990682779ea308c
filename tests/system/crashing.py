"""The `ingest` command, killed at a named point: `python crashing.py POINT[:NTH][=SIGNAL]... -- run ...`.

Wraps functions of the program from outside, so that the program holds no trace of it; one that exists no more is an
error. Says nothing of what must hold afterwards: `test_crash_points` does.

    PLACE.before       when the function is called, or the commit that holds the change is about to begin
    PLACE.inside       the change is written, and its transaction not yet committed
    PLACE.unanswered   the request was sent, and its connection ended without an answer
    PLACE.after        the function has its result, or the commit has returned; nobody has been told
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, get_args

from ingest.__main__ import main as ingest
from ingest.api.client import PacksClient
from ingest.errors import RequestError
from ingest.journal import database, opening
from ingest.journal.changes import Change, Settled
from ingest.journal.commit import GroupCommit
from ingest.journal.lock import WriterLock
from ingest.journal.sqlite import SqliteJournal
from ingest.model import Outcome
from ingest.pipeline import deliver, settle
from ingest.pipeline.run import Pipeline

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

CALLS: Final[dict[str, tuple[Any, str]]] = {
    "create": (PacksClient, "create_pack"),
    "inspect": (deliver, "inspect"),
    "reserve": (PacksClient, "upload_file"),
    "put": (PacksClient, "put_file"),
    "add": (PacksClient, "add_image"),
    "read": (PacksClient, "scan_pack"),
    "delete": (PacksClient, "delete_image"),
    "acknowledge": (settle, "acknowledge"),
    "drain": (Pipeline, "_drain"),
}

STEPS: Final[dict[str, tuple[Any, str, str]]] = {
    "migrate": (database, "_migrate", "CREATE INDEX"),
    "mark": (opening, "_raise", "UPDATE"),
}
"""Functions that commit by themselves, given a connection, and a word of the statement that is inside."""

METHODS: Final = ("begin", "admit", "end")
"""Methods of the journal that commit, beside `submit`, whose commits are named by the change."""

REFUSALS: Final = ("refuse", "mended")
"""The same of what is no job, by which only a manifest comes."""

CHANGES: Final = tuple(kind.__name__ for kind in get_args(Change) if kind is not Settled)
SETTLED: Final = ("found", *Outcome)
"""A `Settled` is named by its outcome; "found" is the `added` of a lookup."""

COMMITS: Final = (*METHODS, *REFUSALS, *CHANGES, *SETTLED)


class Trigger:
    """Sends this process its signal when the point is reached for the nth time."""

    def __init__(self, spec: str) -> None:
        name, _, number = spec.partition("=")
        self.point, _, nth = name.partition(":")
        self.place, _, self.moment = self.point.rpartition(".")
        self._left = int(nth or 1)
        self._number = signal.Signals[number or "SIGKILL"]

    def at(self, moment: str) -> None:
        """The place is at this moment."""
        if moment != self.moment:
            return
        self._left -= 1
        if self._left == 0:
            os.write(2, reached(self.point).encode() + b"\n")
            os.kill(os.getpid(), self._number)


def reached(point: str) -> str:
    """The line on stderr that tells it."""
    return f"reached {point}"


def arm(trigger: Trigger) -> None:
    """Put the trigger at its place."""
    if trigger.place in STEPS:
        _wrap_step(trigger, *STEPS[trigger.place])
    elif trigger.place == "tell":
        _wrap_telling(trigger)
    elif trigger.place in CALLS:
        _wrap_call(trigger, *CALLS[trigger.place])
    elif trigger.place in COMMITS:
        _wrap_commits(trigger)
    else:
        raise SystemExit(f"there is no point {trigger.point}")


def _replace(owner: Any, name: str, made: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(made(original)))


def _wrap_call(trigger: Trigger, owner: Any, name: str) -> None:
    def made(original: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*args: Any, **options: Any) -> Any:
            trigger.at("before")
            try:
                result = await original(*args, **options)
            except RequestError:
                trigger.at("unanswered")
                raise
            trigger.at("after")
            return result

        return wrapped

    _replace(owner, name, made)


def _wrap_step(trigger: Trigger, owner: Any, name: str, word: str) -> None:
    def made(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(connection: sqlite3.Connection, *args: Any) -> Any:
            trigger.at("before")
            connection.set_trace_callback(lambda text: trigger.at("inside") if word in text else None)
            result = original(connection, *args)
            connection.set_trace_callback(None)
            trigger.at("after")
            return result

        return wrapped

    _replace(owner, name, made)


def _wrap_telling(trigger: Trigger) -> None:
    def made(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> None:
            trigger.at("before")
            original(*args)
            trigger.at("after")

        return wrapped

    _replace(WriterLock, "tell", made)


# The group commit knows nothing of jobs: its units are named where the journal submits them.

_named: Final = ContextVar("_named", default="")


class _Unit:
    """A unit of work that knows its name."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any], trigger: Trigger) -> None:
        self._work = work
        self._trigger = trigger
        self.is_meant = _named.get() == trigger.place

    def __call__(self, connection: sqlite3.Connection) -> Any:
        result = self._work(connection)
        if self.is_meant:
            self._trigger.at("inside")
        return result


def _wrap_commits(trigger: Trigger) -> None:
    def unit(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, work: original(self, _Unit(work, trigger))

    def commit(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: GroupCommit, connection: sqlite3.Connection, batch: list[Any]) -> Any:
            meant = sum(isinstance(member.work, _Unit) and member.work.is_meant for member in batch)
            for _ in range(meant):
                trigger.at("before")
            told = original(self, connection, batch)
            for _ in range(meant):
                trigger.at("after")
            return told

        return wrapped

    def change(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: SqliteJournal, change: Change) -> Any:
            token = _named.set(_name_of(change))
            try:
                return original(self, change)
            finally:
                _named.reset(token)

        return wrapped

    def method(original: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*args: Any, **options: Any) -> Any:
            token = _named.set(original.__name__)
            try:
                return await original(*args, **options)
            finally:
                _named.reset(token)

        return wrapped

    _replace(GroupCommit, "submit", unit)
    _replace(GroupCommit, "_commit", commit)
    _replace(SqliteJournal, "submit", change)
    for name in (*METHODS, *REFUSALS):
        _replace(SqliteJournal, name, method)


def _name_of(change: Change) -> str:
    if isinstance(change, Settled):
        return "found" if change.was_found else change.outcome.value
    return type(change).__name__


def main() -> int:
    """Arm what stands before the dashes, and run what stands after them."""
    dashes = sys.argv.index("--")
    for spec in sys.argv[1:dashes]:
        arm(Trigger(spec))
    sys.argv[1:] = sys.argv[dashes + 1 :]
    return ingest()


if __name__ == "__main__":
    sys.exit(main())
