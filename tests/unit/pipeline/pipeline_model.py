"""A Packs API and its storage in memory, which fail or stall where a test says, and a whole pipeline upon them."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.lowlevel
import pytest
from PIL import Image

from ingest import assemble
from ingest.api.transport import Answer, Call, NoAnswer
from ingest.errors import RequestFailure
from ingest.journal.memory import MemoryJournal
from ingest.model import FileStamp, Job, Operation, Outcome
from ingest.pipeline.stop import Stop
from ingest.settings import ApiSettings, FetchSettings, FlowSettings, RunSettings, Settings
from ingest.sources.base import Delivery, SourceReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from pathlib import Path

    from ingest.journal.base import Journal
    from ingest.journal.changes import Change
    from ingest.journal.records import Record
    from ingest.model import Summary
    from ingest.pipeline.run import Pipeline
    from ingest.pipeline.settle import Settlement

BASE = "http://api.test/v1"

Do: TypeAlias = Callable[[], Answer]
Step: TypeAlias = Callable[[Call, Do], Awaitable[Answer]]
"""What becomes of one request; `Do` is what would have become of it."""

FLOW = FlowSettings(
    concurrency=4,
    max_attempts=3,
    settle_delay_s=0.05,
    give_up_after_s=None,
    drain_timeout_s=10.0,
    backoff_base_s=0.001,
    backoff_cap_s=0.01,
)

FETCH = FetchSettings(check_urls=False)
"""The hosts of URLs are no part of the model: whoever means them says so."""


def envelope(status: int, data: Any = None, *, error_code: str | None = None, **headers: str) -> Answer:
    content = {"ok": data is not None, "code": status, "message": "as documented"}
    if data is not None:
        content["data"] = data
    if error_code is not None:
        content["error_code"] = error_code
    return Answer(status=status, headers=headers, body=json.dumps(content).encode())


# Steps.


def refused(
    status: int, error_code: str | None = None, *, retry_after: str | None = None, effect: bool = False
) -> Step:
    async def step(_call: Call, do: Do) -> Answer:
        if effect:
            do()
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        return replace(envelope(status, error_code=error_code), headers=headers)

    return step


def page(status: int, *, effect: bool = False) -> Step:
    async def step(_call: Call, do: Do) -> Answer:
        if effect:
            do()
        return Answer(status=status, headers={"Content-Type": "text/html"}, body=b"<html>a proxy</html>")

    return step


def silence(*, effect: bool = False, was_sent: bool = True, failure: RequestFailure = RequestFailure.CONNECT) -> Step:
    async def step(_call: Call, do: Do) -> Answer:
        if effect:
            do()
        raise NoAnswer("the connection was lost", failure=failure, was_sent=was_sent)

    return step


class Stall:
    """Answers when told to; `came` is set when the request has come, `gone` when its client gave it up."""

    def __init__(self, then: Step | None = None) -> None:
        self.came = anyio.Event()
        self.go = anyio.Event()
        self.gone = anyio.Event()
        self._then = then

    async def __call__(self, call: Call, do: Do) -> Answer:
        self.came.set()
        try:
            await self.go.wait()
        except BaseException:
            self.gone.set()
            raise
        return do() if self._then is None else await self._then(call, do)


class Late:
    """No answer; the effect comes when the test says `land`."""

    def __init__(self) -> None:
        self._effects: list[Do] = []

    async def __call__(self, _call: Call, do: Do) -> Answer:
        self._effects.append(do)
        raise NoAnswer("the connection was lost", failure=RequestFailure.CONNECT, was_sent=True)

    def land(self) -> None:
        while self._effects:
            self._effects.pop(0)()


@dataclass
class ModelPack:
    pack_id: str
    name: str
    images: list[tuple[str, str]] = field(default_factory=list)  # id and url, in order
    is_public: bool = False
    is_ours: bool = True

    @property
    def urls(self) -> list[str]:
        return [url for _, url in self.images]


class Model:
    """The server, as a `Transport`."""

    def __init__(self) -> None:
        self.packs: dict[str, ModelPack] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[Operation] = []
        self.reads: list[tuple[float, float]] = []  # beginning and end of each Get pack
        self.adds: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self.expires_in_s = 600.0
        self.read_takes_s = 0.0
        self.normalised: Callable[[str], str] = lambda url: url
        self._tickets: dict[str, str] = {}
        self._next: defaultdict[Operation, deque[Step | None]] = defaultdict(deque)
        self._always: dict[Operation, Step] = {}
        self._number = 0
        self._packs_made = 0

    def add_pack(self, name: str = "Motivation", **fields: Any) -> ModelPack:
        self._packs_made += 1
        pack = ModelPack(pack_id=f"pack-{self._packs_made}", name=name, **fields)
        self.packs[pack.pack_id] = pack
        return pack

    def next(self, operation: Operation, *steps: Step | None) -> None:
        """The next requests of this kind meet these steps; None: nothing goes wrong."""
        self._next[operation].extend(steps)

    def always(self, operation: Operation, step: Step | None) -> None:
        if step is None:
            self._always.pop(operation, None)
        else:
            self._always[operation] = step

    def count(self, operation: Operation) -> int:
        return self.log.count(operation)

    async def exchange(self, call: Call) -> Answer:
        began_at = time.monotonic()
        self.log.append(call.operation)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await anyio.lowlevel.checkpoint()
            body = call.body
            if body is not None and not isinstance(body, bytes):
                body = b"".join([piece async for piece in body])
            if call.operation is Operation.ADD_IMAGE:
                self.adds[json.loads(body or b"")["image_url"]] += 1
            queue = self._next[call.operation]
            step = queue.popleft() if queue else self._always.get(call.operation)

            def do() -> Answer:
                return self._do(call, body or b"")

            answer = do() if step is None else await step(call, do)
        finally:
            self.in_flight -= 1
            if call.operation is Operation.GET_PACK:
                self.reads.append((began_at, time.monotonic()))
        if call.sink is not None and answer.status == 200:
            try:
                call.sink(answer.body)
            except ValueError as error:
                raise NoAnswer(str(error), failure=RequestFailure.UNREADABLE, was_sent=True, status=200) from error
            answer = replace(answer, body=b"")
        return replace(answer, began_at=began_at, duration_s=self.read_takes_s)

    def _do(self, call: Call, body: bytes) -> Answer:  # one case an endpoint
        parts = urlsplit(call.url)
        path = parts.path.removeprefix("/v1").strip("/").split("/")
        pack = self.packs.get(path[1]) if len(path) > 1 else None
        is_ours = pack is not None and pack.is_ours
        not_found = envelope(404, error_code="not_found")
        match call.operation:
            case Operation.LIST_PACKS:
                return self._list(parse_qs(parts.query))
            case Operation.CREATE_PACK:
                made = self.add_pack(json.loads(body)["name"])
                return envelope(201, _shown(made))
            case Operation.GET_PACK:
                return envelope(200, _shown(pack)) if pack and (pack.is_ours or pack.is_public) else not_found
            case Operation.ADD_IMAGE:
                if not is_ours or pack is None:
                    return not_found
                url = self.normalised(json.loads(body)["image_url"])
                pack.images.append((self._unique("image"), url))
                return envelope(201, {"id": pack.images[-1][0], "url": url})
            case Operation.DELETE_IMAGE:
                if not is_ours or pack is None:
                    return envelope(404, error_code="pack_not_found")
                kept = [image for image in pack.images if image[0] != path[3]]
                if len(kept) == len(pack.images):
                    return envelope(404, error_code="image_not_found")
                pack.images = kept
                return envelope(200, {"id": path[3], "deleted": True})
            case Operation.UPLOAD_FILE:
                name = self._unique("file")
                ticket = f"http://storage.test/{name}?signature={name}"
                self._tickets[ticket] = url = f"http://cdn.test/{name}"
                content_type = json.loads(body)["contentType"]
                return envelope(
                    201,
                    {"uploadUrl": ticket, "url": url, "contentType": content_type, "expiresIn": self.expires_in_s},
                )
            case Operation.PUT_FILE:
                self.objects[self._tickets[call.url]] = body
                return Answer(status=200, headers={})
            case _:
                raise NotImplementedError(call.operation)

    def _list(self, query: dict[str, list[str]]) -> Answer:
        search = query.get("search", [""])[0].lower()
        limit, offset = int(query.get("limit", ["20"])[0]), int(query.get("offset", ["0"])[0])
        with_public = query.get("include_public", ["true"])[0] == "true"
        hits = [
            pack
            for pack in self.packs.values()
            if search in pack.name.lower() and (pack.is_ours or (pack.is_public and with_public))
        ]
        shown = [_shown(pack) for pack in hits[offset : offset + limit]]
        return envelope(200, {"packs": shown, "total": len(hits), "limit": limit, "offset": offset})

    def _unique(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self._number}"


def _shown(pack: ModelPack) -> dict[str, Any]:
    return {
        "id": pack.pack_id,
        "name": pack.name,
        "image_count": len(pack.images),
        "is_public": pack.is_public,
        "images": [{"id": image_id, "url": url} for image_id, url in pack.images],
    }


# The journal.


class ScriptedJournal(MemoryJournal):
    """Tells of commits only when told to (`hold`), fails from some change on (`failure`), and keeps their order."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Change] = []
        self.held: dict[type, anyio.Event] = {}
        self.failure: Callable[[Change], Exception | None] = lambda _: None
        self.ends = 0

    def hold(self, kind: type) -> anyio.Event:
        """Changes of this kind become durable when the event is set."""
        return self.held.setdefault(kind, anyio.Event())

    def submit(self, change: Change) -> Any:
        error = self.failure(change)
        if error is not None:

            def fail() -> Record:
                raise error

            return self._done(fail)
        self.changes.append(change)
        done = super().submit(change)
        event = self.held.get(type(change))
        if event is None or event.is_set():
            return done
        return _Later(event, done)

    async def end(self, run_id: Any, summary: Summary) -> None:
        self.ends += 1
        await super().end(run_id, summary)

    def records(self) -> list[Record]:
        return list(self._records.values())

    def kinds(self) -> list[str]:
        return [type(change).__name__ for change in self.changes]


