"""Whole runs over HTTP and SQLite against a sandbox that misbehaves: every image is in its pack exactly once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import signal
import socket
import sqlite3
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import msgspec
import pytest
from PIL import Image

from ingest import assemble
from ingest.errors import MachineError
from ingest.journal.changes import Stored
from ingest.journal.sqlite import SqliteJournal
from ingest.pipeline.stop import Stop
from ingest.sandbox import (
    ApiKey,
    Concurrency,
    CutAfter,
    CutBefore,
    CutJson,
    ErrorAnswer,
    FaultPlan,
    Hang,
    Html,
    Late,
    LedgerView,
    RunningSandbox,
    Sandbox,
    SandboxSettings,
    Slow,
    StaleRead,
    TokenBucket,
)
from ingest.settings import ApiSettings, FlowSettings, ImageSettings, RunSettings, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ingest.model import Summary
    from ingest.sandbox.faults import Fault

KEY = ApiKey(key="tester.secret")
SAME_SCOPE = ApiKey(key="second.secret")
OTHER_SCOPE = ApiKey(key="stranger.secret", workspace_id="another")

SETTLE_DELAY_S = 0.3
LANDS_S = (0.0, 0.15)
# Late effects and stale reads stay within the settle delay: beyond it nothing is promised.

FLOW = FlowSettings(
    concurrency=8,
    max_attempts=20,
    settle_delay_s=SETTLE_DELAY_S,
    give_up_after_s=None,
    drain_timeout_s=10.0,
    backoff_base_s=0.002,
    backoff_cap_s=0.05,
)

KINDS: dict[str, tuple[Fault, ...]] = {
    "error": (
        ErrorAnswer(operation="*", probability=0.1, status=500),
        ErrorAnswer(operation="*", probability=0.05, status=503, retry_after=0),
    ),
    "error with effect": (ErrorAnswer(operation="*", probability=0.2, status=500, effect=True),),
    "throttled": (ErrorAnswer(operation="*", probability=0.2, status=429, retry_after=0),),
    "refused ticket": (ErrorAnswer(operation="put", probability=0.3, status=403),),
    "cut before": (CutBefore(operation="*", probability=0.2),),
    "cut after": (CutAfter(operation="*", probability=0.2),),
    "cut json": (CutJson(operation="*", probability=0.2),),
    "html": (Html(operation="*", probability=0.15, status=502), Html(operation="*", probability=0.1, status=403)),
    "html with effect": (Html(operation="*", probability=0.2, status=200, effect=True),),
    "hang": (Hang(operation="*", probability=0.03), Hang(operation="add_image", probability=0.1, effect=True)),
    "late": (Late(operation="add_image", probability=0.4, delay_s=LANDS_S),),
    "late with a status": (Late(operation="add_image", probability=0.4, delay_s=LANDS_S, status=500),),
    "stale read": (
        StaleRead(operation="get_pack", probability=0.7, within_s=SETTLE_DELAY_S / 2),
        CutAfter(operation="add_image", probability=0.4),
    ),
    "slow": (Slow(operation="*", probability=0.3, delay_s=(0.0, 0.05)),),
}

EVERYTHING: tuple[Fault, ...] = (
    ErrorAnswer(operation="*", probability=0.04, status=500, effect=True),
    ErrorAnswer(operation="*", probability=0.04, status=503, retry_after=0),
    ErrorAnswer(operation="*", probability=0.03, status=429, retry_after=0),
    ErrorAnswer(operation="put", probability=0.1, status=403),
    CutBefore(operation="*", probability=0.04),
    CutAfter(operation="*", probability=0.06),
    CutJson(operation="*", probability=0.06),
    Html(operation="*", probability=0.04, status=403),
    Html(operation="*", probability=0.04, status=200, effect=True),
    Hang(operation="*", probability=0.01, effect=True),
    Late(operation="add_image", probability=0.2, delay_s=LANDS_S),
    StaleRead(operation="get_pack", probability=0.5, within_s=SETTLE_DELAY_S / 2),
)


@pytest.fixture(autouse=True)
def _short_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.policy.breaker.PROBE_BASE_S", 0.01)
    monkeypatch.setattr("ingest.policy.breaker.PROBE_CAP_S", 0.05)


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256, 77)).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, count: int, *, copies: int = 0, start: int = 0) -> set[str]:
    """So many images, and copies of the first ones; the digests of their contents."""
    folder.mkdir(exist_ok=True)
    contents = [picture(start + number) for number in range(count)]
    for number, content in enumerate([*contents, *contents[:copies]]):
        (folder / f"{start + number:05}.png").write_bytes(content)
    return {hashlib.sha256(content).hexdigest() for content in contents}


class World:
    """A sandbox, a folder of images and a journal."""

    def __init__(self, running: RunningSandbox, session: aiohttp.ClientSession, folder: Path) -> None:
        self.running = running
        self.folder = folder / "photos"
        self.journal = folder / "journal.db"
        self.stop = Stop()
        self._session = session
        self.settings = Settings(
            api=ApiSettings(key=KEY.key, base_url=running.base_url, timeout_s=0.4),
            flow=FLOW,
            run=RunSettings(pack="Motivation", create_pack=True),
            journal=str(self.journal),
        )

    @property
    def ledger(self) -> LedgerView:
        return self.running.ledger()

    async def faults(self, *rules: Fault, limits: tuple[Any, ...] = (), seed: int = 0) -> None:
        plan = FaultPlan(seed=seed, rules=rules, limits=limits)
        async with self._session.put(self.running.url + "/sandbox/faults", data=msgspec.json.encode(plan)) as answer:
            assert answer.status == 200, await answer.text()

    async def key(self, key: ApiKey, **change: Any) -> None:
        body = {"key": key.key, **change}
        async with self._session.post(self.running.url + "/sandbox/keys", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def delete_pack(self) -> None:
        (pack,) = self.ledger.packs
        headers = {"Authorization": f"Bearer {KEY.key}"}
        async with self._session.delete(f"{self.running.base_url}/packs/{pack.id}", headers=headers) as answer:
            assert answer.status == 200

    def using(self, *, key: ApiKey = KEY, flow: dict[str, Any] | None = None, **run: Any) -> Settings:
        settings = self.settings
        return replace(
            settings,
            api=replace(settings.api, key=key.key),
            flow=replace(settings.flow, **(flow or {})),
            run=replace(settings.run, **run),
        )

    async def run(
        self, *folders: Path, settings: Settings | None = None, on_settled=None, is_resumed: bool = False
    ) -> Summary:
        """One run to its end; the sums are checked."""
        settings = settings or self.settings
        self.stop = Stop()
        sources = [] if is_resumed else [assemble.source_of(str(folder)) for folder in folders or [self.folder]]
        async with assemble.assembled(settings, stop=self.stop, on_settled=on_settled) as pipeline:
            summary = await pipeline.run(sources)
            assert pipeline._account.imbalance == 0
        settled = summary.added + summary.duplicate + summary.rejected + summary.failed
        assert summary.discovered == settled + summary.pending
        return summary

    def holds_exactly(self, digests: set[str]) -> None:
        """The pack has each of these once, byte for byte, and nothing else; no key was leaked to the storage."""
        ledger = self.ledger
        (pack,) = ledger.packs
        held = [image.sha256 for image in pack.images]
        assert sorted(map(str, held)) == sorted(digests)
        assert len({image.url for image in pack.images}) == len(held)
        assert ledger.storage_authorizations == 0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    settings = SandboxSettings(keys=(KEY, SAME_SCOPE, OTHER_SCOPE), enrich=False)
    async with Sandbox(settings).serve() as running, aiohttp.ClientSession() as session:
        yield World(running, session, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_goes_wrong_each_image_is_added_once(world: World, kind: str) -> None:
    digests = fill(world.folder, 40, copies=10)
    await world.faults(*KINDS[kind])
    streamed = ImageSettings(stream_over_bytes=64)  # every other kind reads its files piece by piece
    is_streamed = list(KINDS).index(kind) % 2 == 0
    summary = await world.run(settings=replace(world.settings, images=streamed) if is_streamed else None)
    assert (summary.added, summary.duplicate, summary.exit_code) == (40, 10, 0)
    world.holds_exactly(digests)
    assert world.ledger.faults


@pytest.mark.parametrize("seed", range(3))
async def test_when_everything_goes_wrong_each_image_is_added_once(world: World, seed: int) -> None:
    digests = fill(world.folder, 60, copies=15)
    await world.faults(*EVERYTHING, seed=seed)
    summary = await world.run()
    assert (summary.added, summary.duplicate, summary.exit_code) == (60, 15, 0)
    world.holds_exactly(digests)


@pytest.mark.parametrize(
    "limit",
    [
        TokenBucket(lane="api", rate=200, burst=10, retry_after=False),
        Concurrency(lane="api", n=3, retry_after=False),
        Concurrency(lane="storage", n=2, retry_after=False),
    ],
    ids=["rate", "api at once", "storage at once"],
)
async def test_within_limits_each_image_is_added_once(world: World, limit: Any) -> None:
    digests = fill(world.folder, 30)
    await world.faults(limits=(limit,))
    summary = await world.run()
    assert (summary.added, summary.exit_code) == (30, 0)
    world.holds_exactly(digests)


@pytest.mark.parametrize(("seed", "plugs"), [(0, 2), (1, 2), (3, 6)])
async def test_unplugged_again_and_again_each_image_is_added_once(
    world: World, seed: int, plugs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is cancelled at a random request, and nothing is put in order after it."""
    dice = random.Random(seed)
    digests = fill(world.folder, 60, copies=15)
    await world.faults(*EVERYTHING, seed=seed)
    end = SqliteJournal.end

    async def unplugged(*_: Any) -> None:
        """A process that dies ends no run."""

    monkeypatch.setattr(SqliteJournal, "end", unplugged)
    for _ in range(plugs):
        plug = dice.randrange(1, 120)
        with anyio.CancelScope() as scope:
            requests = 0
            exchange = assemble.GatedTransport.exchange

            async def counted(self: Any, call: Any, *, exchange: Any = exchange, plug: int = plug, scope=scope) -> Any:
                nonlocal requests
                requests += 1
                if requests == plug:
                    scope.cancel()
                return await exchange(self, call)

            with monkeypatch.context() as patch:
                patch.setattr(assemble.GatedTransport, "exchange", counted)
                await world.run()
    monkeypatch.setattr(SqliteJournal, "end", end)
    summary = await world.run()
    assert summary.discovered == 75
    if plugs < 3:
        assert summary.added + summary.duplicate == 75
        world.holds_exactly(digests)
        return
    # From the third on jobs run alone, and what dies alone is quarantined.
    with contextlib.closing(sqlite3.connect(world.journal)) as journal:
        failed = journal.execute("SELECT reason FROM jobs WHERE state = 'failed'").fetchall()
        added = journal.execute("SELECT url FROM jobs WHERE state = 'added'").fetchall()
    assert set(failed) <= {("quarantined",)}
    (pack,) = world.ledger.packs
    assert sorted(image.url for image in pack.images) == sorted(url for (url,) in added)
    assert {image.sha256 for image in pack.images} <= digests
    assert len({image.sha256 for image in pack.images}) == len(pack.images)


