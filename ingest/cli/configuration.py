"""What was given for a command, as the frozen groups that the program understands.

The defaults are those of `ingest.settings`; this adds where the journal lies, who asks and where.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast
from urllib.parse import unquote

from ingest.cli import values
from ingest.errors import UsageError
from ingest.settings import (
    DEFAULT_BASE_URL,
    ApiSettings,
    FetchSettings,
    FlowSettings,
    ImageSettings,
    RunSettings,
    Settings,
    WatchSettings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ingest.cli.origins import Origins
    from ingest.sources.shard import Shard

__all__ = ["api_settings", "journal_path", "passwords", "run_settings", "secrets", "serve_settings", "shard"]

WITH_URLS: Final = ("INGEST_SOURCE", "INGEST_TO")
PASSWORD: Final = re.compile(r"://[^/?#\s:]*:([^/\s]+)@")
SHORTEST_SECRET: Final = 4

FETCH, FLOW, IMAGES, RUN, WATCH = FetchSettings(), FlowSettings(), ImageSettings(), RunSettings(), WatchSettings()


def run_settings(origins: Origins) -> Settings:
    """Everything that a run needs to know that ends with its sources."""
    return _settings(
        origins,
        give_up_after_s=FLOW.give_up_after_s,
        run=replace(
            _run_settings(origins, on_fatal=RUN.on_fatal),
            limit=origins.one("limit", values.whole_number(minimum=1), RUN.limit),
            allow_empty=origins.one("allow-empty", values.truth, RUN.allow_empty),
            idle_s=origins.one("idle", values.duration_or_never, RUN.idle_s),
        ),
    )


def serve_settings(origins: Origins) -> Settings:
    """Everything that a run needs to know that goes on for ever: whatever ends it by itself is off where it is not
    asked for, and what speaks of the whole of its sources has no meaning.
    """
    settings = _settings(
        origins,
        give_up_after_s=None,
        run=replace(_run_settings(origins, on_fatal="wait"), idle_s=None, is_endless=True),
    )
    return replace(
        settings, watch=WatchSettings(settle_s=origins.one("settle-files", values.duration_s, WATCH.settle_s))
    )


def _settings(origins: Origins, *, give_up_after_s: float | None, run: RunSettings) -> Settings:
    return Settings(
        api=api_settings(origins),
        flow=FlowSettings(
            concurrency=origins.one("concurrency", values.whole_number(minimum=1, maximum=1024), FLOW.concurrency),
            rate=origins.one("rate", values.number(minimum=0, is_open=True), FLOW.rate),
            max_attempts=origins.one("max-attempts", values.whole_number(minimum=1), FLOW.max_attempts),
            settle_delay_s=origins.one("settle-delay", values.duration_s, FLOW.settle_delay_s),
            give_up_after_s=origins.one("give-up-after", values.duration_or_never, give_up_after_s),
            drain_timeout_s=origins.one("drain-timeout", values.duration_s, FLOW.drain_timeout_s),
        ),
        images=ImageSettings(
            max_bytes=origins.one("max-bytes", values.size_bytes, IMAGES.max_bytes),
            max_memory_bytes=origins.one("max-memory", values.size_bytes, IMAGES.max_memory_bytes),
        ),
        fetch=FetchSettings(
            check_urls=origins.one("check-urls", values.truth, FETCH.check_urls),
            rehost=origins.one("rehost", values.truth, FETCH.rehost),
            allow_private_hosts=origins.one("allow-private-hosts", values.truth, FETCH.allow_private_hosts),
            timeout_s=origins.one("timeout", values.positive_duration_s, FETCH.timeout_s),
        ),
        run=run,
        journal=str(journal_path(origins)),
    )


def _run_settings(origins: Origins, *, on_fatal: Literal["exit", "wait"]) -> RunSettings:
    return RunSettings(
        pack=origins.one("pack", values.text, RUN.pack),
        create_pack=origins.one("create-pack", values.truth, RUN.create_pack),
        duplicates=cast(
            "Literal['skip', 'allow']", origins.one("duplicates", values.one_of("skip", "allow"), RUN.duplicates)
        ),
        root=origins.one("root", values.text, RUN.root),
        max_rejected=origins.one("max-rejected", values.whole_number(minimum=1), RUN.max_rejected),
        on_fatal=cast("Literal['exit', 'wait']", origins.one("on-fatal", values.one_of("exit", "wait"), on_fatal)),
    )


def shard(origins: Origins, settings: Settings) -> Shard | None:
    """The part of the sources that is meant; None for all. `UsageError` where every part would make its own pack."""
    found = origins.one("shard", values.shard(os.environ.get("JOB_COMPLETION_INDEX")), None)
    if found is not None and settings.run.create_pack:
        raise UsageError(
            "--shard and --create-pack don't go together: every shard would make a pack of its own.",
            code="shard_creates_packs",
            hint="Make the pack first: `ingest packs create NAME`.",
        )
    return found


def api_settings(origins: Origins) -> ApiSettings:
    """Where the API is and who asks. The key has no flag: other users of the machine would see it in `ps`."""
    return ApiSettings(
        key=os.environ.get("GENVIRAL_API_KEY", "").strip(),
        key_file=os.environ.get("GENVIRAL_API_KEY_FILE") or None,
        base_url=_base_url() or DEFAULT_BASE_URL,
        timeout_s=origins.one("timeout", values.positive_duration_s, ApiSettings().timeout_s),
    )


def _base_url() -> str | None:
    """The base URL that the environment names, if it does. `UsageError` for an empty one: it must not mean the real API
    where somebody else's was meant.
    """
    named = os.environ.get("GENVIRAL_BASE_URL")
    if named is not None and not named.strip():
        raise UsageError(
            "GENVIRAL_BASE_URL is empty.",
            code="bad_base_url",
            hint="Set it to the URL of the Packs API, or unset it for the real one.",
        )
    return named and named.strip()


def journal_path(origins: Origins) -> Path:
    """Where the journal lies: by default in the user's state directory."""
    given = origins.one("journal", _path, None)
    if given is not None:
        return given
    import platformdirs  # noqa: PLC0415 - not for --help and --version

    return platformdirs.user_state_path("ingest", appauthor=False) / "journal.db"


def secrets(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What must never be shown: the key, its part after the dot by itself, and the passwords of queues."""
    keys = [environment.get("GENVIRAL_API_KEY", "").strip()]
    if path := environment.get("GENVIRAL_API_KEY_FILE"):
        with contextlib.suppress(OSError):  # whoever needs the key says so
            keys.append(Path(path).read_text(encoding="utf-8", errors="replace").strip())
    return (
        *(part for key in keys if key for part in (key, key.partition(".")[2]) if part),
        *passwords((*sys.argv, *(environment.get(name, "") for name in WITH_URLS))),
    )


def passwords(texts: Iterable[str]) -> Iterator[str]:
    """Those in the URLs of queues, as written there and as meant."""
    for password in (found[1] for text in texts for found in PASSWORD.finditer(text)):
        # Shorter ones, and the one that everybody knows, would only make holes in what is told.
        if len(password) >= SHORTEST_SECRET and password != "guest":  # noqa: S105
            yield from {password, unquote(password)}


def _path(given: str) -> Path:
    if "://" in given or not given:
        raise ValueError("the path of a file")
    return Path(given).absolute()