class _Later:
    def __init__(self, event: anyio.Event, done: Awaitable[Record]) -> None:
        self._event = event
        self._done = done

    def __await__(self) -> Any:
        yield from self._event.wait().__await__()
        return (yield from self._done.__await__())


# Sources.


@dataclass(slots=True, kw_only=True)
class Tracked(Delivery):
    """A delivery that remembers what it was told."""

    told: list[str] = field(default_factory=list)

    async def acknowledge(self, outcome: Outcome, reason: str | None) -> None:
        self.told.append(outcome.value)

    async def release(self) -> None:
        self.told.append("released")


class ListSource:
    """Hands over what it was given, in batches."""

    name = "file"

    def __init__(self, deliveries: Iterable[Tracked], *, batch_size: int = 256) -> None:
        self.deliveries = list(deliveries)
        self.report = SourceReport()
        self._batch_size = batch_size

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[Delivery]]]:
        yield self._batches()

    async def _batches(self) -> AsyncIterator[Sequence[Delivery]]:
        for start in range(0, len(self.deliveries), self._batch_size):
            yield self.deliveries[start : start + self._batch_size]


def named(*paths: Path, pack: str | None = None) -> list[Tracked]:
    """Deliveries of these files, with their stamps."""
    deliveries = []
    for path in paths:
        seen = path.stat()
        stamp = FileStamp(size_bytes=seen.st_size, mtime_ns=seen.st_mtime_ns)
        deliveries.append(Tracked(job=Job(image=str(path), pack=pack), stamp=stamp))
    return deliveries