@pytest.mark.parametrize("seed", range(1))
async def test_stopped_again_and_again_each_image_is_added_once(world: World, seed: int) -> None:
    dice = random.Random(seed)
    digests = fill(world.folder, 60, copies=15)
    await world.faults(*EVERYTHING, seed=seed)
    for _ in range(4):
        left = dice.randrange(1, 10)
        is_hurried = dice.random() < 0.5

        def stopped(_: Any, *, is_hurried: bool = is_hurried) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                world.stop.signalled(signal.SIGTERM)
                if is_hurried:
                    world.stop.signalled(signal.SIGTERM)

        settings = world.using(flow={"drain_timeout_s": dice.choice([0.01, 10.0])})
        summary = await world.run(settings=settings, on_settled=stopped)
        assert summary.exit_code in {0, 143}
    assert (await world.run(is_resumed=True)).exit_code == 0
    assert (await world.run()).exit_code == 0
    world.holds_exactly(digests)


async def test_a_key_revoked_in_the_middle_and_restored(world: World) -> None:
    digests = fill(world.folder, 80)
    settled = 0
    async with anyio.create_task_group() as tasks:

        def revoke(_: Any) -> None:
            nonlocal settled
            settled += 1
            if settled == 10:
                tasks.start_soon(lambda: world.key(KEY, revoked=True))

        summary = await world.run(on_settled=revoke)
    assert (summary.exit_code, summary.failed, summary.rejected) == (3, 0, 0)
    assert summary.error is not None
    assert summary.error.code == "invalid_token"
    assert world.ledger.after_refusal <= FLOW.concurrency + 1
    refused = sum(answers.get("401", 0) for answers in world.ledger.requests.values())
    assert refused <= FLOW.concurrency + 1
    await world.key(KEY, revoked=False)
    summary = await world.run()
    assert (summary.exit_code, summary.added + summary.duplicate) == (0, 80)
    world.holds_exactly(digests)


