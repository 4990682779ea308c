"""The `run` and `serve` commands: sources, signals, metrics and the summary around one pipeline.

Decides nothing about jobs; what is shown meanwhile is `progress`'s.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

import anyio

from ingest.api.target import target_of
from ingest.assemble import assembled, connected, source_of, watched
from ingest.cli import configuration, looping, output, progress, standing, values
from ingest.cli.ending import Crashed
from ingest.errors import BUG_EXIT_CODE, IngestError, StopError, UsageError
from ingest.journal.database import TEMPORARY_FILE_SYSTEMS, file_system
from ingest.model import Lane, is_url
from ingest.observe.logging import configure
from ingest.observe.metrics import Metrics
from ingest.observe.text import printable, shown
from ingest.pipeline.stop import Stop
from ingest.sources.addresses import SCHEMES, is_queue, queue_address
from ingest.sources.manifest import STDIN, names_packs

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from ingest.cli.origins import Origins
    from ingest.cli.progress import Display
    from ingest.model import Summary
    from ingest.pipeline.run import Pipeline
    from ingest.settings import Settings
    from ingest.sources.base import Source

__all__ = ["Running", "run", "serve"]

SCOPE_TIMEOUT_S: Final = 3.0
# The scope is told for comfort: a run doesn't wait longer for it.

ENOUGH_SIGNALS: Final = 2
# The first lets what is in hand end, the second ends it; who sends one more wants the process gone.

UNREADABLE_SHOWN: Final = 5

NOT_SHARED: Final = "Several workers here may add an image twice; use --journal postgres://…"
SERVE_PORT: Final = 9464
# As OpenTelemetry's exporters for Prometheus have it, which collectors look for
# (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/, "Prometheus Exporter").


def run(origins: Origins) -> int:
    """Run what `origins` say, print its summary, and return its exit code."""
    settings = configuration.run_settings(origins)
    return _run(origins, settings, _sources(origins, settings), port=None)


def serve(origins: Origins) -> int:
    """Serve the sources that `origins` name until a signal comes, print the summary, and return the exit code."""
    settings = configuration.serve_settings(origins)
    return _run(origins, settings, _endless_sources(origins, settings), port=SERVE_PORT)


def _run(origins: Origins, settings: Settings, sources: Sequence[Source], *, port: int | None) -> int:
    is_json = origins.one("json", values.truth, False)
    host = origins.one("metrics-host", values.text, "127.0.0.1")
    port = origins.one("metrics-port", values.port_or_off, port)
    running = Running(settings, sources, metrics_address=None if port is None else (host, port))
    display = progress.chosen()
    log_format = origins.one("log-format", values.one_of("auto", "console", "json"), "auto")
    # Beside a live display only what is worth a look; what else happens is in the display and in the summary.
    quiet = "warning" if display.is_live else "info"
    level = origins.one("log-level", values.one_of("debug", "info", "warning", "error"), quiet)
    with configure(
        cast("Literal['auto', 'console', 'json']", log_format),
        level,
        display.log_stream,
        secrets=(*configuration.secrets(), *configuration.passwords(origins.many("source"))),
    ) as logs:
        if (kind := _temporary_file_system(settings)) is not None:
            display.say(
                "journal.is_temporary",
                f"The journal lies on a {kind}, which forgets it when the machine restarts: see --journal PATH.",
            )
        if any(map(is_queue, origins.many("source"))):
            display.say("journal.not_shared", NOT_SHARED)
        summary = looping.run(running.run(display, on_secret=logs.register_secret))
    if is_json:
        output.json_line(asdict(summary))
    elif summary.discovered or summary.error is None:
        _print(summary, running.sources)
    if summary.error is not None:
        output.message(summary.error.message, summary.error.hint)
    return summary.exit_code


class Running:
    """One run with what is around it."""

    def __init__(
        self, settings: Settings, sources: Sequence[Source], *, metrics_address: tuple[str, int] | None = None
    ) -> None:
        self.sources = sources
        self._settings = settings
        self._metrics_address = metrics_address
        self._metrics = Metrics()
        self._stop = Stop(is_expected=settings.run.is_endless)

    async def run(self, display: Display, *, on_secret: Callable[[str], None] | None = None) -> Summary:
        """Run until the end or a signal. Raises `StopError` before it began, `Crashed` for a bug in it.

        `on_secret` hears of every key that is read meanwhile.
        """
        asked_to_stop = 0
        pipeline: Pipeline | None = None

        def signalled(number: signal.Signals) -> None:
            nonlocal asked_to_stop
            asked_to_stop += 1
            self._stop.signalled(number)
            if asked_to_stop == 1:
                in_hand = 0 if pipeline is None else pipeline.snapshot().in_hand
                drain_s = self._settings.flow.drain_timeout_s
                display.say("run.interrupted", standing.draining(in_hand, drain_s), in_hand=in_hand)
            elif asked_to_stop > ENOUGH_SIGNALS:
                looping.die_of(number)

        with looping.handling_signals(signalled):
            await self._introduce(display)
            async with (
                assembled(
                    self._settings,
                    metrics=self._metrics,
                    stop=self._stop,
                    on_secret=on_secret,
                ) as pipeline,
                self._served(display, pipeline),
            ):
                return await self._followed(pipeline, display)

    async def _followed(self, pipeline: Pipeline, display: Display) -> Summary:
        summary: Summary | None = None
        problem: Exception | None = None
        async with anyio.create_task_group() as tasks:
            counts = [] if self._settings.run.is_endless else [_count_of(source) for source in self.sources]
            tasks.start_soon(display.follow, pipeline, counts)
            try:
                summary = await pipeline.run(self.sources)
            except Exception as error:  # raised below, in no group
                problem = error
            tasks.cancel_scope.cancel()
        if isinstance(problem, StopError):
            raise problem
        if problem is not None or summary is None:
            raise Crashed(pipeline.summary(BUG_EXIT_CODE)) from problem
        return summary

    async def _introduce(self, display: Display) -> None:
        """Say which target, scope, pack and journal, before anything is done there."""
        facts = {
            "target": target_of(self._settings.api.base_url),
            "scope": await self._scope() if display.is_live else None,
            "pack": self._settings.run.pack,
            "journal": self._settings.journal,
        }
        display.introduce({name: fact for name, fact in facts.items() if fact is not None})

    async def _scope(self) -> str | None:
        """Whose key it is; None where that can't be had quickly. The run itself finds out what is wrong."""
        stop = Stop()
        with self._stop.interrupts(), anyio.move_on_after(SCOPE_TIMEOUT_S), contextlib.suppress(IngestError):
            async with connected(self._settings, metrics=Metrics(), stop=stop) as connection:
                subscription = await connection.client.get_subscription()
                where = subscription.workspace_id
                return f"{subscription.scope} {where}" if where is not None else subscription.scope
        return None

    @contextlib.asynccontextmanager
    async def _served(self, display: Display, pipeline: Pipeline) -> AsyncIterator[None]:
        """Serve metrics while inside, if they are wanted."""
        if self._metrics_address is None:
            yield
            return
        from ingest.observe import http  # noqa: PLC0415 - loads aiohttp's server: 25 ms that most runs can save

        def not_ready() -> str | None:
            if self._stop.is_requested:
                return "stopping"
            refusal = pipeline.snapshot().lanes[Lane.API].refusal
            return None if refusal is None else f"the API refuses this key ({refusal})"

        host, port = self._metrics_address
        async with http.serve(host, port, metrics=self._metrics.render, not_ready=not_ready) as bound:
            display.say("metrics.served", f"Metrics on http://{host}:{bound}/metrics", host=host, port=bound)
            yield


