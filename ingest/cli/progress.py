"""What is seen of a run while it goes on: a live display at a terminal, log lines anywhere else.

Reads snapshots and draws; changes nothing about the run and owns no signal.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Protocol, TextIO, cast

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from ingest.cli import output, standing
from ingest.model import Outcome
from ingest.observe.logging import get_logger
from ingest.observe.status import Phase
from ingest.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from rich.progress import Task

    from ingest.observe.status import Snapshot
    from ingest.observe.writer import Stream
    from ingest.pipeline.run import Pipeline

    Count = Callable[[], Awaitable[int]]

__all__ = ["Display", "Lines", "Terminal", "chosen"]

log = get_logger("cli")

REFRESH_S: Final = 0.2
# Often enough to look alive; drawing takes some 2 ms.

TOLD_EVERY_S: Final = 30.0
# A line in a log now and then shows that a run without a terminal is alive.

DOING: Final = {
    Phase.OPENING: "Opening",
    Phase.RUNNING: "Adding",
    Phase.CHECKING: "Checking",
    Phase.DRAINING: "Finishing",
    Phase.ENDED: "Closing",
}


class Display(Protocol):
    """What a run is shown by."""

    @property
    def is_live(self) -> bool:
        """Whether a person looks at a terminal."""
        ...

    @property
    def log_stream(self) -> Stream | None:
        """Where log lines go, so that they don't disturb the display; None: stderr as it is."""
        ...

    def introduce(self, facts: Mapping[str, str]) -> None:
        """Tell what the run works on, by name."""
        ...

    def say(self, event: str, text: str, **data: object) -> None:
        """Tell something that stays: as a line to a person, as `event` with `data` to a log."""
        ...

    async def follow(self, pipeline: Pipeline, counts: Sequence[Count]) -> None:
        """Show the run until cancelled. `counts` say how much the sources hold."""
        ...


def chosen() -> Display:
    """The display for this process's stderr."""
    if not output.is_terminal(sys.stderr):
        return Lines()
    return Terminal(Console(file=cast("TextIO", output.Drawn())))


class Terminal:
    """A progress bar and where the run stands, redrawn in place; what is said goes above it."""

    is_live = True

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
        )
        self._bar = self._progress.add_task(DOING[Phase.OPENING], total=None)

    @property
    def log_stream(self) -> Stream:
        """See `Display.log_stream`."""
        return _Above(self._console)

    def introduce(self, facts: Mapping[str, str]) -> None:
        """See `Display.introduce`."""
        for name, fact in facts.items():
            self._console.print(Text(f"{name.capitalize():<8} {printable(fact)}"), soft_wrap=True)

    def say(self, event: str, text: str, **data: object) -> None:
        """See `Display.say`."""
        self._console.print(Text(printable(text)), soft_wrap=True)

    async def follow(self, pipeline: Pipeline, counts: Sequence[Count]) -> None:
        """See `Display.follow`."""
        live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        with live:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._count, counts)
                try:
                    while True:
                        live.update(self._drawn(pipeline.snapshot()), refresh=True)
                        await anyio.sleep(REFRESH_S)
                finally:
                    live.update(self._drawn(pipeline.snapshot()), refresh=True)

    async def _count(self, counts: Sequence[Count]) -> None:
        total = 0
        for count in counts:
            total += await count()
        self._progress.update(self._bar, total=total)

    def _drawn(self, snapshot: Snapshot) -> Group:
        done = standing.done(snapshot)
        total = self._progress.tasks[self._bar].total
        if total is not None and snapshot.discovered > total:
            total = snapshot.discovered  # files that came after the count
        self._progress.update(self._bar, description=DOING[snapshot.phase], completed=done, total=total)
        not_added = snapshot.outcomes[Outcome.REJECTED] + snapshot.outcomes[Outcome.FAILED]
        told = [
            f"{snapshot.outcomes[Outcome.ADDED]} added, {snapshot.outcomes[Outcome.DUPLICATE]} duplicates, "
            f"{not_added} rejected or failed; {standing.limits(snapshot)}",
            *(trouble.text for trouble in standing.troubles(snapshot, now=time.time())),
        ]
        return Group(self._progress, *(Padding(Text(text), (0, 0, 0, 2)) for text in told))


class Lines:
    """Log lines: troubles as they begin, and now and then how far the run is."""

    is_live = False

    log_stream: Stream | None = None

    def introduce(self, facts: Mapping[str, str]) -> None:
        """See `Display.introduce`."""
        log.bind(**facts).info("run.introduced")

    def say(self, event: str, text: str, **data: object) -> None:
        """See `Display.say`."""
        log.bind(message=text, **data).info(event)

    async def follow(self, pipeline: Pipeline, counts: Sequence[Count]) -> None:
        """See `Display.follow`."""
        known: set[str] = set()
        told_at = time.monotonic()
        told: tuple[object, ...] = ()
        while True:
            snapshot = pipeline.snapshot()
            troubles = standing.troubles(snapshot, now=time.time())
            for trouble in troubles:
                if trouble.event not in known:
                    self.say(trouble.event, trouble.text)
            known = {trouble.event for trouble in troubles}
            if time.monotonic() - told_at >= TOLD_EVERY_S:
                told_at = time.monotonic()
                outcomes = {outcome.value: count for outcome, count in snapshot.outcomes.items()}
                before, told = told, (snapshot.discovered, *outcomes.values())
                if snapshot.pending or told != before:  # else there is nothing to do, perhaps for days
                    text = f"{standing.done(snapshot)} of {snapshot.discovered} done; {standing.limits(snapshot)}"
                    data = {"discovered": snapshot.discovered, "pending": snapshot.pending, **outcomes}
                    self.say("run.progressed", text, **data)
            await anyio.sleep(1.0)


class _Rate(ProgressColumn):
    """Jobs a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:.3g}/s")


class _Above:
    """A stream for log lines that come out above a live display. Used by the log's own thread."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str, /) -> object:
        self._console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=True)
        return len(text)

    def isatty(self) -> bool:
        return True
