"""The fault plan: what goes wrong, for which operation, how often; and the file that says so.

Values only: nothing here throws dice, keeps a count or touches a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, get_args

import msgspec

from ingest.sandbox.tomlfile import read_toml

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Concurrency",
    "CutAfter",
    "CutBefore",
    "CutJson",
    "Delay",
    "ErrorAnswer",
    "Fault",
    "FaultPlan",
    "FixedWindow",
    "Hang",
    "Html",
    "Lane",
    "Late",
    "Limit",
    "Operation",
    "Rule",
    "Slow",
    "StaleRead",
    "TokenBucket",
    "load_faults",
]

Operation: TypeAlias = Literal[
    "list_packs",
    "get_pack",
    "create_pack",
    "update_pack",
    "delete_pack",
    "add_image",
    "delete_image",
    "upload_file",
    "list_files",
    "subscription",
    "put",
    "cdn",
]
Lane: TypeAlias = Literal["api", "storage"]

Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
Delay: TypeAlias = float | tuple[float, float]
"""Seconds, or the ends of an interval to draw them from.

Checked by hand: msgspec 0.22 misreads memory on a union of a constrained number and a tuple of fixed length.
"""

Status: TypeAlias = Annotated[int, msgspec.Meta(ge=200, le=599)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """When a fault strikes; what it then does, its subclasses say."""

    operation: Operation | Literal["*"]
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    # Of each matching request, once `after` have passed.

    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    # So many matching requests go unharmed first.

    times: Count | None = None
    # At most so often. None: without end.

    match: str | None = None
    # Only requests whose method, path, query or (API operations) body holds this text, such as one image's URL.


class ErrorAnswer(Rule, frozen=True, tag="error"):
    """An error in the dress of its lane: the envelope from the API, XML from the storage."""

    status: Status = 500
    error_code: str | None = None
    # None: the API's own code for the operation and status, where one is documented.
    retry_after: float | str | None = None
    # Seconds, or any text as it stands (a date, or nonsense).
    effect: bool = False


class Slow(Rule, frozen=True, tag="slow"):
    """The request has its effect at once, and its answer takes `delay_s`."""

    delay_s: Delay

    def __post_init__(self) -> None:
        _check_delay(self.delay_s)


class CutBefore(Rule, frozen=True, tag="cut_before"):
    """The connection is closed, and nothing was done."""


class CutAfter(Rule, frozen=True, tag="cut_after"):
    """The effect takes place, then the connection is closed without an answer."""


class CutJson(Rule, frozen=True, tag="cut_json"):
    """The effect takes place, and the answer has its status but only half of its body."""


class Html(Rule, frozen=True, tag="html"):
    """A page, as a proxy in front would answer."""

    status: Status = 502
    effect: bool = False


class Hang(Rule, frozen=True, tag="hang"):
    """No answer ever; it ends when the client goes, or with `SandboxSettings.hang_s`."""

    effect: bool = False


class Late(Rule, frozen=True, tag="late"):
    """The answer comes first (a `status`, or a closed connection when it is None), the effect `delay_s` later.

    Effects that are still due when the sandbox ends never take place.
    """

    delay_s: Delay
    status: Status | None = None

    def __post_init__(self) -> None:
        _check_delay(self.delay_s)


class StaleRead(Rule, frozen=True, tag="stale_read"):
    """Get pack does not show what was added within the last `within_s`; other operations answer as always."""

    within_s: Seconds


Fault: TypeAlias = ErrorAnswer | Slow | CutBefore | CutAfter | CutJson | Html | Hang | Late | StaleRead


class _Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    lane: Lane
    retry_after: bool = True
    # Whether a refusal tells when to come again.
    headers: bool = False
    # Whether every answer of the lane carries `X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds).


class TokenBucket(_Limit, frozen=True, tag="token_bucket"):
    """`rate` requests a second on average, `burst` of them at once."""

    rate: Annotated[float, msgspec.Meta(gt=0)]
    burst: Count


class FixedWindow(_Limit, frozen=True, tag="fixed_window"):
    """`requests` in each stretch of `window_s`, counted from the first request."""

    requests: Count
    window_s: Annotated[float, msgspec.Meta(gt=0)]


class Concurrency(_Limit, frozen=True, tag="concurrency"):
    """`n` requests at once."""

    n: Count


Limit: TypeAlias = TokenBucket | FixedWindow | Concurrency


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that goes wrong on purpose. A request suffers the first rule that strikes, and passes every limit.

    Limits count for each API key (in the storage: for all uploads together) and are asked before rules.
    """

    seed: int = 0
    # Of the dice: the same requests in the same order meet the same faults.

    rules: tuple[Fault, ...] = msgspec.field(default=(), name="rule")
    limits: tuple[Limit, ...] = msgspec.field(default=(), name="limit")


def _named(kind: type[msgspec.Struct]) -> str:
    """A kind as its table names it, with the keys that only it has."""
    shared = kind.__mro__[1].__struct_fields__  # type: ignore[attr-defined]
    own = ", ".join(name for name in kind.__struct_fields__ if name not in shared)
    return f"{kind.__struct_config__.tag} ({own})" if own else str(kind.__struct_config__.tag)


FAULTS_HINT: Final = (
    'Expected: [[rule]] tables such as operation = "add_image", kind = "cut_after", probability = 0.1, and [[limit]] '
    'tables such as lane = "api", kind = "token_bucket", rate = 10, burst = 20. '
    f"Operations: *, {', '.join(get_args(Operation))}. "
    f"Kinds of rules, with their own keys: {', '.join(map(_named, get_args(Fault)))}; "
    f"of all: {', '.join(Rule.__struct_fields__)}. "
    f"Kinds of limits: {', '.join(map(_named, get_args(Limit)))}; of all: {', '.join(_Limit.__struct_fields__)}; "
    f"lanes: {', '.join(get_args(Lane))}."
)


def _check_delay(delay: Delay) -> None:
    low, high = delay if isinstance(delay, tuple) else (delay, delay)
    if not 0 <= low <= high:
        raise ValueError("delay_s must be a number of seconds, or two with the smaller one first")


def load_faults(path: Path) -> FaultPlan:
    """The plan in a TOML file of `[[rule]]` and `[[limit]]` tables; SandboxFileError says what is wrong with it."""
    return read_toml(path, FaultPlan, hint=FAULTS_HINT)
