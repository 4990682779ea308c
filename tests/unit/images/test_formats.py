"""The detector names what it takes, says why not of what it doesn't, and is fooled by no cut file."""

from __future__ import annotations

import struct

import image_samples as samples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.images.formats import Detector, Unusable, looks_like_image
from ingest.model import IMAGE_TYPES


def detect(data: bytes, *, chunk: int = 1 << 20):
    detector = Detector()
    for at in range(0, len(data), chunk):
        detector.feed(data[at : at + chunk])
    return detector.finish()


def reason(data: bytes) -> str | None:
    verdict = detect(data)
    return verdict.reason if isinstance(verdict, Unusable) else None


def box(kind: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


FTYP = box(b"ftyp", b"heic\0\0\0\0mif1heic")
META = box(b"meta", bytes(4) + box(b"iloc", bytes(20)))


@pytest.mark.parametrize("name", samples.taken())
class TestTaken:
    def test_its_type_is_told(self, name):
        content_type, data = samples.taken()[name]
        assert detect(data) == content_type
        assert looks_like_image(data)

    def test_what_follows_it_does_not_matter(self, name):
        content_type, data = samples.taken()[name]
        for trailer in (b"\0", b"\0" * 5000, b"\xff\xd8\xff", b"MotionPhoto_Data" + data, box(b"mpvd", b"1234")[:-2]):
            assert detect(data + trailer) == content_type, trailer[:16]

    def test_every_cut_is_noticed(self, name):
        _, data = samples.taken()[name]
        for end in range(len(data)):
            assert reason(data[:end]) in ({"empty"} if end == 0 else {"cut_short", "not_an_image"}), end

    @pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1000])
    def test_chunks_make_no_difference(self, name, chunk):
        content_type, data = samples.taken()[name]
        assert detect(data, chunk=chunk) == content_type
        assert isinstance(detect(data[:-1], chunk=chunk), Unusable)


@pytest.mark.parametrize("name", [name for name in samples.taken() if name.startswith(("jpeg", "png", "apng", "gif"))])
def test_a_cut_file_filled_up_with_zeros_is_noticed(name):
    # WebP and HEIF give lengths only: filled up to its length, a cut one can't be told from a whole one.
    data = samples.taken()[name][1]
    assert reason(data[: len(data) // 2] + bytes(len(data))) == "cut_short"


@pytest.mark.parametrize("name", samples.not_taken())
def test_what_packs_do_not_take_is_called_by_its_name(name):
    verdict = detect(samples.not_taken()[name])
    assert isinstance(verdict, Unusable)
    assert verdict.reason == "unsupported_type"
    assert name in verdict.detail


def test_pictures_that_packs_do_not_take_look_like_images_and_others_do_not():
    looks = {name for name, data in samples.not_taken().items() if looks_like_image(data)}
    assert looks == set(samples.not_taken()) - {"PDF", "MP4", "QuickTime", "WebM", "AVI"}


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"\0" * 10_000,
        b"BM but a text",
        b"\0\0\1\0\1\0",
        b"\xff\xd8",
        b"<!DOCTYPE html><svg>",
        b"RIFF....WAVE",
    ],
)
def test_anything_else_is_no_image(data):
    assert reason(data) == "not_an_image"
    assert not looks_like_image(data)


def test_nothing_is_empty():
    assert reason(b"") == "empty"
    assert not looks_like_image(b"")


def test_a_page_saved_under_an_image_name_is_called_one():
    verdict = detect(b"\n<!doctype HTML><title>404</title>")
    assert isinstance(verdict, Unusable)
    assert "HTML page" in verdict.detail


def test_a_message_about_a_cut_image_names_its_type():
    verdict = detect(samples.taken()["png"][1][:-4])
    assert isinstance(verdict, Unusable)
    assert "PNG" in verdict.detail


class TestJpeg:
    def test_an_end_marker_of_the_thumbnail_is_not_the_end(self):
        data = samples.jpeg_with_thumbnail()
        after_thumbnail = data.index(b"\xff\xd9") + 2
        assert after_thumbnail < data.index(b"\xff\xda", after_thumbnail)
        assert reason(data[: after_thumbnail + 40]) == "cut_short"

    def test_bytes_between_segments_and_fill_bytes_are_forgiven(self):
        plain = samples.taken()["jpeg"][1]
        assert detect(plain[:2] + b"\xff\xff\xff\xfe\0\4hi" + b"\0\0\0" + plain[2:]) == "image/jpeg"

    def test_tables_without_a_picture_are_no_whole_image(self):
        assert reason(b"\xff\xd8\xff\xfe\0\2\xff\xd9") == "cut_short"


