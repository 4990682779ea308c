"""A local Packs API to try and test against: `async with Sandbox(settings).serve() as running`.

It shares nothing with the rest of `ingest`, least of all the message types of its client: a client and an emulator
that read one table make the same mistake twice. It never talks to another host.
"""

from ingest.sandbox.faults import (
    Concurrency,
    CutAfter,
    CutBefore,
    CutJson,
    ErrorAnswer,
    FaultPlan,
    FixedWindow,
    Hang,
    Html,
    Late,
    Slow,
    StaleRead,
    TokenBucket,
    load_faults,
)
from ingest.sandbox.keys import ApiKey, load_keys
from ingest.sandbox.ledger import LedgerView
from ingest.sandbox.server import RunningSandbox, Sandbox
from ingest.sandbox.settings import SandboxFileError, SandboxSettings

__all__ = [
    "ApiKey",
    "Concurrency",
    "CutAfter",
    "CutBefore",
    "CutJson",
    "ErrorAnswer",
    "FaultPlan",
    "FixedWindow",
    "Hang",
    "Html",
    "Late",
    "LedgerView",
    "RunningSandbox",
    "Sandbox",
    "SandboxFileError",
    "SandboxSettings",
    "Slow",
    "StaleRead",
    "TokenBucket",
    "load_faults",
    "load_keys",
]
