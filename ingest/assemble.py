"""Settings to a running system: the only place that names concrete classes, and the order in which things wrap.

    PacksClient( GatedTransport( HttpTransport ) )     a request passes its lane's gate and is sent once
    Retrying( PacksClient )                            what failed waits outside the gate, then passes it again
    Guard( Retrying )                                  a refused key is asked about once more, past the gate

Reads no environment and prints nothing.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.api.client import PacksClient
from ingest.api.credentials import Credentials
from ingest.api.environment import tls_context
from ingest.api.target import target_of
from ingest.api.transport import HttpTransport
from ingest.images.fetch import Fetcher
from ingest.images.memory import MemoryBudget
from ingest.journal.database import connect_readonly
from ingest.journal.memory import MemoryJournal
from ingest.journal.sqlite import SqliteJournal
from ingest.model import Lane
from ingest.named import sink_of, source_of, watched
from ingest.observe.metrics import Metrics
from ingest.operations.verify import Verification
from ingest.pipeline.account import Account
from ingest.pipeline.contents import Contents
from ingest.pipeline.deliver import Deliver
from ingest.pipeline.feed import Feed
from ingest.pipeline.fetching import Fetching
from ingest.pipeline.gate import Gate, GatedTransport
from ingest.pipeline.guard import Guard
from ingest.pipeline.packs import Packs
from ingest.pipeline.reconcile import Reconciler
from ingest.pipeline.refuse import Refuser
from ingest.pipeline.retry import Few, Retrying
from ingest.pipeline.run import Pipeline, new_run_id
from ingest.pipeline.scope import Scope
from ingest.pipeline.settle import Settler
from ingest.pipeline.solitude import Solitude
from ingest.pipeline.stop import MaxRejected, Stop
from ingest.pipeline.twins import Twins
from ingest.pipeline.upload import Upload
from ingest.pipeline.view import View
from ingest.pipeline.work import OpenJobs, Tally
from ingest.pipeline.workers import Workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from typing import TypeVar

    from ingest.model import Summary
    from ingest.pipeline.settle import Settlement
    from ingest.settings import Settings
    from ingest.sources.base import Source

    T = TypeVar("T")

__all__ = [
    "Connection",
    "assembled",
    "connected",
    "opened_journal",
    "run",
    "sink_of",
    "source_of",
    "verification",
    "watched",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A client whose requests pass the gates, and what belongs to it."""

    client: PacksClient
    retrying: Retrying
    guard: Guard
    credentials: Credentials
    gates: Mapping[Lane, Gate]
    transport: GatedTransport

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """A command's request: a few tries, then the error itself."""
        return await self.retrying(call, attempts=Few())


@contextlib.asynccontextmanager
async def connected(
    settings: Settings,
    *,
    metrics: Metrics,
    stop: Stop,
    patience_s: float = 0.0,
    on_secret: Callable[[str], None] | None = None,
) -> AsyncIterator[Connection]:
    """Open the lanes to the API and the storage. Sends nothing yet. Raises `UsageError` for a bad key or URL.

    `patience_s` is how long a refused key may be replaced; `on_secret` hears of every key that is read.
    """
    target = target_of(settings.api.base_url)
    credentials = Credentials(settings.api, on_secret=on_secret)
    gates = {
        Lane.API: Gate(Lane.API, settings.flow, rate=settings.flow.rate, recorder=metrics),
        Lane.STORAGE: Gate(Lane.STORAGE, settings.flow, rate=None, recorder=metrics),
    }
    for gate in gates.values():
        _watch(gate, metrics)
    async with HttpTransport.open(settings.api, settings.flow.concurrency) as bare:
        transport = GatedTransport(bare, gates, recorder=metrics)
        past_the_gate = PacksClient(bare, credentials, target)
        guard = Guard(
            gates[Lane.API],
            credentials,
            scope=Scope(past_the_gate, credentials),
            recorder=metrics,
            stop=stop,
            patience_s=patience_s,
        )
        yield Connection(
            client=PacksClient(transport, credentials, target),
            retrying=Retrying(settings.flow, gates, guard, recorder=metrics, sleep=stop.sleep),
            guard=guard,
            credentials=credentials,
            gates=gates,
            transport=transport,
        )