async def test_another_key_of_the_workspace_adds_nothing_again(world: World) -> None:
    digests = fill(world.folder, 10)
    await world.run()
    summary = await world.run(settings=world.using(key=SAME_SCOPE))
    assert (summary.added, summary.unchanged, summary.exit_code) == (0, 10, 0)
    world.holds_exactly(digests)


async def test_a_key_of_another_workspace_is_refused(world: World) -> None:
    digests = fill(world.folder, 10)
    await world.run()
    fill(world.folder, 5, start=100)
    summary = await world.run(settings=world.using(key=OTHER_SCOPE))
    assert summary.exit_code == 3
    assert summary.error is not None
    assert summary.error.code == "wrong_scope"
    world.holds_exactly(digests)


async def test_a_pack_deleted_in_the_middle_rejects_what_is_left(world: World) -> None:
    fill(world.folder, 200)
    reasons = []
    async with anyio.create_task_group() as tasks:

        def delete(settlement: Any) -> None:
            reasons.append(settlement.reason)
            if len(reasons) == 10:
                tasks.start_soon(world.delete_pack)

        summary = await world.run(on_settled=delete)
    assert summary.exit_code == 1
    assert summary.added + summary.rejected == 200
    assert reasons.count("pack_gone") == summary.rejected > 0
    # Only what was in hand was asked for.
    assert world.ledger.requests["add_image"]["404"] <= 3 * FLOW.concurrency