def linked(*urls: str, pack: str | None = None, **fields: Any) -> list[Tracked]:
    """Deliveries of these URLs."""
    return [Tracked(job=Job(image=url, pack=pack, **fields)) for url in urls]


def picture(number: int) -> bytes:
    """A small PNG; another one for every number."""
    file = io.BytesIO()
    colour = (number % 256, number // 256 % 256, number // 65536 % 256)
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


def pictures(folder: Path, count: int, *, kinds: int | None = None, start: int = 0) -> list[Path]:
    """Files of so many kinds of content (None: each another)."""
    paths = []
    contents = {number: picture(number) for number in range(start, start + min(count, kinds or count))}
    for number in range(start, start + count):
        path = folder / f"{number:05}.png"
        path.write_bytes(contents[start + (number - start) % len(contents)])
        paths.append(path)
    return paths


# The whole.


class System:
    """A pipeline upon a model, put together by `assemble`; every run of it has the same journal."""

    def __init__(self, model: Model, journal: Journal | None = None, *, key: str = "tester.secret") -> None:
        self.model = model
        self.journal = journal or ScriptedJournal()
        self.api = ApiSettings(key=key, base_url=BASE)
        self.stop = Stop()
        self.settled: list[Settlement] = []

    @contextlib.asynccontextmanager
    async def assembled(
        self, *, flow: FlowSettings = FLOW, run: RunSettings | None = None, fetch: FetchSettings = FETCH
    ) -> AsyncIterator[Pipeline]:
        """A pipeline for one run. `stop` is its own; without a pack the model's first one is meant."""
        run = run or RunSettings()
        if run.pack is None:
            run = replace(run, pack=next(iter(self.model.packs), None))
        self.stop = Stop(is_expected=run.is_endless)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assemble.HttpTransport, "open", lambda *_: contextlib.nullcontext(self.model))
            patch.setattr(assemble, "opened_journal", lambda *_, **__: contextlib.nullcontext(self.journal))
            settings = Settings(api=self.api, flow=flow, run=run, fetch=fetch)
            async with assemble.assembled(settings, stop=self.stop, on_settled=self.settled.append) as pipeline:
                yield pipeline

    async def run(
        self,
        *sources: ListSource,
        flow: FlowSettings = FLOW,
        run: RunSettings | None = None,
        fetch: FetchSettings = FETCH,
    ) -> Summary:
        """One run to its end; the sums are checked."""
        async with self.assembled(flow=flow, run=run, fetch=fetch) as pipeline:
            summary = await pipeline.run(sources)
            check(pipeline, summary)
            return summary


def check(pipeline: Pipeline, summary: Summary) -> None:
    """`discovered = added + duplicate + rejected + failed + pending`, counted twice."""
    settled = summary.added + summary.duplicate + summary.rejected + summary.failed
    assert summary.discovered == settled + summary.pending
    assert pipeline._account.imbalance == 0


async def until(holds: Callable[[], bool]) -> None:
    """Return as soon as it holds; the test's own timeout is the deadline."""
    while not holds():
        await anyio.sleep(0.001)
