"""What a text names: the source, with or without an end, or the sink of an argument of the command line.

Chooses the class and makes it; `assemble` is where it meets the pipeline.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from ingest.images.formats import looks_like_image
from ingest.journal.database import NETWORK_FILE_SYSTEMS, file_system
from ingest.settings import Settings
from ingest.sources.addresses import is_queue
from ingest.sources.directory import DirectorySource, FileSource
from ingest.sources.manifest import STDIN, ManifestSource, StdinSource, is_manifest
from ingest.sources.queues import queue_sink, queue_source
from ingest.sources.shard import sharded
from ingest.sources.watch import WatchSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.sources.base import Sink, Source
    from ingest.sources.shard import Shard

__all__ = ["sink_of", "source_of", "watched"]

DEAF_FILE_SYSTEMS: Final = NETWORK_FILE_SYSTEMS | {"virtiofs", "vboxsf", "prl_fs", "fakeowner"}
# What other machines, or the host of this one, do there is not told here, nor by most of what has "fuse." before it.


def source_of(
    named: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    shard: Shard | None = None,
    settings: Settings | None = None,
) -> Source:
    """The source that an argument names: a queue, a directory, a manifest, a file, or `-` for stdin.

    `include` and `exclude` are for directories, `settings` (those of the run) for queues; `shard` takes a part of it,
    whatever it is.
    """
    source = _whole(named, include, exclude, settings or Settings())
    return source if shard is None else sharded(source, shard)


def _whole(named: str, include: Sequence[str], exclude: Sequence[str], settings: Settings) -> Source:
    if is_queue(named):
        run = settings.run
        return queue_source(
            named,
            root=run.root,
            has_pack=run.pack is not None,
            idle_s=run.idle_s,
            give_up_after_s=settings.flow.give_up_after_s,
        )
    path = Path(named)
    if named == STDIN:
        return StdinSource()
    if is_manifest(named) and not path.is_dir():
        return ManifestSource(named)
    if path.exists() and not path.is_dir():
        return FileSource(named)
    return DirectorySource(named, include=include, exclude=exclude, sniff=looks_like_image)


def watched(named: str, settings: Settings, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Source:
    """The directory or queue that an argument names, as a source without end."""
    if is_queue(named):
        return source_of(named, settings=settings)
    return WatchSource(
        named, settings.watch, sniff=looks_like_image, sends_events=_sends_events, include=include, exclude=exclude
    )


def _sends_events(root: str) -> bool:
    kind = file_system(Path(root))
    return kind not in DEAF_FILE_SYSTEMS and not kind.startswith("fuse.")


def sink_of(url: str, *, give_up_after_s: float | None) -> Sink:
    """The queue that a URL names, to publish to. `UsageError` for a wrong one."""
    return queue_sink(url, give_up_after_s=give_up_after_s)
