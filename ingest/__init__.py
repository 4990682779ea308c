"""Puts images into Genviral packs, in bulk, and leaves nothing half done.

    import asyncio
    from ingest import ApiSettings, RunSettings, Settings, run
    from ingest.assemble import source_of

    settings = Settings(
        api=ApiSettings(key="public_id.secret"),
        run=RunSettings(pack="Holiday", create_pack=True),
        journal="holiday.db",
    )
    summary = asyncio.run(run(settings, sources=[source_of("photos")]))
    print(summary.added, summary.error)

`__all__` and `ingest.assemble.source_of` are the public interface, by semantic versioning. Each name is loaded when it
is first asked for: importing the package loads no network, image or command-line code, sets up no logging and handles
no signal.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ingest.api.client import PacksClient
    from ingest.assemble import run
    from ingest.errors import (
        Fatal,
        GaveUp,
        ImageChanged,
        ImageError,
        ImageRejected,
        ImageUnreachable,
        ImageUnreadable,
        IngestError,
        JournalCorrupt,
        JournalInUse,
        JournalNewer,
        MachineError,
        PackUnusable,
        Refused,
        Rejected,
        RequestError,
        Retryable,
        StopError,
        TooManyRejected,
        Uncertain,
        UsageError,
    )
    from ingest.model import FileStamp, Job, Outcome, Summary, SummaryError
    from ingest.settings import ApiSettings, FetchSettings, FlowSettings, ImageSettings, RunSettings, Settings
    from ingest.sources.base import Delivery, NoJob, Source, SourceReport

__all__ = [
    "ApiSettings",
    "Delivery",
    "Fatal",
    "FetchSettings",
    "FileStamp",
    "FlowSettings",
    "GaveUp",
    "ImageChanged",
    "ImageError",
    "ImageRejected",
    "ImageSettings",
    "ImageUnreachable",
    "ImageUnreadable",
    "IngestError",
    "Job",
    "JournalCorrupt",
    "JournalInUse",
    "JournalNewer",
    "MachineError",
    "NoJob",
    "Outcome",
    "PackUnusable",
    "PacksClient",
    "Refused",
    "Rejected",
    "RequestError",
    "Retryable",
    "RunSettings",
    "Settings",
    "Source",
    "SourceReport",
    "StopError",
    "Summary",
    "SummaryError",
    "TooManyRejected",
    "Uncertain",
    "UsageError",
    "run",
]

_HOMES: Final = {
    "PacksClient": "ingest.api.client",
    "run": "ingest.assemble",
    **dict.fromkeys(("FileStamp", "Job", "Outcome", "Summary", "SummaryError"), "ingest.model"),
    **dict.fromkeys(("Delivery", "NoJob", "Source", "SourceReport"), "ingest.sources.base"),
    **dict.fromkeys(
        ("ApiSettings", "FetchSettings", "FlowSettings", "ImageSettings", "RunSettings", "Settings"), "ingest.settings"
    ),
}
# Every other name is an error.


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_HOMES.get(name, "ingest.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
