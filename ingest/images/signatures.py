"""What kind of file its first bytes begin: the signatures of images, and of what is mistaken for them.

Pure: looks at no name and at nothing behind the first `HEAD_BYTES`; whether the rest is there is asked in `structure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from ingest.model import ContentType

__all__ = ["HEAD_BYTES", "Kind", "identify"]

HEAD_BYTES: Final = 4096
# Every signature lies within the first 64; an SVG may have a licence and a DOCTYPE before its first element.


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of file: `name` with its article, for messages; `content_type` None where packs don't take it."""

    name: str
    content_type: ContentType | None = None
    family: Literal["image", "video", "document", "page"] = "image"


_JPEG = Kind(name="a JPEG image", content_type="image/jpeg")
_PNG = Kind(name="a PNG image", content_type="image/png")
_GIF = Kind(name="a GIF image", content_type="image/gif")
_WEBP = Kind(name="a WebP image", content_type="image/webp")
_HEIC = Kind(name="an HEIC image", content_type="image/heic")
_HEIF = Kind(name="an HEIF image", content_type="image/heif")
_AVIF = Kind(name="an AVIF image")
_TIFF = Kind(name="a TIFF or camera raw image")
_JXL = Kind(name="a JPEG XL image")
_JPEG_2000 = Kind(name="a JPEG 2000 image")
_SVG = Kind(name="an SVG drawing")
_HTML = Kind(name="an HTML page", family="page")
_QUICKTIME = Kind(name="a QuickTime video", family="video")
_MP4 = Kind(name="an MP4 video", family="video")

_SIGNATURES: Final[tuple[tuple[int, bytes, Kind], ...]] = (
    (0, b"\xff\xd8\xff", _JPEG),
    (0, b"\x89PNG\r\n\x1a\n", _PNG),
    (0, b"GIF87a", _GIF),
    (0, b"GIF89a", _GIF),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", _JXL),
    (0, b"\xff\x0a", _JXL),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", _JPEG_2000),
    (0, b"\xff\x4f\xff\x51", _JPEG_2000),
    (0, b"II*\x00", _TIFF),
    (0, b"MM\x00*", _TIFF),
    (0, b"II+\x00", _TIFF),
    (0, b"MM\x00+", _TIFF),
    (0, b"IIRO", _TIFF),
    (0, b"IIU\x00", _TIFF),
    (0, b"FUJIFILMCCD-RAW", _TIFF),
    (0, b"8BPS", Kind(name="a Photoshop document")),
    (0, b"II\xbc", Kind(name="a JPEG XR image")),
    (0, b"\x8aMNG\r\n\x1a\n", Kind(name="an MNG animation")),
    (0, b"gimp xcf ", Kind(name="a GIMP document")),
    (0, b"v/1\x01", Kind(name="an OpenEXR image")),
    (0, b"qoif", Kind(name="a QOI image")),
    (0, b"DDS ", Kind(name="a DDS texture")),
    (0, b"%PDF-", Kind(name="a PDF document", family="document")),
    (0, b"%!PS", Kind(name="a PostScript document", family="document")),
    (0, b"\x1aE\xdf\xa3", Kind(name="a Matroska or WebM video", family="video")),
    (0, b"\x00\x00\x01\xba", Kind(name="an MPEG video", family="video")),
    (0, b"\x00\x00\x01\xb3", Kind(name="an MPEG video", family="video")),
    (0, b"FLV\x01", Kind(name="a Flash video", family="video")),
    (0, b"0&\xb2u\x8ef\xcf\x11", Kind(name="a Windows Media video", family="video")),
    (4, b"moov", _QUICKTIME),
    (4, b"mdat", _QUICKTIME),
    (4, b"wide", _QUICKTIME),
)

# Four-character codes of ISO 23008-12 annex B and of the MP4 registration authority (mp4ra.org).
_HEVC_BRANDS: Final = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"})
_HEIF_BRANDS: Final = frozenset({b"mif1", b"mif2", b"msf1", b"heif"})
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})

_BMP_HEADER_SIZES: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def identify(head: bytes) -> Kind | None:
    """The kind of file that begins with `head` (its first `HEAD_BYTES`, or all of it); None: none that is known."""
    if head[4:8] == b"ftyp" and len(head) >= 12:
        return _by_brand(head)
    if head[:4] == b"RIFF":
        return _by_riff_form(head[8:12])
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    if _is_bmp(head):
        return Kind(name="a BMP image")
    if _is_icon(head):
        return Kind(name="an icon file")
    return _by_markup(head)


def _by_brand(head: bytes) -> Kind:
    """The kind of an ISO base media file: what its major brand says, else the most telling of the compatible ones.

    A generic HEIF (`mif1`) that lists an HEVC brand is HEIC: that is what a reader has to be able to decode.
    """
    major = head[8:12]
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {major, *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if major in _HEVC_BRANDS:
        return _HEIC
    if major in _AVIF_BRANDS:
        return _AVIF
    if major == b"qt  ":
        return _QUICKTIME
    if major == b"crx ":
        return _TIFF
    if major in _HEIF_BRANDS or major == b"miaf":
        if brands & _AVIF_BRANDS:
            return _AVIF
        return _HEIC if brands & _HEVC_BRANDS else _HEIF
    return _MP4


def _by_riff_form(form: bytes) -> Kind | None:
    if form == b"WEBP":
        return _WEBP
    return Kind(name="an AVI video", family="video") if form == b"AVI " else None


def _is_bmp(head: bytes) -> bool:
    # "BM" alone begins many texts: the reserved fields are zero and the second header has one of few sizes.
    return head[:2] == b"BM" and head[6:10] == bytes(4) and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES


def _is_icon(head: bytes) -> bool:
    # Four common bytes: at least one entry, whose reserved byte is zero and whose picture lies behind the directory.
    count = int.from_bytes(head[4:6], "little")
    return (
        head[:4] in {b"\x00\x00\x01\x00", b"\x00\x00\x02\x00"}
        and count > 0
        and head[9:10] == b"\x00"
        and int.from_bytes(head[18:22], "little") >= 6 + 16 * count
    )


def _by_markup(head: bytes) -> Kind | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return _HTML
    if text.startswith(b"<") and b"<svg" in text:
        return _SVG
    return None