def _patience_s(settings: Settings) -> float:
    """How long a run waits for another key, or for what is amiss with this one."""
    if settings.run.on_fatal == "wait":
        return math.inf
    return settings.run.key_rotation_s if settings.api.key_file and not settings.api.key else 0.0


def _watch(gate: Gate, metrics: Metrics) -> None:
    metrics.watch_lane(
        gate.lane,
        limit=lambda: gate.pacer.rate,
        concurrency=lambda: gate.concurrency,
        in_flight=lambda: gate.in_flight,
    )


@contextlib.asynccontextmanager
async def opened_journal(settings: Settings, *, metrics: Metrics) -> AsyncIterator[SqliteJournal | MemoryJournal]:
    """The journal that the settings name, locked for this process."""
    if settings.journal is None:
        yield MemoryJournal()
        return
    path = Path(settings.journal)
    metrics.watch_journal(free_bytes=lambda: shutil.disk_usage(path.parent).free)
    async with SqliteJournal.open(path, target_of(settings.api.base_url), on_commit=metrics.journal_commit) as journal:
        yield journal


@contextlib.asynccontextmanager
async def assembled(
    settings: Settings,
    *,
    metrics: Metrics | None = None,
    stop: Stop | None = None,
    on_settled: Callable[[Settlement], None] | None = None,
    on_secret: Callable[[str], None] | None = None,
) -> AsyncIterator[Pipeline]:
    """A pipeline ready to run, with its lanes and its journal open."""
    metrics, stop = metrics or Metrics(), stop or Stop(is_expected=settings.run.is_endless)
    async with (
        connected(
            settings, metrics=metrics, stop=stop, patience_s=_patience_s(settings), on_secret=on_secret
        ) as connection,
        opened_journal(settings, metrics=metrics) as journal,
        Fetcher.open(settings.fetch, tls=tls_context) as fetcher,
    ):
        yield _pipeline(settings, connection, journal, fetcher, metrics=metrics, stop=stop, on_settled=on_settled)


def _pipeline(
    settings: Settings,
    connection: Connection,
    journal: SqliteJournal | MemoryJournal,
    fetcher: Fetcher,
    *,
    metrics: Metrics,
    stop: Stop,
    on_settled: Callable[[Settlement], None] | None,
) -> Pipeline:
    """Who knows whom in a run: everything here knows only what stands above it."""
    client, retrying, traffic = connection.client, connection.retrying, connection.transport.traffic
    workers = Workers(settings.flow.concurrency, stop)
    tally, open_jobs, twins = Tally(metrics), OpenJobs(settings.run.max_open_jobs), Twins()
    packs, max_rejected = _packs(settings, connection, stop), MaxRejected(settings.run.max_rejected, stop)
    settler = Settler(
        journal,
        open_jobs,
        tally,
        twins,
        recorder=metrics,
        deliveries=metrics,
        key_id=lambda: connection.credentials.public_id,
        again=workers.give_back,
        on_settled=_told(on_settled, max_rejected),
    )
    reconciler = Reconciler(
        settings.flow,
        client=client,
        retrying=retrying,
        journal=journal,
        packs=packs,
        open_jobs=open_jobs,
        twins=twins,
        settler=settler,
        recorder=metrics,
        again=workers.give_back,
    )
    account = Account(
        run_id=new_run_id(),
        stop=stop,
        tally=tally,
        open_jobs=open_jobs,
        workers=workers,
        reconciler=reconciler,
        retrying=retrying,
        gates=connection.gates,
        traffic=traffic,
        started_at=time.monotonic(),
    )
    feed = Feed(
        settings.run,
        run_id=account.run_id,
        journal=journal,
        recall=journal,
        refuser=Refuser(journal, run_id=account.run_id, tally=tally, deliveries=metrics, on_news=max_rejected.settled),
        packs=packs,
        open_jobs=open_jobs,
        tally=tally,
        twins=twins,
        reconciler=reconciler,
        deliveries=metrics,
        key_id=lambda: connection.credentials.public_id,
        ready=workers.give,
        uncut=stop.uncut,
    )

    def is_outage() -> bool:
        return connection.gates[Lane.API].breaker.is_open

    memory = MemoryBudget(settings.images.max_memory_bytes)
    deliver = Deliver(
        settings,
        client=client,
        retrying=retrying,
        journal=journal,
        packs=packs,
        contents=Contents(client, retrying),
        open_jobs=open_jobs,
        twins=twins,
        solitude=Solitude(),
        memory=memory,
        settler=settler,
        reconciler=reconciler,
        fetching=Fetching(
            settings, fetcher=fetcher, memory=memory, settler=settler, sleep=stop.sleep, is_outage=is_outage
        ),
        upload=Upload(client, retrying, traffic=traffic, recorder=metrics),
        sleep=stop.sleep,
        again=workers.give_back,
        on_stop=stop.because,
        is_outage=is_outage,
    )
    metrics.watch_jobs(
        in_flight=lambda: workers.busy,
        backlog=lambda: tally.pending,
        oldest_pending_unix_s=lambda: account.oldest_pending,
        imbalance=lambda: account.imbalance,
    )
    return Pipeline(
        settings,
        journal=journal,
        credentials=connection.credentials,
        account=account,
        packs=packs,
        twins=twins,
        settler=settler,
        feed=feed,
        deliver=deliver,
        deliveries=metrics,
        recorder=metrics,
    )


