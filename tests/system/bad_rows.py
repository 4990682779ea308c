"""Fifty kinds of bad rows of a manifest in JSON Lines, each with the reason for which it is refused."""

from __future__ import annotations

from typing import Final

__all__ = ["BAD_ROWS", "TAKEN"]

TAKEN: Final = "taken"
"""An id that a good row has, for another image."""

BAD_ROWS: Final[tuple[tuple[bytes, str], ...]] = (
    # No JSON.
    (b"a.jpg", "bad_row"),
    (b"{", "bad_row"),
    (b'{"image": "a.jpg"', "bad_row"),
    (b'{"image": "a.jpg}', "bad_row"),
    (b'{"image": "a.jpg"}}', "bad_row"),
    (b'{"image": "a.jpg"},', "bad_row"),
    (b'{"image": "a.jpg",}', "bad_row"),
    (b'{"image" "a.jpg"}', "bad_row"),
    (b"{'image': 'a.jpg'}", "bad_row"),
    (b"{image: a.jpg}", "bad_row"),
    (b'{"image": "a.jpg"} # said', "bad_row"),
    (b'// {"image": "a.jpg"}', "bad_row"),
    (b'{"image": "a.jpg"}{"image": "b.jpg"}', "bad_row"),
    (b'{"image": "\\x41.jpg"}', "bad_row"),
    (b'{"image": "\\ud83d"}', "bad_row"),
    (b'{"image": "a\tb.jpg"}', "bad_row"),
    (b'{"image": "a\0b.jpg"}', "bad_row"),
    (b"\0", "bad_row"),
    (b'{"image": NaN}', "bad_row"),
    (b'{"image": "\xff.jpg"}', "bad_row"),
    (b'{"image": "caf\xe9.jpg"}', "bad_row"),
    (b'{"image": "a.jpg", "x": "\xc3"}', "bad_row"),
    (b"image,pack", "bad_row"),
    (b"<image>a.jpg</image>", "bad_row"),
    # JSON, but no object.
    (b"null", "bad_row"),
    (b"true", "bad_row"),
    (b"17", "bad_row"),
    (b'"a.jpg"', "bad_row"),
    (b'["a.jpg"]', "bad_row"),
    (b'[{"image": "a.jpg"}]', "bad_row"),
    # Too much.
    (b'{"image": "a.jpg", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "bad_row"),
    (b'{"image": "a.jpg", "x": "' + b"y" * 70_000 + b'"}', "bad_row"),
    (b"z" * 1_000_000, "bad_row"),
    # An object, but no image.
    (b"{}", "no_image"),
    (b'{"pack": "P"}', "no_image"),
    (b'{"Image": "a.jpg"}', "no_image"),
    (b'{"image": null}', "no_image"),
    (b'{"image": ""}', "bad_image"),
    (b'{"image": "  "}', "bad_image"),
    (b'{"image": 17}', "bad_image"),
    (b'{"image": ["a.jpg"]}', "bad_image"),
    (b'{"image": {"url": "a.jpg"}}', "bad_image"),
    (b'{"image": "a\\u0000b.jpg"}', "bad_image"),
    (b'{"image": "' + b"y" * 9000 + b'"}', "bad_image"),
    # An image, and another field that is wrong.
    (b'{"image": "000.jpg", "pack": 7}', "bad_pack"),
    (b'{"image": "000.jpg", "pack": ""}', "bad_pack"),
    (b'{"image": "000.jpg", "pack": "Nobody\'s"}', "unknown_pack"),
    (b'{"image": "000.jpg", "file_name": ["n"]}', "bad_file_name"),
    (b'{"image": "000.jpg", "id": 17}', "bad_id"),
    (b'{"image": "other.jpg", "id": "' + TAKEN.encode() + b'"}', "id_taken"),
)