class TestGif:
    def test_padding_between_blocks_is_forgiven(self):
        data = samples.taken()["gif"][1]
        assert detect(data[:-1] + b"\0\0" + data[-1:]) == "image/gif"

    def test_a_trailer_without_a_picture_is_no_image(self):
        assert reason(b"GIF89a" + bytes(7) + b"\x3b") == "cut_short"


class TestHeif:
    @pytest.mark.parametrize(
        ("major", "compatible", "expected"),
        [
            (b"heic", b"mif1heic", "image/heic"),
            (b"heix", b"mif1heix", "image/heic"),
            (b"hevc", b"msf1hevc", "image/heic"),
            (b"heim", b"mif1", "image/heic"),
            (b"mif1", b"mif1heic", "image/heic"),
            (b"mif1", b"mif1miaf", "image/heif"),
            (b"msf1", b"msf1", "image/heif"),
            (b"heif", b"", "image/heif"),
            (b"mif1", b"mif1avif", "unsupported_type"),
            (b"avis", b"msf1avis", "unsupported_type"),
            (b"heic", b"heicavif", "image/heic"),
            (b"mp42", b"mp41isom", "unsupported_type"),
        ],
    )
    def test_brands(self, major, compatible, expected):
        verdict = detect(box(b"ftyp", major + bytes(4) + compatible) + META + box(b"mdat", b"x"))
        assert (verdict.reason if isinstance(verdict, Unusable) else verdict) == expected

    def test_a_cut_between_boxes_is_noticed(self):
        assert reason(FTYP) == "cut_short"
        assert reason(FTYP + META) == "cut_short"
        assert reason(FTYP + box(b"mdat", b"x")) == "cut_short"

    def test_the_order_of_boxes_does_not_matter(self):
        assert detect(FTYP + box(b"free", b"123") + box(b"mdat", b"x") + META) == "image/heic"

    def test_a_long_size(self):
        whole = FTYP + META + struct.pack(">I4sQ", 1, b"mdat", 16 + 100) + bytes(100)
        assert detect(whole) == "image/heic"
        assert reason(whole[:-1]) == "cut_short"

    def test_a_last_box_that_goes_to_the_end(self):
        assert detect(FTYP + META + struct.pack(">I4s", 0, b"mdat") + b"pixels") == "image/heic"
        assert reason(FTYP + struct.pack(">I4s", 0, b"mdat") + b"pixels") == "cut_short"

    def test_a_second_box_of_pictures_is_waited_for(self):
        whole = FTYP + META + box(b"mdat", b"x") + box(b"mdat", b"yyyy")
        assert detect(whole) == "image/heic"
        assert reason(whole[:-1]) == "cut_short"

    def test_pictures_inside_the_index_but_not_a_mere_layout(self):
        def index(data: bytes) -> bytes:
            return box(b"meta", bytes(4) + box(b"iloc", bytes(20)) + box(b"idat", data))

        assert detect(FTYP + index(bytes(500))) == "image/heic"
        assert reason(FTYP + index(bytes(8))) == "cut_short"

    @pytest.mark.parametrize("inner", [b"\0\0\0\x04odd!", b"\xff\xff\xff\xffidat", b"\0\0"])
    def test_an_odd_index_is_passed_by_its_length(self, inner):
        assert detect(FTYP + box(b"meta", bytes(4) + inner) + box(b"mdat", b"x")) == "image/heic"


class TestWebp:
    def test_a_header_that_was_never_filled_in(self):
        data = samples.taken()["webp"][1]
        assert reason(data[:4] + bytes(4) + data[8:]) == "cut_short"


ANYTHING = st.binary(max_size=300) | st.builds(
    bytes.__add__,
    st.sampled_from([data[:keep] for _, data in samples.taken().values() for keep in (3, 8, 12, 30, 200)]),
    st.binary(max_size=300),
)


@given(ANYTHING, st.lists(st.integers(0, 600), max_size=8))
def test_any_bytes_in_any_chunks_get_one_verdict(data, cuts):
    detector = Detector()
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    start = 0
    for end in ends:
        detector.feed(data[start:end])
        start = end
    verdict = detector.finish()
    assert verdict == detect(data)
    assert isinstance(verdict, Unusable) or verdict in IMAGE_TYPES


def test_a_large_image_keeps_no_bytes():
    detector = Detector()
    detector.feed(samples.taken()["jpeg"][1][:-2])
    for _ in range(64):
        detector.feed(b"\x11" * 4096)
    held = detector._structure._window._data
    assert len(held) <= 2 * 4096
    detector.feed(b"\xff\xd9")
    assert detector.finish() == "image/jpeg"
