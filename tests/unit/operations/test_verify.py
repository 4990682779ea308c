"""A comparison beside a pack that a test fills: which reads it believes, and what it does in which order."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ingest.api.messages import ImageRef, PackScan
from ingest.errors import GaveUp, StopError, UsageError
from ingest.journal.changes import Condemned, Parked, Settled, Stored
from ingest.journal.memory import MemoryJournal
from ingest.journal.records import Candidate, Claimed, Inspection
from ingest.model import FileStamp, Fingerprint, Locator, Outcome, PackId, RunId, Summary, SummaryError
from ingest.operations import verify
from ingest.operations.verify import Report, Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from ingest.journal.records import Record

PACK, OTHER = PackId("pack-1"), PackId("pack-2")
RUN = RunId("run-1")
STAMP = FileStamp(size_bytes=10, mtime_ns=1)


def summary(exit_code: int = 0, error: SummaryError | None = None) -> Summary:
    zeros = dict.fromkeys(("discovered", "added", "duplicate", "unchanged", "rejected", "failed", "pending"), 0)
    more = dict.fromkeys(("bytes_uploaded", "requests", "retries", "throttled"), 0)
    return Summary(run_id=RUN, **zeros, **more, duration_s=0.1, exit_code=exit_code, error=error)


@dataclass
class World:
    """A journal, and packs that hold these urls; None stands for a pack out of sight."""

    journal: MemoryJournal = field(default_factory=MemoryJournal)
    packs: dict[PackId, list[str] | None] = field(default_factory=dict)
    behind: list[list[str]] = field(default_factory=list)  # what the next reads show instead
    reads: list[PackId] = field(default_factory=list)
    remembered: list[object] = field(default_factory=list)
    paid: Callable[[World], Summary] = lambda _: summary()
    payments: int = 0
    settle_delay_s: float = 0.0

    def remember(self, packs: Mapping[PackId, str]) -> None:
        self.remembered.append(list(packs.items()))

    async def scan(self, pack_id: PackId, wanted: Container[str]) -> PackScan | None:
        began_at = time.monotonic()
        self.reads.append(pack_id)
        held = self.behind.pop(0) if self.behind else self.packs[pack_id]
        if held is None:
            return None
        found = tuple(ImageRef(image_id=f"image-{n}", url=url) for n, url in enumerate(held) if url in wanted)
        return PackScan(name="P", image_count=len(held), found=found, began_at=began_at, duration_s=0.0)

    async def add(
        self,
        name: str,
        *,
        pack_id: PackId = PACK,
        outcome: Outcome | None = Outcome.ADDED,
        answered: str | None = None,
    ) -> Record:
        locator = Locator(f"/{name}")
        wanted = Candidate(key=locator, pack_id=pack_id, locator=locator, file_name=name, stamp=STAMP)
        (admission,) = await self.journal.admit(RUN, [wanted])
        assert isinstance(admission, Claimed)
        job_id = admission.record.job_id
        seen = Inspection(fingerprint=Fingerprint(bytes([job_id]) * 32), content_type="image/png", stamp=STAMP)
        await self.journal.submit(Stored(job_id=job_id, inspection=seen, url=f"https://cdn.test/{name}"))
        if outcome is not Outcome.ADDED:
            await self.journal.submit(Parked(job_id=job_id, reason="timeout"))
        if outcome is not None:
            answered_url = None if answered is None else f"https://cdn.test/{answered}"
            await self.journal.submit(Settled(job_id=job_id, outcome=outcome, answered_url=answered_url))
        record = self.journal._records[job_id]
        self.packs.setdefault(pack_id, [])
        return record

    def hold(self, *names: str, pack_id: PackId = PACK) -> None:
        self.packs[pack_id] = [f"https://cdn.test/{name}" for name in names]

    def comparison(self) -> Verification:
        async def pay_debts() -> Summary:
            self.payments += 1
            return self.paid(self)

        return Verification(self.journal, self, settle_delay_s=self.settle_delay_s, pay_debts=pay_debts)

    def states(self) -> list[str]:
        return [record.state.value for record in self.journal._records.values()]


@pytest.fixture
async def world() -> World:
    world = World()
    await world.journal.begin(RUN, key_id="key-1", pid=1)
    return world


def told(report: Report) -> list[tuple[str, str, bool]]:
    return [(found.what.value, found.record.file_name, found.is_mended) for found in report.differences]


async def test_packs_are_read_once_each_and_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PAGE", 2)
    for number in range(5):
        await world.add(f"{number}.png")
    await world.add("other.png", pack_id=OTHER)
    world.hold("0.png", "1.png", "1.png", "3.png", "4.png")
    world.hold("other.png", pack_id=OTHER)

    report = await world.comparison().compare()

    assert told(report) == [("doubled", "1.png", False), ("missing", "2.png", False)]
    assert (report.checked, report.packs, report.exit_code, world.reads) == (6, 2, 1, [OTHER, PACK])
    assert world.remembered == [[(OTHER, "key-1"), (PACK, "key-1")]]
    assert (world.states(), world.payments) == (["added"] * 6, 0)


async def test_a_fresh_add_that_a_read_does_not_show_is_looked_for_again(world: World) -> None:
    world.settle_delay_s = 0.3
    await world.add("a.png")
    world.hold("a.png")
    world.behind = [[]]
    began_at = time.monotonic()

    report = await world.comparison().compare()

    assert (told(report), world.reads) == ([], [PACK, PACK])
    assert time.monotonic() - began_at >= 0.3


async def test_an_old_add_that_a_read_does_not_show_is_missing_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add("a.png")
    world.settle_delay_s = 1000.0
    later = time.time() + 2000.0
    monkeypatch.setattr(time, "time", lambda: later)

    assert told(await world.comparison().compare()) == [("missing", "a.png", False)]


async def test_what_nobody_sent_is_not_read_for(world: World) -> None:
    locator = Locator("/a.png")
    wanted = Candidate(key=locator, pack_id=PACK, locator=locator, file_name="a.png", stamp=STAMP)
    (admission,) = await world.journal.admit(RUN, [wanted])
    await world.journal.submit(Settled(job_id=admission.record.job_id, outcome=Outcome.REJECTED, reason="empty"))

    report = await world.comparison().compare()

    assert (report.checked, report.packs, report.exit_code, world.reads) == (0, 1, 0, [])


async def test_a_pack_that_the_journal_does_not_know(world: World) -> None:
    await world.add("a.png")
    with pytest.raises(UsageError, match="no-such-pack"):
        await world.comparison().compare(PackId("no-such-pack"))


async def test_the_journal_knows_every_debt_before_it_is_paid(world: World) -> None:
    await world.add("missing.png")
    await world.add("stray.png", outcome=Outcome.REJECTED)
    await world.add("sound.png")
    world.hold("stray.png", "sound.png")
    states: list[str] = []
    begun: list[int] = []

    def pay(world: World) -> Summary:
        states.extend(world.states())
        return summary()

    world.paid = pay
    report = await world.comparison().repair(on_begin=begun.append)

    assert (begun, states) == ([2], ["parked", "parked", "added"])
    # Nobody paid: neither is mended, though neither differs from what the journal says now.
    assert [found.is_mended for found in report.differences] == [False, False]
    assert report.exit_code == 1


async def test_mended_is_what_is_added_and_there_once(world: World) -> None:
    record = await world.add("missing.png")
    await world.add("late.png", outcome=Outcome.FAILED)
    world.hold("late.png")

    def pay(world: World) -> Summary:
        world.hold("late.png", "late.png", "missing.png")
        for record in world.journal._records.values():
            world.journal.submit(Settled(job_id=record.job_id, outcome=Outcome.ADDED, was_found=True))
        return summary()

    world.paid = pay
    report = await world.comparison().repair()

    # A copy came meanwhile, so the stray is not mended, and there is one difference more.
    assert told(report) == [
        ("missing", "missing.png", True),
        ("stray", "late.png", False),
        ("doubled", "late.png", False),
    ]
    assert record.pack_id == PACK
    assert report.exit_code == 1


async def test_an_image_counts_for_one_job_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs whose adds were answered with another one's image, or with one and the same."""
    monkeypatch.setattr(verify, "PAGE", 2)
    await world.add("late.png", answered="first.png")
    for name in ("first.png", "second.png"):
        await world.add(name)
    for name in ("x.png", "y.png"):
        await world.add(name, answered="shared.jpg")
    world.hold("first.png", "second.png", "shared.jpg")
    states: list[str] = []

    def pay(world: World) -> Summary:
        states.extend(world.states())
        return summary()

    world.paid = pay
    missing = [("missing", "late.png", False), ("missing", "y.png", False)]
    assert told(await world.comparison().compare()) == missing
    assert told(await world.comparison().repair()) == missing
    assert states == ["parked", "added", "added", "added", "parked"]


