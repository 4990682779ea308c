"""Small real images, one of each kind, made with the libraries that people make theirs with."""

from __future__ import annotations

import io
import struct
from functools import cache

import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
if hasattr(pillow_heif, "register_avif_opener"):
    pillow_heif.register_avif_opener()


def picture(size: tuple[int, int] = (48, 32), shade: int = 0) -> Image.Image:
    gradient = bytes(
        (x * 5 + y * 3 * channel + shade) % 256 for y in range(size[1]) for x in range(size[0]) for channel in (1, 2, 3)
    )
    return Image.frombytes("RGB", size, gradient)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def thumbnail() -> bytes:
    return saved(picture((16, 12)), "JPEG")


@cache
def jpeg_with_thumbnail() -> bytes:
    """A JPEG whose EXIF segment holds a whole JPEG: with an end marker long before the picture begins."""
    plain = saved(picture(), "JPEG")
    payload = b"Exif\0\0" + b"MM\0*" + b"\0\0\0\x08" + bytes(6) + thumbnail()
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + plain[2:]


@cache
def taken() -> dict[str, tuple[str, bytes]]:
    """Content type and bytes by a name for the sample."""
    frames = [picture(shade=shade) for shade in (0, 60, 120)]
    animated = {"save_all": True, "append_images": frames[1:]}
    alpha = picture().convert("RGBA")
    heif = io.BytesIO()
    pillow_heif.from_pillow(picture()).save(heif)
    return {
        "jpeg": ("image/jpeg", saved(picture(), "JPEG")),
        "jpeg progressive": ("image/jpeg", saved(picture(), "JPEG", progressive=True)),
        "jpeg thumbnail": ("image/jpeg", jpeg_with_thumbnail()),
        "jpeg grey": ("image/jpeg", saved(picture().convert("L"), "JPEG", quality=30)),
        "png": ("image/png", saved(picture(), "PNG")),
        "apng": ("image/png", saved(frames[0], "PNG", **animated)),
        "gif": ("image/gif", saved(picture(), "GIF")),
        "gif animated": ("image/gif", saved(frames[0], "GIF", **animated)),
        "webp": ("image/webp", saved(picture(), "WEBP")),
        "webp lossless": ("image/webp", saved(alpha, "WEBP", lossless=True)),
        "webp animated": ("image/webp", saved(frames[0], "WEBP", **animated)),
        "heic": ("image/heic", heif.getvalue()),
        "heif": ("image/heif", as_plain_heif(heif.getvalue())),
    }


def as_plain_heif(heic: bytes) -> bytes:
    """The same file under the generic brand alone."""
    size = int.from_bytes(heic[:4], "big")
    return heic[:8] + b"mif1" + heic[12:16] + b"mif1" * ((size - 16) // 4) + heic[size:]


@cache
def not_taken() -> dict[str, bytes]:
    """Pictures and videos that packs don't take, by what a message calls them."""
    return {
        "AVIF": saved(picture(), "AVIF"),
        "TIFF": saved(picture(), "TIFF"),
        "BMP": saved(picture(), "BMP"),
        "icon": saved(picture((32, 32)), "ICO"),
        "JPEG 2000": saved(picture(), "JPEG2000"),
        "SVG": b'<?xml version="1.0"?>\n<!-- drawn by hand -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        "JPEG XL": b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(40),
        "Photoshop": b"8BPS\x00\x01" + bytes(40),
        "PDF": b"%PDF-1.7\n" + bytes(40),
        "MP4": struct.pack(">I4s4sI", 24, b"ftyp", b"isom", 512) + b"isomavc1" + bytes(40),
        "QuickTime": struct.pack(">I4s4sI", 20, b"ftyp", b"qt  ", 0) + b"qt  " + bytes(40),
        "WebM": b"\x1aE\xdf\xa3" + bytes(40),
        "AVI": b"RIFF" + struct.pack("<I", 40) + b"AVI " + bytes(40),
        "camera raw": struct.pack(">I4s4sI", 24, b"ftyp", b"crx ", 1) + b"crx isom" + bytes(40),
    }
