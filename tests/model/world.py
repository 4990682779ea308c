"""What outlives a process (the server, the disk, the clock), and processes that hold a real pipeline each.

A request is answered, and a commit becomes durable, only when a test says so: between any two of them the process can
be killed. The server holds to the limits of the promise: what it does late it does before the audit's read, and its
reads lag behind by less than a settle delay. Everything in here runs in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import math
import signal
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from blake3 import blake3
from pipeline_model import Model, envelope
from virtual_time import VirtualLoop

from ingest import assemble
from ingest.api.transport import Answer, NoAnswer
from ingest.errors import ImageUnreadable, RequestFailure
from ingest.images.inspect import Inspected
from ingest.journal import rules
from ingest.journal.memory import MemoryJournal
from ingest.model import FileStamp, Fingerprint, Job, Operation, Outcome
from ingest.pipeline import deliver
from ingest.pipeline.stop import Stop
from ingest.policy.lifecycle import OUTCOMES, State
from ingest.policy.spelling import canonical
from ingest.settings import ApiSettings, FetchSettings, FlowSettings, RunSettings, Settings
from ingest.sources.base import Delivery, SourceReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ingest.api.transport import Call
    from ingest.journal.changes import Change
    from ingest.journal.records import Opening, Record
    from ingest.model import JobId, Summary
    from ingest.pipeline.run import Pipeline

__all__ = ["POSSIBLE", "SETTLE_S", "UNCERTAIN", "Fate", "PendingJournal", "Process", "Request", "World"]

SETTLE_S: Final = 10.0

LAG_S: Final = 3.0
# How far a read may lag behind: less than a settle delay.

LATE_S: Final = 4.0
# An effect that lands this late is there at the first lookup, even if that one lags.

VERY_LATE_S: Final = 14.0
# This one is not, but at the audit, which is due two settle delays after the first add: 14 + 3 < 2 * 10.

FLOW: Final = FlowSettings(
    concurrency=3,
    max_attempts=3,
    settle_delay_s=SETTLE_S,
    give_up_after_s=None,
    drain_timeout_s=5.0,
    backoff_base_s=0.5,
    backoff_cap_s=2.0,
)

ADD, READ, DELETE = Operation.ADD_IMAGE, Operation.GET_PACK, Operation.DELETE_IMAGE
UPLOAD, PUT = Operation.UPLOAD_FILE, Operation.PUT_FILE


class Place(NamedTuple):
    """One url in one pack, in whichever spelling: a minted one is one job's, a caller's may be several jobs'."""

    pack_id: str
    url: str

    @classmethod
    def of(cls, pack_id: str, url: str) -> Place:
        return cls(pack_id, canonical(url))


URLS: Final = ("https://pics.test/(0)", "https://pics.test/%280%29", "https://pics.test/1")
"""What callers name; the first two are one."""


class Fate(enum.Enum):
    """What becomes of one request."""

    DONE = "done"
    LOST_BEFORE = "no answer, no effect"
    LOST_AFTER = "no answer, but the effect"
    LOST_LATE = "no answer, and the effect comes later"
    LOST_VERY_LATE = "no answer, and the effect comes after the first lookup"
    UNSENT = "no connection"
    ERROR_BEFORE = "500, no effect"
    ERROR_AFTER = "500, but the effect"
    ERROR_LATE = "500, and the effect comes later"
    BUSY_AFTER = "503 with Retry-After, but the effect"
    THROTTLED = "429"
    PAGE_BEFORE = "a proxy's page, no effect"
    PAGE_AFTER = "a proxy's page, but the effect"
    REFUSED = "422, or from the storage 403"
    STALE = "an answer as of a moment ago"


