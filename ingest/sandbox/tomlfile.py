"""Reads a TOML file into a typed value, or says in one or two lines what is wrong with it.

Knows no key and no fault: what a file may hold is the caller's type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SandboxFileError", "read_toml"]

T = TypeVar("T")


class SandboxFileError(ValueError):
    """A file given to the sandbox can't be used; the message names the file, the place in it and what is expected."""


def read_toml(path: Path, expected: type[T], *, hint: str) -> T:
    """The file's content as `expected`; `hint` tells a person what such a file looks like."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SandboxFileError(f"{path}: {error.strerror or error}") from error
    try:
        return msgspec.toml.decode(text, type=expected)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error).replace("\n", " ")
        raise SandboxFileError(f"{path}: {reason}\n{hint}") from error
