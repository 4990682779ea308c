"""Settings: merged once into frozen groups; a part of the program receives its own group only.

Nothing here reads the environment, a file or a clock: the command line does that, and a library's caller fills these
in directly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = [
    "DEFAULT_BASE_URL",
    "MAX_RETRY_AFTER_S",
    "ApiSettings",
    "FetchSettings",
    "FlowSettings",
    "ImageSettings",
    "RunSettings",
    "Settings",
    "WatchSettings",
]

DEFAULT_BASE_URL: Final = "https://www.genviral.io/api/partner/v1"

MIB: Final = 1024 * 1024

MAX_RETRY_AFTER_S: Final = 15 * 60.0
# A quarter of an hour: limits are commonly counted in windows of that or less. What asks for more (a year) is more
# often a mistake, and asking too early costs one refusal.


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Where the Partner API is, and who asks."""

    key: str = field(default="", repr=False)
    # `public_id.secret`. Only the part before the dot may be shown or stored.

    key_file: str | None = None
    # A file that holds the key; read at start and again after a 401, so that a rotated secret heals.

    base_url: str = DEFAULT_BASE_URL
    # No trailing slash. Its normal form is the *target* that jobs belong to.

    timeout_s: float = 60.0
    # Seconds without progress, not for the whole of a large upload on a slow line.


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """How fast, how often, how long."""

    concurrency: int = 64
    # Requests at once in each lane; an upper bound. 64 small answers in flight fill a line 300 ms away at 200 a second.

    rate: float | None = None
    # API requests a second; an upper bound. None: what the server takes.

    max_attempts: int = 8
    # Answers about one job (5xx and the like) before it is `failed`. With full jitter, 8 span half a minute on average.

    settle_delay_s: float = 30.0
    # How long after the end of an add a read of its pack is taken to show its effect.

    give_up_after_s: float | None = 30 * 60.0
    # Awake seconds of asking without any answer before the run ends with 75. None: never.

    max_retry_after_s: float = MAX_RETRY_AFTER_S
    # The longest pause of a lane that a `Retry-After` makes.

    drain_timeout_s: float = 20.0
    # After the first signal: how long what is in hand may take.

    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0
    # Full jitter: uniform in [0, min(cap, base * 2^(failures - 1))].
    # (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """What counts as an image that may be sent."""

    max_bytes: int = 50 * MIB
    # Larger files are `rejected`. The API's own limit is unknown.

    max_memory_bytes: int = 256 * MIB
    # Image bytes held in memory at once, over all jobs.

    stream_over_bytes: int = 4 * MIB
    # Larger files are streamed, both for hashing and for the PUT, and never read whole. Below, one read in one thread
    # hop is cheaper (DESIGN §6: 8 µs direct, 320 µs by aiofiles for 20 KB).


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """What is asked of the hosts of images that are named by a URL, before they are added."""

    check_urls: bool = True
    # Ask each URL for its first bytes: is it there, and an image that packs take? The API itself never looks.

    rehost: bool = False
    # Download the image and upload its bytes, for URLs that will not last; without it the URL itself is added.

    allow_private_hosts: bool = False
    # Whether URLs may lead to private, loopback, link-local and other addresses that are not of the public internet:
    # a manifest of somebody else's must not make this program ask what only this machine can reach.

    timeout_s: float = 60.0
    # Seconds for a check, and for a download without progress. As for the API.

    connect_timeout_s: float = 10.0
    # A host that takes no connection by then is not there for the API either. (curl's happy eyeballs and the retries
    # of a SYN at 1 and 3 s fit into it.)

    max_requests_per_host: int = 8
    # At once. What browsers allow themselves is 6 (Firefox, `network.http.max-persistent-connections-per-server`).

    max_redirects: int = 5
    # Where more come, it is a loop in the end.


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What one run does with the jobs it is given."""

    pack: str | None = None
    # Id or exact name, for jobs that name none.

    create_pack: bool = False
    # Create the pack of that name when there is none in scope.

    duplicates: Literal["skip", "allow"] = "skip"
    # `allow` adds the same bytes, or the same URL, as often as they are named.

    limit: int | None = None
    # At most so many jobs that are not done yet; a first try.

    max_rejected: int | None = None
    # Stop the run when so many jobs are rejected.

    allow_empty: bool = False
    # Whether a run that finds no image is a success; else it is exit 2.

    root: str | None = None
    # The directory that paths in a queue's messages must lie under. None: a message may name URLs only.

    idle_s: float | None = 30.0
    # A queue without a message for so long, while it was asked, is drained. None: never.

    on_fatal: Literal["exit", "wait"] = "exit"
    # When the API refuses the key or plan: `exit` with 3, or `wait`, with nothing sent, until a person has acted.

    is_endless: bool = False
    # The sources have no end and are read in turns; a signal is how the run is meant to end.

    key_rotation_s: float = 120.0
    # How long `exit` waits for a key file to change first: Kubernetes brings a changed Secret into a running container
    # within its sync period of a minute and the time of a cache, and others rotate faster
    # (https://kubernetes.io/docs/concepts/configuration/secret/#using-secrets-as-files-from-a-pod).

    max_open_jobs: int = 10_000
    # Jobs admitted and not settled at once: what bounds memory. At 300 jobs a second it covers a settle delay of 30 s.


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """How directories are watched by a run that serves. Seconds."""

    settle_s: float = 2.0
    # For how long a file must be unchanged before it is taken. A copy over a network pauses for less than that.

    rescan_s: float = 600.0
    # Between two looks over a whole directory whose events are heard: they catch what events missed, which is rare.

    poll_s: float = 5.0
    # The same where there are no events. Either grows with what a look costs: see `sources.watch.SPACING`.


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a run needs to know; see each group."""

    api: ApiSettings = field(default_factory=ApiSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    run: RunSettings = field(default_factory=RunSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    journal: str | None = None
    # Path of the journal. None: a journal in memory, which remembers nothing after the run.
