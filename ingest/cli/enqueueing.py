"""What `enqueue` does: reads sources and publishes what they name, batch by batch, until all of it is confirmed.

Keeps no record of what it did: a job's id makes publishing it again harmless, and so makes going on.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, cast

import anyio
import anyio.to_thread
from blake3 import blake3

from ingest.api.redaction import without_query
from ingest.assemble import sink_of, source_of
from ingest.cli import configuration, looping, output, progress, standing, values
from ingest.errors import UsageError
from ingest.observe.logging import configure, get_logger
from ingest.observe.text import printable
from ingest.settings import FlowSettings
from ingest.sources.addresses import is_queue
from ingest.sources.base import NoJob
from ingest.sources.root import OutsideRoot, Root

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ingest.cli.origins import Origins
    from ingest.cli.progress import Display
    from ingest.model import FileStamp, Job
    from ingest.sources.base import Delivery, Sink, Source

    Publish = Callable[[Sequence[Job]], Awaitable[None]]

__all__ = ["enqueue", "job_id"]

log = get_logger("cli")

TOLD_EVERY_S: Final = 5.0
SHOWN: Final = 5


@dataclass(slots=True, kw_only=True)
class Enqueued:
    """What was done. The fields are the keys of `ingest enqueue --json`."""

    published: int = 0
    refused: int = 0
    unreadable: int = 0
    duration_s: float = 0.0
    exit_code: int = 0


def enqueue(origins: Origins) -> int:
    """Publish what `origins` say, tell how many, and return the exit code."""
    named, to = origins.many("source"), origins.one("to", values.text, None)
    if to is None or not is_queue(to):
        raise UsageError(
            "No queue is named." if to is None else f"{printable(without_query(to))} is no queue.",
            code="bad_queue_url",
            hint="Say --to redis://…, amqp://…, nats://… or sqs://…",
        )
    if not named:
        raise UsageError("No source is named.", code="usage", hint="Name directories or image files.")
    if any(map(is_queue, named)):
        raise UsageError("A queue can't be the source here.", code="unsupported_source", hint="Name files.")
    give_up_after_s = origins.one("give-up-after", values.duration_or_never, FlowSettings().give_up_after_s)
    work = _Work(
        sink_of(to, give_up_after_s=give_up_after_s),
        [source_of(name, include=origins.many("include"), exclude=origins.many("exclude")) for name in named],
        root=Root(origins.one("root", values.text, None)),
        pack=origins.one("pack", values.text, None),
    )
    is_json = origins.one("json", values.truth, False)
    display = progress.chosen()
    with configure(
        cast(
            "Literal['auto', 'console', 'json']",
            origins.one("log-format", values.one_of("auto", "console", "json"), "auto"),
        ),
        origins.one("log-level", values.one_of("debug", "info", "warning", "error"), "info"),
        display.log_stream,
        secrets=(*configuration.secrets(), *configuration.passwords((to,))),
    ):
        looping.run(looping.until_signalled(work.run(display)))
    done = work.done
    if is_json:
        output.json_line(asdict(done))
    else:
        _print(done, work.sources)
    return done.exit_code


class _Work:
    def __init__(self, sink: Sink, sources: Sequence[Source], *, root: Root, pack: str | None) -> None:
        self.sources = sources
        self.done = Enqueued()
        self._sink = sink
        self._root = root
        self._pack = pack

    async def run(self, display: Display) -> None:
        """Publish everything. `UsageError`, `GaveUp`."""
        began_at = told_at = time.monotonic()
        async with self._sink.open() as publish:
            for source in self.sources:
                async with source.open() as batches:
                    async for batch in batches:
                        await self._publish(batch, publish)
                        if time.monotonic() - told_at >= TOLD_EVERY_S:
                            told_at = time.monotonic()
                            display.say(
                                "enqueue.progressed", f"{self.done.published} published", published=self.done.published
                            )
        done = self.done
        done.unreadable = sum(source.report.unreadable_count for source in self.sources)
        done.duration_s = round(time.monotonic() - began_at, 3)
        done.exit_code = 1 if done.refused or done.unreadable else 0
        if not (done.published or done.refused or done.unreadable):
            raise UsageError("No image was found.", code="no_images", hint="Check the path.")

    async def _publish(self, batch: Sequence[Delivery], publish: Publish) -> None:
        jobs = await anyio.to_thread.run_sync(self._jobs, batch)  # resolving paths blocks
        if jobs:
            await publish(jobs)
            self.done.published += len(jobs)

    def _jobs(self, batch: Sequence[Delivery]) -> list[Job]:
        """What is to be published; what can't be is counted and told."""
        jobs: list[Job] = []
        for delivery in batch:
            job = delivery.job
            if isinstance(job, NoJob):
                self._refuse(job.place, job.reason, job.detail)
                continue
            image = job.image if "://" in job.image else self._root.relative(job.image)
            if isinstance(image, OutsideRoot):
                self._refuse(job.image, image.reason, image.detail)
            elif not _is_text(image):
                self._refuse(job.image, "name_not_utf8", "Its name is not UTF-8, which a message has to be.")
            else:
                name = job.file_name if job.file_name is not None and _is_text(job.file_name) else None
                job_with_pack = replace(job, image=image, file_name=name, pack=job.pack or self._pack)
                jobs.append(replace(job_with_pack, id=job.id or job_id(image, delivery.stamp)))
        return jobs

    def _refuse(self, place: str, reason: str, detail: str) -> None:
        self.done.refused += 1
        log.warning("job.unpublished", image=printable(place.partition("?")[0]), reason=reason, detail=detail)


def job_id(image: str, stamp: FileStamp | None) -> str:
    """What makes it the same job next time: the image as the message names it, and its file's size and time of change.

    So a file that changed is another job, and is added beside the old image. Target and pack have no part in it.
    """
    said = image if stamp is None else f"{image}\n{stamp.size_bytes}\n{stamp.mtime_ns}"
    return blake3(said.encode()).hexdigest(length=16)


def _is_text(text: str) -> bool:
    return text.isascii() or text.encode("utf-8", "replace").decode() == text


def _print(done: Enqueued, sources: Sequence[Source]) -> None:
    output.line(f"{done.published} published in {done.duration_s:.1f} s")
    by_ending: dict[str, int] = {}
    for source in sources:
        for ending, count in source.report.ignored.items():
            by_ending[ending] = by_ending.get(ending, 0) + count
    if (told := standing.ignored(by_ending)) is not None:
        output.line(told)
    for source in sources:
        for place in source.report.unreadable[:SHOWN]:
            output.line(f"unreadable: {printable(place)}")
    if done.refused:
        output.line(f"{done.refused} could not be published: see the log.")
