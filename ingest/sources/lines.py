"""The lines of a file, a pipe or a terminal, in flat memory however many and however long they are.

Knows bytes and line ends; what a line means is its reader's. Everything blocks and is meant for a thread.
"""

from __future__ import annotations

import itertools
import os
import select
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Iterator

__all__ = ["Line", "beginning", "lines", "stripped"]

_READ_BYTES: Final = 256 * 1024
_ENOUGH_BYTES: Final = 4
# A byte order mark is no longer.

_PATIENCE_MS: Final = 200
# How long a thread may wait for a pipe before it looks whether it is still wanted.


class Line(NamedTuple):
    """One line with its end; `raw` is None where it is longer than wanted. Numbers start at 1, as in an editor."""

    number: int
    raw: bytes | None


def stripped(raw: bytes) -> bytes:
    """A line without its end."""
    return raw.rstrip(b"\r\n")


def beginning(descriptor: int, *, stop: threading.Event) -> Generator[None, None, bytes]:
    """Read the first bytes, enough to tell what they are, and return them; yields whenever it has to wait."""
    begun = b""
    for block in _blocks(descriptor, stop):
        if block is None:
            yield
        else:
            begun += block
            if len(begun) >= _ENOUGH_BYTES:
                break
    return begun


def lines(descriptor: int, *, longest: int, stop: threading.Event, begun: bytes = b"") -> Iterator[Line | None]:
    """Every line that can be read from `descriptor`, which is positioned after `begun`; None whenever it has to wait.

    A line ends with LF, CR LF or CR. One of more than `longest` bytes is passed over as it is read. Ends at the end of
    the file, or when all writers of a pipe have closed it after one had opened it; early once `stop` is set. Raises
    `OSError` as the system does.
    """
    number = 0
    rest = b""  # of a line whose end was not read yet; at most `longest`
    is_skipping = False  # the line that `rest` stood for was too long
    for block in itertools.chain([begun] if begun else [], _blocks(descriptor, stop)):
        if block is None:
            yield None
            continue
        pieces = (rest + block).splitlines(keepends=True)
        # Whether a CR at the very end is an end by itself, the next byte tells.
        rest = pieces.pop() if not pieces[-1].endswith(b"\n") else b""
        for piece in pieces:
            number += 1
            yield Line(number, None if is_skipping or len(piece) > longest else piece)
            is_skipping = False
        if len(rest) > longest:
            # What is left of it can hold its end alone.
            rest, is_skipping = rest[-1:] if rest.endswith(b"\r") else b"", True
    if (rest or is_skipping) and not stop.is_set():
        yield Line(number + 1, None if is_skipping else rest)


def _blocks(descriptor: int, stop: threading.Event) -> Generator[bytes | None, None, None]:
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    while not stop.is_set():
        if not ready.poll(0):
            yield None
            if not ready.poll(_PATIENCE_MS):
                continue
        try:
            block = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:  # another reader of the same pipe was faster
            continue
        if not block:
            return
        yield block