async def test_as_many_rejections_as_allowed(world: World) -> None:
    fill(world.folder, 20)
    for number in range(400):
        (world.folder / f"a{number:03}.png").write_bytes(b"no image")
    summary = await world.run(settings=world.using(max_rejected=3))
    assert summary.exit_code == 1
    assert 3 <= summary.rejected < 300


async def test_a_limit(world: World) -> None:
    digests = fill(world.folder, 50)
    summary = await world.run(settings=world.using(limit=20))
    assert (summary.added, summary.exit_code) == (20, 0)
    summary = await world.run(settings=world.using(limit=100))
    assert (summary.added, summary.unchanged) == (30, 20)
    world.holds_exactly(digests)


async def test_an_api_that_is_gone_is_given_up(world: World, unused_port: int) -> None:
    fill(world.folder, 5)
    settings = world.using(flow={"give_up_after_s": 0.3})
    dead = replace(settings, api=replace(settings.api, base_url=f"http://127.0.0.1:{unused_port}/v1"))
    summary = await world.run(settings=dead)
    assert (summary.exit_code, summary.discovered) == (75, 0)
    assert summary.error is not None
    assert summary.error.code == "unreachable"


@pytest.fixture
def unused_port() -> int:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_an_api_that_goes_silent_is_given_up_and_continued(world: World) -> None:
    digests = fill(world.folder, 30)
    await world.faults(CutBefore(operation="*", after=40))
    summary = await world.run(settings=world.using(flow={"give_up_after_s": 0.5}))
    assert (summary.exit_code, summary.failed) == (75, 0)
    await world.faults()
    assert (await world.run()).exit_code == 0
    world.holds_exactly(digests)


