"""The classic mistakes of such a program, each as a switch that only tests have.

Each is put into the real classes for as long as the block lasts; the model must find every one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from blake3 import blake3
from world import PendingJournal

from ingest.journal import rules
from ingest.journal.changes import Stored
from ingest.journal.records import Record
from ingest.model import Outcome
from ingest.pipeline import deliver
from ingest.pipeline.contents import Contents
from ingest.pipeline.reconcile import Reconciler
from ingest.policy import lifecycle
from ingest.policy.lifecycle import Event, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["MISTAKES"]


@contextlib.contextmanager
def adding_again_without_a_lookup() -> Iterator[None]:
    """An add without an answer is sent again at once."""

    def park(self: Any, work: Any) -> None:
        work.is_absent = True
        self._sending = asyncio.ensure_future(self._again(work))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconciler, "park", park)
        yield


@contextlib.contextmanager
def committing_stored_after_the_add() -> Iterator[None]:
    """The add goes out while the url is still on its way to the disk."""
    submit = PendingJournal.submit

    def submit_and_go_on(self: Any, change: Any) -> Any:
        durable = submit(self, change)
        if not isinstance(change, Stored):
            return durable
        record = self._process.world.disk._records[change.job_id]
        early = self._process.loop.create_future()
        early.set_result(rules.apply(record, change, now=0.0, run_id=record.run_id))
        return early

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PendingJournal, "submit", submit_and_go_on)
        yield


@contextlib.contextmanager
def trusting_an_early_empty_lookup() -> Iterator[None]:
    """What a read does not show is taken for absent, however soon after the add it was made."""
    init = Reconciler.__init__

    def hasty(self: Any, settings: Any, **parts: Any) -> None:
        init(self, replace(settings, settle_delay_s=0.0), **parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconciler, "__init__", hasty)
        yield


@contextlib.contextmanager
def forgetting_audits_at_a_restart() -> Iterator[None]:
    """The next run does not know which adds were sent twice."""
    begin = PendingJournal.begin

    async def forgetful(self: Any, *args: Any, **named: Any) -> Any:
        return replace(await begin(self, *args, **named), audits=[])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PendingJournal, "begin", forgetful)
        yield


@contextlib.contextmanager
def deleting_copies_that_people_made() -> Iterator[None]:
    """An audit leaves one copy, whoever made the others."""
    of, inherit = Reconciler.add_ended, Reconciler.inherit

    def add_ended(self: Any, work: Any) -> None:
        record, work.record = work.record, msgspec.structs.replace(work.record, adds_sent=99)
        of(self, work)
        work.record = record

    def inherited(self: Any, audits: Any) -> None:
        inherit(self, [msgspec.structs.replace(record, adds_sent=99) for record in audits])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconciler, "add_ended", add_ended)
        patch.setattr(Reconciler, "inherit", inherited)
        yield


@contextlib.contextmanager
def failing_what_is_uncertain() -> Iterator[None]:
    """An add without an answer is given up, and its equal twin is added."""

    def park(self: Any, work: Any) -> None:
        self._settler.settle(work, Outcome.FAILED, reason="no_answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reconciler, "park", park)
        patch.setitem(lifecycle.TABLE, (State.STORED, Event.FAIL), State.FAILED)
        yield


@contextlib.contextmanager
def deleting_copies_of_a_callers_url() -> Iterator[None]:
    """An audit takes every image of that url for one of ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "own_urls", Record.urls)
        yield


@contextlib.contextmanager
def not_reading_the_pack_before_adding_a_url() -> Iterator[None]:
    """Whatever the pack holds, the url is added to it."""

    async def hold(self: Any, pack_id: Any, url: str) -> bool:
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contents, "hold", hold)
        yield


@contextlib.contextmanager
def telling_urls_apart_by_their_spelling() -> Iterator[None]:
    """Two spellings of a url are two images."""

    def literally(url: str) -> bytes:
        return blake3(url.encode()).digest()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deliver, "url_fingerprint", literally)
        yield


MISTAKES: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    mistake.__name__: mistake
    for mistake in (
        adding_again_without_a_lookup,
        committing_stored_after_the_add,
        trusting_an_early_empty_lookup,
        forgetting_audits_at_a_restart,
        deleting_copies_that_people_made,
        failing_what_is_uncertain,
        deleting_copies_of_a_callers_url,
        not_reading_the_pack_before_adding_a_url,
        telling_urls_apart_by_their_spelling,
    )
}