async def test_a_copy_that_was_deleted_and_is_there_is_a_debt_again(world: World) -> None:
    record = await world.add("a.png")
    await world.journal.submit(Condemned(job_id=record.job_id, image_ids=("image-1",)))
    world.hold("a.png", "a.png")
    is_owed: list[bool] = []

    def pay(world: World) -> Summary:
        is_owed.extend(record.audit_is_open for record in world.journal._records.values())
        world.hold("a.png")
        return summary()

    world.paid = pay
    assert told(await world.comparison().compare()) == [("doubled", "a.png", False)]
    assert told(await world.comparison().repair()) == [("doubled", "a.png", True)]
    assert is_owed == [True]
    assert told(await world.comparison().compare()) == []


async def test_where_nothing_differs_and_nothing_is_owed_nobody_pays(world: World) -> None:
    await world.add("a.png")
    world.hold("a.png")

    assert (await world.comparison().repair()).exit_code == 0
    assert (world.payments, len(world.reads)) == (0, 1)


async def test_what_is_owed_is_paid_though_nothing_differs(world: World) -> None:
    """As a repair leaves it that was killed after it told the journal."""
    await world.add("a.png", outcome=None)

    assert told(await world.comparison().repair()) == []
    assert world.payments == 1


async def test_a_pack_out_of_sight_is_told_and_nothing_there_is_touched(world: World) -> None:
    await world.add("a.png")
    await world.add("b.png", pack_id=OTHER)
    world.packs[PACK] = None
    world.hold("b.png", pack_id=OTHER)

    report = await world.comparison().repair()

    assert (told(report), report.gone, report.exit_code) == ([("missing", "a.png", False)], {PACK}, 1)
    assert (world.states(), world.payments) == (["added", "added"], 0)