async def test_a_full_disk_ends_the_run_and_the_next_one_continues(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = fill(world.folder, 40)
    submit, seen = SqliteJournal.submit, 0

    def full(self: Any, change: Any) -> Any:
        nonlocal seen
        seen += isinstance(change, Stored)
        if seen <= 15:
            return submit(self, change)

        def broken(_connection: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        return self._commits.submit(broken)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteJournal, "submit", full)
        summary = await world.run()
    assert summary.exit_code == MachineError.exit_code
    assert (await world.run()).exit_code == 0
    world.holds_exactly(digests)


async def test_two_sources_that_name_the_same_files(world: World) -> None:
    digests = fill(world.folder, 60)
    summary = await world.run(world.folder, world.folder, settings=world.using(flow={"concurrency": 1}))
    assert (summary.discovered, summary.added, summary.duplicate) == (120, 60, 60)
    world.holds_exactly(digests)


async def test_a_folder_and_what_it_lies_in(world: World) -> None:
    digests = fill(world.folder, 40) | fill(world.folder / "inner", 40, start=200)
    summary = await world.run(world.folder / "inner", world.folder)
    assert (summary.discovered, summary.added, summary.duplicate, summary.exit_code) == (120, 80, 40, 0)
    world.holds_exactly(digests)


async def test_a_file_that_is_rewritten_is_another_image(world: World) -> None:
    digests = fill(world.folder, 3)
    await world.run()
    (world.folder / "00001.png").write_bytes(picture(50))
    os.utime(world.folder / "00001.png", ns=(1, 1))
    summary = await world.run()
    assert (summary.added, summary.unchanged) == (1, 2)
    world.holds_exactly(digests | {hashlib.sha256(picture(50)).hexdigest()})


async def test_a_file_that_is_touched_is_the_same_image(world: World) -> None:
    digests = fill(world.folder, 3)
    await world.run()
    os.utime(world.folder / "00001.png", ns=(1, 1))
    summary = await world.run()
    assert (summary.added, summary.duplicate, summary.unchanged) == (0, 3, 2)
    world.holds_exactly(digests)


opened: list[str] = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)


async def test_what_is_unchanged_is_not_opened(world: World) -> None:
    fill(world.folder, 10)
    await world.run()
    opened.clear()
    assert (await world.run()).unchanged == 10
    assert not [path for path in opened if path.endswith(".png")]


async def test_what_failed_is_tried_again_from_its_lookup_on(world: World) -> None:
    digests = fill(world.folder, 5)
    await world.faults(ErrorAnswer(operation="add_image", status=500))
    summary = await world.run(settings=world.using(flow={"max_attempts": 2}))
    assert (summary.failed, summary.exit_code) == (5, 1)
    await world.faults()
    uploads = world.ledger.effects["upload_file"]
    assert (await world.run()).added == 5
    assert world.ledger.effects["upload_file"] == uploads
    world.holds_exactly(digests)


async def test_with_the_least_of_everything_many_equal_files(world: World) -> None:
    digests = fill(world.folder, 3)
    for number in range(300):
        (world.folder / f"copy{number:03}.png").write_bytes(picture(number % 3))
    await world.faults(CutAfter(operation="add_image", times=2), CutBefore(operation="add_image", times=2))
    summary = await world.run(settings=world.using(flow={"concurrency": 1}, max_open_jobs=1))
    assert (summary.added, summary.duplicate, summary.exit_code) == (3, 300, 0)
    world.holds_exactly(digests)