ANY: Final = frozenset(
    {Fate.DONE, Fate.LOST_BEFORE, Fate.LOST_AFTER, Fate.UNSENT, Fate.ERROR_BEFORE, Fate.ERROR_AFTER, Fate.THROTTLED}
    | {Fate.PAGE_BEFORE, Fate.PAGE_AFTER}
)
POSSIBLE: Final = {
    ADD: ANY | {Fate.LOST_LATE, Fate.LOST_VERY_LATE, Fate.ERROR_LATE, Fate.BUSY_AFTER, Fate.REFUSED},
    READ: ANY | {Fate.STALE},
    DELETE: ANY,
    UPLOAD: ANY | {Fate.REFUSED},
    PUT: ANY | {Fate.REFUSED},
    Operation.LIST_PACKS: ANY,
}
EFFECT_AFTER: Final = {
    Fate.DONE: 0.0,
    Fate.LOST_AFTER: 0.0,
    Fate.ERROR_AFTER: 0.0,
    Fate.PAGE_AFTER: 0.0,
    Fate.BUSY_AFTER: 0.0,
    Fate.LOST_LATE: LATE_S,
    Fate.ERROR_LATE: LATE_S,
    Fate.LOST_VERY_LATE: VERY_LATE_S,
}
SILENT: Final = {Fate.LOST_BEFORE, Fate.LOST_AFTER, Fate.LOST_LATE, Fate.LOST_VERY_LATE, Fate.UNSENT}
UNCERTAIN: Final = POSSIBLE[ADD] - {Fate.DONE, Fate.UNSENT, Fate.THROTTLED, Fate.REFUSED}
"""How an add may end so that nobody knows its effect."""

NO_EFFECT: Final = {Fate.UNSENT, Fate.THROTTLED, Fate.REFUSED}
"""An add that ends so is known not to have taken effect."""


@dataclass(eq=False)
class Request:
    """One request on its way; its process waits for `answer`."""

    call: Call
    body: bytes
    answer: asyncio.Future[Answer]
    place: Place | None = None  # of an add

    @property
    def operation(self) -> Operation:
        return self.call.operation


@dataclass(eq=False)
class Commit:
    """A change on its way to the disk; its process waits for `done`."""

    work: Callable[[MemoryJournal], Any]
    done: asyncio.Future[Any]