@pytest.mark.parametrize(("exit_code", "reads"), [(3, 1), (74, 1), (75, 2)])
async def test_a_payment_that_ended_early_is_told(world: World, exit_code: int, reads: int) -> None:
    await world.add("a.png")
    error = SummaryError(code="code", message="message", hint="hint")
    world.paid = lambda _: summary(exit_code, error)

    report = await world.comparison().repair()

    assert (report.error, report.exit_code, len(world.reads)) == (error, exit_code, reads)
    assert [found.is_mended for found in report.differences] == [False]


async def test_a_last_look_that_fails_is_told_with_what_was_found(world: World) -> None:
    await world.add("a.png")
    scan = world.scan

    async def scan_once(pack_id: PackId, wanted: Container[str]) -> PackScan | None:
        if world.payments:
            raise GaveUp("no answer", code="timeout", hint="again")
        return await scan(pack_id, wanted)

    world.scan = scan_once  # type: ignore[method-assign]
    report = await world.comparison().repair()

    assert (told(report), report.exit_code) == ([("missing", "a.png", False)], 75)
    assert report.error == SummaryError(code="timeout", message="no answer", hint="again")


async def test_a_first_look_that_fails_is_no_report(world: World) -> None:
    await world.add("a.png")

    async def fail(*_: object) -> PackScan | None:
        raise GaveUp("no answer", code="timeout", hint="again")

    world.scan = fail  # type: ignore[method-assign]
    for look in (world.comparison().compare, world.comparison().repair):
        with pytest.raises(StopError, match="no answer"):
            await look()
    assert (world.states(), world.payments) == (["added"], 0)
