"""Text to values: sizes, durations, numbers and choices as people write them.

Every parser raises `ValueError` with what it expects ("a size such as 20MB"); none knows where its text came from.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from ingest.sources.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "duration_or_never",
    "duration_s",
    "number",
    "one_of",
    "port_or_off",
    "positive_duration_s",
    "shard",
    "size_bytes",
    "text",
    "truth",
    "whole_number",
]

_UNITS_BYTES: Final = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
    **{prefix: 1000**power for power, prefix in enumerate("kmgt", start=1)},
}
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]*)")

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(?:\d{1,12}(?:\.\d{1,12})?(?:ms|[smhd]))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")

_SHARD: Final = re.compile(r"(auto|[0-9]{1,6})/([0-9]{1,6})")

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


def text(given: str) -> str:
    """The text as it is, if there is any."""
    if not given.strip():
        raise ValueError("some text")
    return given


def truth(given: str) -> bool:
    """true or false, 1 or 0, yes or no, on or off."""
    word = given.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("true or false")
    return word in _TRUE


def size_bytes(given: str) -> int:
    """A size: bytes, or with a unit (20MB, 50MiB, 1.5 GiB)."""
    match = _SIZE.fullmatch(given.strip().lower())
    if match is None or match[2] not in _UNITS_BYTES or (size := int(float(match[1]) * _UNITS_BYTES[match[2]])) < 1:
        raise ValueError("a size such as 20MB or 50MiB")
    return size


def duration_s(given: str) -> float:
    """A duration in seconds: plain seconds, or with units (90s, 30m, 1h30m)."""
    word = given.strip().lower()
    if _DURATION.fullmatch(word):
        return sum(float(count) * _UNITS_S[unit] for count, unit in _PART.findall(word))
    try:
        return number(minimum=0)(word)
    except ValueError:
        raise ValueError("a duration such as 90s, 30m or 2h") from None


def positive_duration_s(given: str) -> float:
    """A duration in seconds, of more than nothing."""
    seconds = duration_s(given)
    if not seconds:
        raise ValueError("a duration of more than 0, such as 90s, 30m or 2h")
    return seconds


def duration_or_never(given: str) -> float | None:
    """A duration of more than nothing, or `never` (None)."""
    if given.strip().lower() == "never":
        return None
    try:
        return positive_duration_s(given)
    except ValueError:
        raise ValueError("a duration such as 90s, 30m or 2h, or never") from None


def whole_number(*, minimum: int = 0, maximum: int | None = None) -> Callable[[str], int]:
    """Parses whole numbers within bounds, both included."""
    expected = f"a whole number from {minimum} to {maximum}" if maximum is not None else f"a whole number, {minimum}+"

    def parse(given: str) -> int:
        try:
            value = int(given)
        except ValueError:
            raise ValueError(expected) from None
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError(expected)
        return value

    return parse


def number(*, minimum: float, is_open: bool = False) -> Callable[[str], float]:
    """Parses finite numbers of at least `minimum`; `is_open` leaves `minimum` itself out."""
    expected = f"a number above {minimum:g}" if is_open else f"a number of at least {minimum:g}"

    def parse(given: str) -> float:
        try:
            value = float(given)
        except ValueError:
            raise ValueError(expected) from None
        if not math.isfinite(value) or value < minimum or (is_open and value == minimum):
            raise ValueError(expected)
        return value

    return parse


def shard(completion_index: str | None) -> Callable[[str], Shard]:
    """Parses a part of the work: its number from 0, and of how many. `auto` is `completion_index`, if there is one."""

    def parse(given: str) -> Shard:
        match = _SHARD.fullmatch(given.strip().lower())
        if match is None:
            raise ValueError("a part such as 0/4, the first of four, or auto/4")
        index, count = match[1], int(match[2])
        if index == "auto":
            if completion_index is None or not completion_index.isdecimal():
                raise ValueError("a number in place of auto where JOB_COMPLETION_INDEX holds none")
            index = completion_index
        if not int(index) < count:
            raise ValueError(f"a part from 0/{count} to {count - 1}/{count}" if count else "one part or more")
        return Shard(int(index), count)

    return parse


def port_or_off(given: str) -> int | None:
    """A port, 0 for any that is free, or `off` (None)."""
    if given.strip().lower() == "off":
        return None
    try:
        return whole_number(maximum=65535)(given)
    except ValueError as error:
        raise ValueError(f"{error}, or off") from None


def one_of(*choices: str) -> Callable[[str], str]:
    """Parses one of a few words, in any case."""
    expected = f"{', '.join(choices[:-1])} or {choices[-1]}"

    def parse(given: str) -> str:
        word = given.strip().lower()
        if word not in choices:
            raise ValueError(expected)
        return word

    return parse