def _sources(origins: Origins, settings: Settings) -> list[Source]:
    """The sources that were named. `UsageError` for one that isn't there, or that this version doesn't take."""
    named, shard = _named(origins, settings), configuration.shard(origins, settings)
    include, exclude = origins.many("include"), origins.many("exclude")
    return [source_of(name, include=include, exclude=exclude, shard=shard, settings=settings) for name in named]


def _endless_sources(origins: Origins, settings: Settings) -> list[Source]:
    """The same for sources without end."""
    named = _named(origins, settings)
    if not named:
        raise UsageError(
            "No source is named.",
            code="usage",
            hint="Name the directories to watch, or queues: `ingest serve DIR --pack NAME`.",
        )
    for name in named:
        if not is_queue(name) and not Path(name).is_dir():
            raise UsageError(
                f"{printable(name)} is no directory or queue, and is done with when it is read once.",
                code="unsupported_source",
                hint=f"Say `ingest run {shlex.quote(printable(name))}`, or name the directory that it lies in.",
            )
    include, exclude = origins.many("include"), origins.many("exclude")
    return [watched(name, settings, include=include, exclude=exclude) for name in named]


def _named(origins: Origins, settings: Settings) -> Sequence[str]:
    named = origins.many("source")
    for name in named:
        _check(name)
    if settings.run.pack is None and not all(is_queue(name) or names_packs(name) for name in named):
        raise UsageError(
            "No pack is named for these images.",
            code="no_pack",
            hint="Say --pack ID or NAME; --create-pack makes it where there is none. See `ingest packs list`.",
        )
    return named