class World:
    """Two packs, a journal on a disk, some files and URLs, and at most one process at a time."""

    def __init__(self, journal: type[PendingJournal] | None = None) -> None:
        self.now = 1000.0
        self.server = Model()
        self.packs = [self.server.add_pack("first"), self.server.add_pack("second")]
        self.disk = MemoryJournal()
        self.files: dict[tuple[str, str], tuple[int, int]] = {}  # (pack, path) to (content, mtime)
        self.links: dict[tuple[str, str | None, str], None] = {}  # (pack, id, url), in order
        self.held: set[Place] = set()  # what packs held before
        self.process: Process | None = None
        self.journal = journal or PendingJournal
        self.landing: list[tuple[float, Callable[[], None]]] = []
        self.history: dict[str, list[tuple[float, list[tuple[str, str]]]]] = {}
        self.effects: Counter[Place] = Counter()  # adds that took effect
        self.deleted: Counter[Place] = Counter()
        self.copied: Counter[Place] = Counter()  # copies that a person made
        self.coming: Counter[Place] = Counter()  # adds whose effect came, or comes, after their answer
        self.unrefuted: Counter[Place] = Counter()  # adds that have, or may yet take, effect
        self.bound: set[Place] = set()  # where an effect comes after the first lookup
        self.violations: list[str] = []
        self._stamps = 0

    # What people do.

    def put_file(self, pack: int, path: str, content: int) -> None:
        self._stamps += 1
        self.files[self.packs[pack].pack_id, path] = (content, self._stamps)

    def name_url(self, pack: int, name: str | None, number: int) -> None:
        """Somebody's list has this URL, for this pack, perhaps under a name of its own."""
        self.links[self.packs[pack].pack_id, name, URLS[number]] = None

    def hold(self, pack: int, number: int) -> None:
        """Long before, somebody put this URL into the pack."""
        place = Place.of(self.packs[pack].pack_id, URLS[number])
        self.packs[pack].images.append((self.server._unique("image"), URLS[number]))
        self.held.add(place)
        self.copied[place] += 1
        self._remember(self.now - 10 * SETTLE_S)

    def copy_by_hand(self, nth: int) -> None:
        """Somebody adds an image of ours once more, behind our back."""
        ours = [(pack, url) for pack in self.packs for url in pack.urls]
        if ours:
            pack, url = ours[nth % len(ours)]
            pack.images.append((self.server._unique("image"), url))
            self.copied[Place.of(pack.pack_id, url)] += 1
            self._remember(self.now)

    def retry_failed(self) -> None:
        for record in self.disk._in({State.FAILED}):
            self.disk._put(rules.retry(record))

    # Time and the server.

    def move_to(self, moment: float) -> None:
        """Let time pass; effects land on the way. The process takes its turn at each of its timers."""
        while True:
            landing = min((at for at, _ in self.landing), default=math.inf)
            timer = self.process.next_timer if self.process else math.inf
            step = min(landing, timer, moment)
            self.now = max(self.now, step)
            due = [effect for at, effect in self.landing if at <= self.now]
            self.landing = [(at, effect) for at, effect in self.landing if at > self.now]
            for effect in due:
                effect()
            if self.process:
                self.process.turn()
            if step >= moment:
                return

    def fates(self, request: Request) -> frozenset[Fate]:
        """What may become of a request within the limits of the promise."""
        place = request.place
        if place in self.bound:
            # An earlier add may have an effect that nobody looks for any more, unless this job is added in the end.
            return frozenset({Fate.DONE, Fate.LOST_BEFORE, Fate.LOST_AFTER, Fate.UNSENT})
        if place is not None and (self.effects[place] or self.coming[place]):
            # A lookup may find that one: then no audit after it would see this effect.
            return POSSIBLE[ADD] - {Fate.LOST_VERY_LATE}
        return POSSIBLE[request.operation]

    def decide(self, request: Request, fate: Fate) -> Answer | NoAnswer:
        """Carry out a request's fate; what its process is told, if it still lives."""
        delay_s = EFFECT_AFTER.get(fate)
        answer: Answer | None = None
        if fate in NO_EFFECT and request.place is not None:
            self.unrefuted[request.place] -= 1
        if fate is Fate.LOST_VERY_LATE and request.place is not None:
            self.bound.add(request.place)
        if fate is Fate.STALE:
            answer = self._stale(request)
        elif delay_s == 0.0:
            answer = self._do(request)
        elif delay_s is not None:
            assert request.place is not None, "only an add is late"
            self.coming[request.place] += 1
            self.landing.append((self.now + delay_s, lambda: self._do(request)))
        if fate in SILENT:
            return NoAnswer("lost", failure=RequestFailure.CONNECT, was_sent=fate is not Fate.UNSENT)
        match fate:
            case Fate.ERROR_BEFORE | Fate.ERROR_AFTER | Fate.ERROR_LATE:
                return envelope(500)
            case Fate.BUSY_AFTER:
                return replace(envelope(503), headers={"Retry-After": "12"})
            case Fate.THROTTLED:
                return envelope(429)
            case Fate.PAGE_BEFORE | Fate.PAGE_AFTER:
                return Answer(status=502, headers={"Content-Type": "text/html"}, body=b"<html>a proxy</html>")
            case Fate.REFUSED:
                return envelope(403 if request.operation is PUT else 422)
            case _:
                assert answer is not None
                return answer

    def _do(self, request: Request) -> Answer:
        gone = self._place_of_image(request) if request.operation is DELETE else None
        answer = self.server._do(request.call, request.body)
        if request.place is not None and answer.status == 201:
            self.effects[request.place] += 1
        if gone is not None:
            self.deleted[gone] += 1
            adds_sent = sum(record.adds_sent for record in self._records_of(gone))
            self.must(self.deleted[gone] < adds_sent, f"a copy of {gone} too many was deleted")
        self._remember(self.now)
        return answer

    def _place_of_image(self, request: Request) -> Place | None:
        image_id = request.call.url.rpartition("/")[2]
        places = (Place.of(pack.pack_id, url) for pack in self.packs for known, url in pack.images if known == image_id)
        return next(places, None)

    def _records_of(self, place: Place) -> list[Record]:
        """The jobs whose adds are adds of this url to this pack."""
        return [record for record in self.disk._records.values() if place_of(record) == place]

    def _stale(self, request: Request) -> Answer:
        """A read as of `LAG_S` ago."""
        now = [(pack, pack.images) for pack in self.packs]
        for pack, images in now:
            before = [seen for at, seen in self.history.get(pack.pack_id, []) if at <= self.now - LAG_S]
            pack.images = before[-1] if before else []
            # What was deleted since is deleted; only what came since may be missing.
            pack.images = [image for image in pack.images if image in images]
        try:
            return self.server._do(request.call, request.body)
        finally:
            for pack, images in now:
                pack.images = images

    def _remember(self, moment: float) -> None:
        for pack in self.packs:
            self.history.setdefault(pack.pack_id, []).append((moment, list(pack.images)))

    # What must hold at every moment.

    def must(self, holds: bool, otherwise: str) -> None:
        """Note a violation; it is raised where the pipeline can't catch it."""
        if not holds:
            self.violations.append(otherwise)

    def request_came(self, request: Request) -> None:
        if (place := request.place) is not None:
            self.unrefuted[place] += 1
            records = self._records_of(place)
            sent = sum(record.adds_sent for record in records)
            self.must(bool(records), f"an add of {place} came before the journal knew it")
            states = sorted({record.state.value for record in records})
            self.must(State.STORED in states, f"an add of {place} came while its jobs were {states}")
            self.must(self.unrefuted[place] <= sent, f"add {self.unrefuted[place]} of {place} is not counted")
            self.must(place not in self.held, f"an add of {place} came, and the pack had it")
        if request.operation is DELETE and (gone := self._place_of_image(request)) is not None:
            is_owed = any(record.audit_is_open for record in self._records_of(gone))
            self.must(is_owed, f"{gone} is to be deleted without an audit")
            is_callers = any(record.url is None for record in self._records_of(gone))
            self.must(not is_callers, f"{gone} is a caller's, and to be deleted")

    def check_end(self) -> None:
        """What must hold once every job has its outcome and nothing is on its way any more."""
        assert not self.landing
        for pack in self.packs:
            records = [record for record in self.disk._records.values() if record.pack_id == pack.pack_id]
            counts = Counter(Place.of(pack.pack_id, url) for url in pack.urls)
            for record in records:
                assert record.state in OUTCOMES, f"job {record.job_id} has no outcome: {record.state}"
                assert not record.audit_is_open, f"job {record.job_id} still owes an audit"
            places: dict[Place, list[Record]] = {place: [] for place in counts if place in self.held}
            for record in records:
                if (place := place_of(record)) is not None:
                    places.setdefault(place, []).append(record)
            assert set(counts) <= set(places), "the pack holds what no job of the journal added"
            for place, jobs in places.items():
                self._check_place(place, jobs, counts[place])
            added = Counter(
                self.server.objects[record.url] for record in records if record.state is State.ADDED and record.url
            )
            assert all(count == 1 for count in added.values()), "equal images were added twice"

    def _check_place(self, place: Place, jobs: list[Record], copies: int) -> None:
        added = [record.job_id for record in jobs if record.state is State.ADDED]
        copied = self.copied[place]
        assert len(added) <= 1, f"jobs {added} are added, and are one image"
        if not added:
            states = [record.state.value for record in jobs]
            assert copies <= copied, f"{place} is in its pack {copies} times, and its jobs are {states}"
            return
        # What lands after the lookup doubles a caller's URL, whose copies nobody deletes.
        is_callers = any(record.url is None for record in jobs)
        told = sum(record.adds_sent for record in jobs) - 1 if is_callers and place in self.bound else 0
        assert copies >= 1, f"job {added[0]} is added, and not in its pack"
        assert copies <= 1 + copied + told, f"job {added[0]} is in its pack {copies} times"


