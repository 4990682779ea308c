"""What a sandbox is told at its start.

Reads no environment and opens nothing: the command line and tests fill this in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ingest.sandbox.faults import FaultPlan, load_faults
from ingest.sandbox.keys import ApiKey, load_keys
from ingest.sandbox.tomlfile import SandboxFileError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SandboxFileError", "SandboxSettings"]

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """The whole of it; every default serves a person who wants to try something out."""

    host: str = "127.0.0.1"
    port: int = 0
    # 0: a free one, told by `RunningSandbox.url`.

    data: Path | None = None
    # A folder for the database and the uploaded bytes; made when missing. None: memory, gone at the end.

    keys: tuple[ApiKey, ...] = ()
    # Who may ask. Keys can be added while it runs, by `POST /sandbox/keys`.

    faults: FaultPlan = field(default_factory=FaultPlan)
    # What goes wrong on purpose. Replaced while it runs by `PUT /sandbox/faults`.

    enrich: bool = True
    # False: every image stays `pending`, and the processor belongs to the requests.

    enrich_delay_s: float = 1.0
    # From the add to the first look at the image.

    upload_expires_s: int = 600
    # How long an upload URL is good for (API.md: 600).

    max_upload_bytes: int = 100 * MIB
    # Larger uploads get `EntityTooLarge`. The real maximum is unknown.

    hang_s: float = 600.0
    # How long a fault that never answers keeps its connection, unless the client goes first.

    @classmethod
    def from_files(cls, *, keys_file: Path | None = None, faults_file: Path | None = None) -> SandboxSettings:
        """Settings with the keys and faults of two TOML files; SandboxFileError when one can't be used."""
        return cls(
            keys=() if keys_file is None else load_keys(keys_file),
            faults=FaultPlan() if faults_file is None else load_faults(faults_file),
        )
