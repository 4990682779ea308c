"""Files for the benchmarks: JPEGs as far as structure goes, each with bytes of its own, of exactly the wanted size.

Decodes and encodes nothing: what lies in the scan is noise with every 0xFF stuffed, as in a real one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["fill", "picture"]

HEAD: Final = (
    b"\xff\xd8"
    b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    b"\xff\xdb\x00\x43\x00" + bytes(range(1, 65)) + b"\xff\xc0\x00\x0b\x08\x01\x00\x01\x00\x01\x01\x11\x00"
    b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
)
END: Final = b"\xff\xd9"

NOISE_BYTES: Final = 1 << 20
# More than that is the same noise again.


def picture(size_bytes: int) -> bytes:
    """One JPEG of that size."""
    room = size_bytes - len(HEAD) - len(END)
    noise = os.urandom(min(room, NOISE_BYTES)).replace(b"\xff", b"\xfe")
    repeated = (noise * (room // len(noise) + 1))[:room]
    return HEAD + repeated + END


def fill(folder: Path, count: int, size_bytes: int) -> Path:
    """Make `folder` with `count` pictures in it, none equal to another."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"picture-{number:06}.jpg").write_bytes(picture(size_bytes))
    return folder
