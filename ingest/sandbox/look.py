"""Looks at the pixels of an image and puts them into words: what enrichment says about it.

Bytes in, words out; no database, no network. Deterministic: the same bytes give the same words.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Final

from PIL import ExifTags, Image, ImageFilter, ImageStat

try:
    from pillow_heif import open_heif
except ImportError:  # an extra: without it HEIC ends `failed`, and says so
    open_heif = None  # type: ignore[assignment]

__all__ = ["NotAnImageError", "Seen", "look"]

# Large enough for shares of colours, small enough that words cost a millisecond.
THUMBNAIL: Final = (32, 32)

# Decoders that can skip (JPEG) go straight to about this size.
DRAFT: Final = (256, 256)

HEIF_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Values of the EXIF orientation that turn the image by a quarter.
SIDEWAYS: Final = (5, 6, 7, 8)

# Longest side in pixels: up to and with.
SIZE_CLASSES: Final = ((64, "icon-sized"), (400, "small"), (1200, "medium-sized"), (3000, "large"))

# Upper ends of hue in Pillow's 0..255 circle.
HUES: Final = (
    (10, "red"),
    (28, "orange"),
    (48, "yellow"),
    (113, "green"),
    (140, "cyan"),
    (182, "blue"),
    (212, "purple"),
    (240, "pink"),
    (255, "red"),
)

# A colour with less than this share of the pixels is not worth a word.
COLOUR_SHARE: Final = 0.15


class NotAnImageError(ValueError):
    """The bytes can't be looked at; the message is for the image's `metadata.error`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to say about an image."""

    description: str
    keywords: tuple[str, ...]


def look(data: bytes) -> Seen:
    """Blocks for some milliseconds up to a second: call it in a thread. NotAnImageError for everything unreadable."""
    try:
        with _open(data) as image:
            return _describe(image)
    except NotAnImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise NotAnImageError("The image has too many pixels") from error
    except Exception as error:  # decoders raise whatever they like at bytes that are no image
        raise NotAnImageError("The file is not a readable image") from error


def _open(data: bytes) -> Image.Image:
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        if open_heif is None:
            raise NotAnImageError("HEIC images need pillow-heif: install ingest[heif]")
        heif: Image.Image = open_heif(data, convert_hdr_to_8bit=True).to_pillow()
        heif.format = "HEIF"
        return heif
    with warnings.catch_warnings():
        # Only a warning up to twice the limit: too late for a server that decodes what strangers send.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data))


def _describe(image: Image.Image) -> Seen:
    width, height = image.size
    if image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
        width, height = height, width
    kind = (image.format or "unknown").lower()
    is_animated = bool(getattr(image, "is_animated", False))
    is_transparent = image.has_transparency_data
    image.draft("RGB", DRAFT)
    image.thumbnail(DRAFT)
    # By way of RGBA, as a palette with transparency can't lose it in one step.
    small = image.convert("RGBA").convert("RGB")
    detail = "detailed" if _edges(small) > 24 else "plain"
    small.thumbnail(THUMBNAIL)

    shape = _shape(width, height)
    size = next((word for limit, word in SIZE_CLASSES if max(width, height) <= limit), "very large")
    light = _brightness(small)
    colours = _colours(small)
    extras = [word for word, holds in (("transparent", is_transparent), ("animated", is_animated)) if holds]

    description = (
        f"{light.capitalize()}, {detail} {shape} image in {' and '.join(colours)}, {size} at {width}×{height} pixels."
    )
    return Seen(description, tuple(dict.fromkeys([shape, size, light, detail, *colours, *extras, kind])))


def _shape(width: int, height: int) -> str:
    ratio = width / height
    if ratio > 2:
        return "panorama"
    if ratio > 1.05:
        return "landscape"
    return "square" if ratio >= 0.95 else "portrait"


def _brightness(pixels: Image.Image) -> str:
    mean = ImageStat.Stat(pixels.convert("L")).mean[0]
    if mean < 64:
        return "dark"
    return "bright" if mean > 176 else "evenly lit"


def _colours(pixels: Image.Image) -> list[str]:
    """The names of at most three colours, most frequent first."""
    hsv = pixels.convert("HSV").tobytes()
    names = Counter(_colour(hsv[at], hsv[at + 1], hsv[at + 2]) for at in range(0, len(hsv), 3))
    count = len(hsv) // 3
    ranked = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    return [name for rank, (name, n) in enumerate(ranked[:3]) if rank == 0 or n >= COLOUR_SHARE * count]


def _colour(hue: int, saturation: int, value: int) -> str:
    if value < 40:
        return "black"
    if saturation < 40:
        return "white" if value > 215 else "grey"
    name = next(word for end, word in HUES if hue <= end)
    # Dark orange is what people call brown.
    return "brown" if name == "orange" and value < 150 else name


def _edges(image: Image.Image) -> float:
    """Mean strength of edges, 0..255."""
    grey = image.convert("L")
    return float(ImageStat.Stat(grey.filter(ImageFilter.FIND_EDGES)).mean[0])