def place_of(record: Record) -> Place | None:
    """What an add of the job adds, and where; None where it could send none."""
    if record.url is None and not record.adds_sent:
        return None
    return Place.of(record.pack_id, record.add_url or "")


class PendingJournal:
    """A `Journal` whose changes become durable when the world says so, in the order in which they were made."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def _queue(self, work: Callable[[MemoryJournal], Any]) -> asyncio.Future[Any]:
        commit = Commit(work, self._process.loop.create_future())
        if not self._process.is_dead:
            self._process.commits.append(commit)
        return commit.done

    async def begin(self, run_id: Any, *, key_id: str, pid: int) -> Opening:
        return await self._queue(lambda disk: disk.begin(run_id, key_id=key_id, pid=pid))

    async def admit(self, run_id: Any, candidates: Any) -> Any:
        return await self._queue(lambda disk: disk.admit(run_id, candidates))

    async def resume(self, run_id: Any, *, after: JobId, limit: int) -> Any:
        return await self._queue(lambda disk: disk.resume(run_id, after=after, limit=limit))

    async def find_equal(self, record: Record, fingerprint: Fingerprint) -> Record | None:
        return await self._queue(lambda disk: disk.find_equal(record, fingerprint))

    def submit(self, change: Change) -> asyncio.Future[Record]:
        return self._queue(lambda disk: disk._apply(change))

    async def end(self, run_id: Any, summary: Summary) -> None:
        await self._queue(lambda disk: disk.end(run_id, summary))


def _at_once(outcome: Any) -> Any:
    """The memory journal's own calls never wait, so that driving them needs no loop."""
    if not asyncio.iscoroutine(outcome):
        return outcome
    try:
        outcome.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the disk waited")