def _check(name: str) -> None:
    told = shown(name)
    if not name.strip():
        raise UsageError(
            "A source is an empty text, which names nothing.",  # and not the current directory, as it does elsewhere
            code="no_such_source",
            hint="Check the variable that should hold it.",
        )
    if is_queue(name):
        queue_address(name)
        return
    if name.lower().startswith(("http://", "https://")):
        raise UsageError(
            f"{told} can't be a source: it is the URL of one image.",
            code="unsupported_source",
            hint="Put it on a line of a manifest (a .txt file, a URL a line), or pipe JSON lines into `ingest run -`.",
        )
    if is_url(name):
        raise UsageError(
            f"{told} can't be a source: directories, image files, manifests and queues can.",
            code="unsupported_source",
            hint="Name a directory, image files, a list of images (.jsonl .csv .txt), or a queue: "
            f"{', '.join(f'{kind}://…' for kind in SCHEMES)}.",
        )
    # Before anything is asked or made: a mistyped path must not leave a new pack behind.
    try:
        if name != STDIN:
            Path(name).stat()
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"{told} can't be read: {problem}.",
            code="no_such_source",
            hint="Check its spelling and its permissions, and that what it lies on is mounted.",
        ) from error
    getattr(source_of(name), "check", lambda: None)()


def _count_of(source: Source) -> Callable[[], Awaitable[int]]:
    async def one() -> int:
        return 1

    return getattr(source, "count", one)


def _temporary_file_system(settings: Settings) -> str | None:
    """The kind of file system under the journal, if a restart empties it."""
    if settings.journal is None:
        return None
    # The directory is made with the journal; until then the one that it will be made in tells.
    place = next((parent for parent in Path(settings.journal).parents if parent.exists()), Path("/"))
    kind = file_system(place)
    return kind if kind in TEMPORARY_FILE_SYSTEMS else None


def _print(summary: Summary, sources: Sequence[Source]) -> None:
    for text in standing.summary_lines(summary):
        output.line(text)
    by_ending: dict[str, int] = {}
    unreadable: list[str] = []
    for source in sources:
        for ending, count in source.report.ignored.items():
            by_ending[ending] = by_ending.get(ending, 0) + count
        unreadable.extend(source.report.unreadable)
    if (told := standing.ignored(by_ending)) is not None:
        output.line(told)
    if elsewhere := sum(source.report.elsewhere for source in sources):
        output.line(f"left to other shards: {elsewhere}")
    for place in unreadable[:UNREADABLE_SHOWN]:
        output.line(f"unreadable: {printable(place)}")
    if len(unreadable) > UNREADABLE_SHOWN:
        output.line(f"unreadable: and {len(unreadable) - UNREADABLE_SHOWN} more places")
    if summary.rejected or summary.failed:
        output.line("See `ingest failures` for the reasons.")
