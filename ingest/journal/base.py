"""The seam between the pipeline and its durable memory: the Protocols that every store keeps.

Nothing here stores anything: `sqlite` and `memory` do, by the rules of `rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping, Sequence, Set

    from ingest.journal.changes import Change
    from ingest.journal.records import Admission, Candidate, Opening, PackRecord, Record, Refusal, RunRecord, Selection
    from ingest.model import Fingerprint, JobId, PackId, RunId, Stretch, Summary
    from ingest.policy.lifecycle import State

__all__ = ["Journal", "JournalEditor", "JournalMender", "JournalReader", "JournalRecall", "JournalRefusals"]


class Journal(Protocol):
    """What a run writes. One process at a time; every method may be called from many tasks.

    Calls take effect in the order in which they are made. What `submit` and the others give back is done when the
    commit that holds it is durable; cancelling the wait does not take it back. `MachineError` when the store can't be
    written: nothing later is accepted then, and nothing before is lost.
    """

    async def begin(self, run_id: RunId, *, key_id: str, pid: int) -> Opening:
        """Start a run: claims of dead processes are freed, `stored` jobs are parked."""
        ...

    async def admit(self, run_id: RunId, candidates: Sequence[Candidate]) -> Sequence[Admission]:
        """Admit and claim, in one commit; one admission a candidate, in order. Again is harmless."""
        ...

    async def resume(self, run_id: RunId, *, after: JobId, limit: int) -> Sequence[Record]:
        """Claim the next pending jobs with a number over `after`, lowest first; empty at the end."""
        ...

    async def find_equal(self, record: Record, fingerprint: Fingerprint) -> Record | None:
        """Another job that has, or may get, these bytes into this pack: `added` if there is one, else an open one."""
        ...

    def submit(self, change: Change) -> asyncio.Future[Record]:
        """Record a change; the future holds the job as it then is. `IllegalTransition` for what can't happen."""
        ...

    async def end(self, run_id: RunId, summary: Summary) -> None:
        """End a run: claims are put back; returns when all that was submitted is durable."""
        ...


class JournalRecall(Protocol):
    """What a run asks about whole directories, so that most files of a second run need no admission each.

    The same object as the run's `Journal`, and in the same order with its calls.
    """

    async def unchanged(
        self, pack_id: PackId, stretches: Sequence[Stretch], *, key_id: str | None = None
    ) -> Sequence[Set[str]]:
        """The names in each stretch that `Journal.admit` would call `Known` with `duplicate`, by an equal stamp.

        It may leave some of them out, and never names another one. Where it names any, the key sees the pack, as it
        would by their admission; nothing else is written. `key_id` is as in `Candidate`.
        """
        ...


class JournalRefusals(Protocol):
    """What a run tells of deliveries that are no jobs, so that they are listed until they are mended.

    The same object as the run's `Journal`, and in the same order with its calls.
    """

    async def refuse(self, refusals: Sequence[Refusal]) -> Sequence[bool]:
        """Keep these, in one commit; for each, in order, whether that is news: unknown there, or for another reason.

        One takes the place of what was known of its source and place. Again is harmless.
        """
        ...

    async def mended(self, run_id: RunId, source: str, *, retells: Callable[[str], bool]) -> int:
        """The source was read to its end: drop what it refused before this run and not in it; how many.

        Only of places for which `retells`, which is called in another thread, holds.
        """
        ...


class JournalMender(Protocol):
    """What a comparison with the packs reads and changes: between runs, on the journal that the next run will have.

    The same object as the run's `Journal`, so that the writer's lock is held from the first read to the run's end.
    Nothing changes between two calls but by `submit`, whose promises are the `Journal`'s; reading begins no run.
    """

    async def packs(self) -> Mapping[PackId, str]:
        """Every pack that jobs were admitted for, latest first, with the public part of a key that sees it.

        It is the latest key that saw the pack, or another one of its scope.
        """
        ...

    async def page(self, pack_id: PackId, state: State, *, after: JobId, limit: int) -> Sequence[Record]:
        """The next jobs of a pack in `state` with a number over `after` whose image it may hold; empty at the end.

        These have a minted url, or an add of their own URL may have been sent.
        """
        ...

    def submit(self, change: Change) -> asyncio.Future[Record]:
        """See `Journal.submit`."""
        ...


class JournalReader(Protocol):
    """What commands read. Takes no lock, blocks, and may run beside a writer in another process."""

    def packs(self) -> Sequence[PackRecord]:
        """Every pack with its counts by state."""
        ...

    def records(self, selection: Selection) -> Iterator[Record]:
        """The selected jobs by number, streamed."""
        ...

    def runs(self, limit: int) -> Sequence[RunRecord]:
        """The last runs, latest first."""
        ...

    def oldest_pending(self) -> float | None:
        """When the oldest job that is not settled was admitted, in Unix seconds."""
        ...

    def refusals(self, reason: str | None) -> Iterator[Refusal]:
        """What was refused as no job, by source and place, streamed; for one reason, or any."""
        ...


class JournalEditor(Protocol):
    """What people change by hand, under the writer's lock."""

    def retry(self, selection: Selection) -> int:
        """Make `failed` jobs (or the states selected) pending again with their attempts reset; how many."""
        ...

    def forget(self, selection: Selection) -> tuple[int, int]:
        """Drop pending jobs; how many went, and how many stay because an add of theirs may have been sent."""
        ...