def _packs(settings: Settings, connection: Connection, stop: Stop) -> Packs:
    return Packs(
        connection.client,
        connection.retrying,
        connection.guard,
        settle_delay_s=settings.flow.settle_delay_s,
        sleep=stop.sleep,
        turn_away=connection.gates[Lane.API].turn_away,
    )


@contextlib.asynccontextmanager
async def verification(settings: Settings) -> AsyncIterator[Verification]:
    """A comparison of the journal, which must be there, with its packs: locked from here to the end of the block."""
    if settings.journal is not None:
        connect_readonly(Path(settings.journal)).close()
    metrics, stop = Metrics(), Stop()
    async with (
        opened_journal(settings, metrics=metrics) as journal,
        connected(settings, metrics=metrics, stop=stop) as connection,
    ):

        async def pay_debts() -> Summary:
            # Lanes and a stop of its own: what ends the run must not end the look after it.
            metrics, stop = Metrics(), Stop()
            async with (
                connected(settings, metrics=metrics, stop=stop) as connection,
                Fetcher.open(settings.fetch, tls=tls_context) as fetcher,
            ):
                pipeline = _pipeline(
                    settings, connection, journal, fetcher, metrics=metrics, stop=stop, on_settled=None
                )
                return await pipeline.pay_debts()

        yield Verification(
            journal,
            View(
                connection.client,
                connection.retrying,
                _packs(settings, connection, stop),
                give_up_after_s=settings.flow.give_up_after_s,
            ),
            settle_delay_s=settings.flow.settle_delay_s,
            pay_debts=pay_debts,
        )


def _told(on_settled: Callable[[Settlement], None] | None, max_rejected: MaxRejected) -> Callable[[Settlement], None]:
    def tell(settlement: Settlement) -> None:
        if on_settled is not None:
            on_settled(settlement)
        max_rejected.settled(settlement.outcome)

    return tell


async def run(
    settings: Settings,
    *,
    sources: Sequence[Source],
    on_settled: Callable[[Settlement], None] | None = None,
) -> Summary:
    """Drain `sources` into their packs and say what was done.

    Ends with a summary whatever the API does: see `Summary.exit_code` and `Summary.error`. Raises a `StopError` only
    for what keeps a run from beginning (a malformed key, a journal in use). `on_settled` is called in the event loop
    for every job, after its outcome is durable; it must return at once. Cancelling it is like pulling the plug: the
    next run continues.
    """
    async with assembled(settings, on_settled=on_settled) as pipeline:
        return await pipeline.run(sources)