@dataclass(slots=True, kw_only=True)
class Told(Delivery):
    """A delivery that remembers what it was told."""

    told: list[str] = field(default_factory=list)

    async def acknowledge(self, outcome: Outcome, reason: str | None) -> None:
        self.told.append(outcome.value)

    async def release(self) -> None:
        self.told.append("released")


class Files:
    """A source of the world's files, as they are when it is opened, and of its URLs."""

    name = "directory"

    def __init__(self, world: World, batch_size: int) -> None:
        self._world = world
        self._batch_size = batch_size
        self.report = SourceReport()
        self.deliveries: list[Told] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        yield self._batches()

    async def _batches(self) -> AsyncIterator[Sequence[Delivery]]:
        for (pack_id, path), (content, mtime) in sorted(self._world.files.items()):
            stamp = FileStamp(size_bytes=len(_bytes(content)), mtime_ns=mtime)
            self.deliveries.append(Told(job=Job(image=f"/{pack_id}{path}", pack=pack_id), stamp=stamp))
        for pack_id, name, url in self._world.links:
            self.deliveries.append(Told(job=Job(image=url, pack=pack_id, id=name)))
        for start in range(0, len(self.deliveries), self._batch_size):
            yield self.deliveries[start : start + self._batch_size]


def _bytes(content: int) -> bytes:
    return b"image %d" % content


