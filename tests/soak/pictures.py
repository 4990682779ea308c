"""What random trees are made of: small real pictures, files that are none, and names that are hard on programs.

Writes no file.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import pillow_heif
from PIL import Image

if TYPE_CHECKING:
    import random

__all__ = ["ENDINGS", "NEVER_ENTERED", "ODD_DIRECTORIES", "ODD_STEMS", "picture", "refused"]

pillow_heif.register_heif_opener()

ENDINGS: Final = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "HEIF": "heic"}

ODD_STEMS: Final = (
    b"line\nbreak",
    b"tab\tand \x1b[31mescape",
    b"not \xff\xfe utf-8",
    "umläut é".encode(),
    "umla\u0308ut e\u0301".encode(),
    "画像 🖼".encode(),
    "\u202egnp".encode(),
    b" leading space",
    b"-rf",
    b"$(true) `true` 'quoted' \"twice\"",
    b"100%s %2F %n",
    b"back\\slash",
    b"a=b&c=d#e?f",
    b"x" * 230,
)

ODD_DIRECTORIES: Final = (b"plain", b"new\nline", b"\xe9t\xe9", "дача".encode(), b"-", b"deep/er/still")
NEVER_ENTERED: Final = (b".hidden", b"@eaDir", b"x.photoslibrary")


def picture(dice: random.Random, kind: str, side: int = 16) -> bytes:
    """A picture that is like no other."""
    image = Image.frombytes("RGB", (side, side), dice.randbytes(3 * side * side))
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def refused(dice: random.Random, kind: str) -> bytes:
    """What no pack takes, by any name."""
    whole = picture(dice, kind)
    return dice.choice(
        (
            b"",
            whole[: len(whole) // 2],
            b"no image, whatever its name says",
            b"\0" + dice.randbytes(300),
            b"<html><body>Not found</body></html>",
            picture(dice, "TIFF"),
            picture(dice, "BMP"),
        )
    )