class Process:
    """One run of the real pipeline, from its start to its end or its death."""

    def __init__(self, world: World, *, concurrency: int = 3, batch_size: int = 8) -> None:
        self.world = world
        self.is_dead = False
        self.requests: list[Request] = []
        self.commits: list[Commit] = []
        self.summary: Summary | None = None
        self.problem: BaseException | None = None
        self.next_timer = math.inf
        self.source = Files(world, batch_size)
        self.stop = Stop()
        self._after_death_s = 0.0
        self.loop = VirtualLoop(lambda: world.now + self._after_death_s)
        self.journal = world.journal(self)
        self._main = self.loop.spawn(self._run(concurrency))
        self.turn()

    async def _run(self, concurrency: int) -> None:
        settings = Settings(
            api=ApiSettings(key="tester.secret", base_url="http://api.test/v1"),
            flow=replace(FLOW, concurrency=concurrency),
            run=RunSettings(allow_empty=True),
            fetch=FetchSettings(check_urls=False),
        )
        async with assemble.assembled(settings, stop=self.stop) as pipeline:
            self.summary = await pipeline.run([self.source])
            self._check(pipeline, self.summary)

    def _check(self, pipeline: Pipeline, summary: Summary) -> None:
        settled = summary.added + summary.duplicate + summary.rejected + summary.failed
        assert summary.discovered == settled + summary.pending
        assert pipeline._account.imbalance == 0
        assert all(len(delivery.told) == 1 for delivery in self.source.deliveries[: summary.discovered])

    # The process's own view of the world.

    async def exchange(self, call: Call) -> Answer:
        """The transport."""
        began_at = self.loop.time()
        body = call.body
        if body is not None and not isinstance(body, bytes):
            body = b"".join([piece async for piece in body])
        request = Request(call, body or b"", self.loop.create_future())
        if call.operation is ADD:
            request.place = _place_of(request)
        if not self.is_dead:
            self.requests.append(request)
            self.world.request_came(request)
        try:
            answer = await request.answer
        finally:
            with contextlib.suppress(ValueError):
                self.requests.remove(request)
        if call.sink is not None and answer.status == 200:
            call.sink(answer.body)
            answer = replace(answer, body=b"")
        return replace(answer, began_at=began_at, duration_s=self.loop.time() - began_at)

    async def inspect(self, path: str, _settings: Any, memory: Any) -> Inspected:
        pack_id, _, name = path.removeprefix("/").partition("/")
        found = self.world.files.get((pack_id, f"/{name}"))
        if found is None:
            raise ImageUnreadable("gone", reason="missing")
        content, mtime = found
        body = _bytes(content)
        return Inspected(
            fingerprint=Fingerprint(blake3(body).digest()),
            content_type="image/png",
            stamp=FileStamp(size_bytes=len(body), mtime_ns=mtime),
            body=body,
            memory=memory,
            reserved_bytes=0,
        )

    # What the world does to it.

    @property
    def is_over(self) -> bool:
        return self._main.done()

    def turn(self) -> None:
        """Run to where it waits for an answer, a commit or a timer."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assemble.HttpTransport, "open", lambda *_: contextlib.nullcontext(self))
            patch.setattr(assemble, "opened_journal", lambda *_, **__: contextlib.nullcontext(self.journal))
            patch.setattr(deliver, "inspect", self.inspect)
            sleep_s = self.loop.turn()
        self.next_timer = self.loop.time() + sleep_s
        if self._main.done():
            self.next_timer = math.inf
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            if not self.loop.is_closed():
                self.loop.close()
            if self.world.process is self:
                self.world.process = None
            if not self.is_dead:
                self._main.result()

    def commit(self, count: int | None = None) -> None:
        """The first so many changes are durable."""
        batch = self.commits[:count]
        del self.commits[: len(batch)]
        for commit in batch:
            before = dict(self.world.disk._records)
            try:
                outcome = _at_once(commit.work(self.world.disk))
            except Exception as error:
                if not commit.done.cancelled():
                    commit.done.set_exception(error)
                    commit.done.exception()
                continue
            self._check_outcomes(before)
            if not commit.done.done():
                commit.done.set_result(outcome)
        self.turn()

    def _check_outcomes(self, before: dict[JobId, Record]) -> None:
        for job_id, record in before.items():
            after = self.world.disk._records[job_id]
            if record.state in {State.ADDED, State.DUPLICATE, State.REJECTED}:
                assert after.state is record.state, f"job {job_id} was {record.state} and became {after.state}"

    def answer(self, request: Request, fate: Fate) -> None:
        outcome = self.world.decide(request, fate)
        if isinstance(outcome, NoAnswer):
            request.answer.set_exception(outcome)
        else:
            request.answer.set_result(outcome)
        self.turn()

    def ask_to_stop(self) -> None:
        self.loop.call_soon(self.stop.signalled, signal.SIGTERM)
        self.turn()

    def kill(self, fates: Callable[[Request], Fate]) -> None:
        """SIGKILL. What was not durable is gone; what was sent meets its fate."""
        self.is_dead = True
        self.commits.clear()
        for request in list(self.requests):
            self.world.decide(request, fates(request))
        self.requests.clear()
        self.world.process = None
        # What the interpreter would leave to the system: the tasks end, and reach nobody any more.
        self._main.cancel()
        while not self._main.done():
            self.turn()
            if not self._main.done():
                self._after_death_s += max(self.next_timer - self.loop.time(), 0.001)


def _place_of(request: Request) -> Place:
    pack_id = request.call.url.split("/packs/")[1].partition("/")[0]
    return Place.of(pack_id, str(json.loads(request.body)["image_url"]))
