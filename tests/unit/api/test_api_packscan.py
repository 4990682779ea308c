"""A pack read as a stream gives what reading it whole would give, or nothing."""

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ijson.backends import python as slow_ijson

from ingest.api import packscan
from ingest.api.messages import ImageRef, PackScan
from ingest.api.packscan import PackScanner

METADATA = {"status": "completed", "keywords": ["id", "url"], "id": "not this", "deep": [{"url": "u1"}], "error": None}
IMAGES = [
    {"id": "i1", "url": "u1", "metadata": METADATA},
    {"metadata": None, "url": "u2", "id": "i2"},
    {"id": "i3", "url": "u1"},
]
PACK = {"id": "p", "name": "gym", "image_count": 3, "is_public": False, "images": IMAGES}


def document(data: Any = PACK, **changes: Any) -> bytes:
    return json.dumps({"ok": True, "code": 200, "message": "Pack retrieved", "data": data, **changes}).encode()


def scan(pieces: list[bytes], *wanted: str) -> PackScan:
    scanner = PackScanner(frozenset(wanted))
    for piece in pieces:
        scanner.feed(piece)
    return scanner.finish()


@pytest.fixture(params=["fast", "slow"], autouse=True, scope="module")
def _parser(request: pytest.FixtureRequest) -> Any:
    """Every test with the C parser and with the one that ijson falls back to."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "slow":
            patch.setattr(packscan.ijson, "basic_parse_coro", slow_ijson.basic_parse_coro)
        yield


def test_keeps_what_is_wanted_in_pack_order_and_counts_the_rest() -> None:
    found = (ImageRef(image_id="i1", url="u1"), ImageRef(image_id="i3", url="u1"))
    assert scan([document()], "u1", "elsewhere") == PackScan(name="gym", image_count=3, found=found)


def test_takes_pieces_of_one_byte() -> None:
    text = document()
    assert scan([text[i : i + 1] for i in range(len(text))], "u2").found == (ImageRef(image_id="i2", url="u2"),)


def test_an_empty_pack_has_no_images() -> None:
    assert scan([document({"name": "n", "images": []})]) == PackScan(name="n", image_count=0, found=())


def test_a_cut_at_any_byte_gives_nothing() -> None:
    text = document()
    for cut in range(len(text)):
        with pytest.raises(ValueError):  # noqa: PT011 - its text differs
            scan([text[:cut]], "u1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        document() + b"{}",
        document() + b"x",
        document(ok=False),
        document(ok="true"),
        document(ok=1),
        document(None),
        document([]),
        document({"name": "n"}),
        document({"images": []}),
        document({"name": 1, "images": []}),
        document({"name": "n", "images": {}}),
        document({"name": "n", "images": None}),
        document({"name": "n", "images": ["u1"]}),
        document({"name": "n", "images": [[{"id": "i", "url": "u"}]]}),
        document({"name": "n", "images": [{"id": "i"}]}),
        document({"name": "n", "images": [{"url": "u1"}]}),
        document({"name": "n", "images": [{"id": 1, "url": "u1"}]}),
        document({"name": "n", "images": [{"id": "i", "url": ["u1"]}]}),
        b'{"ok":true,"data":{"name":"\xff","images":[]}}',
        b'{"ok":true,"data":{"name":"n","images":[],"n":1e9999999999999999999}}',
        b'{"ok":true,"data":{"name":"n","images":[],"n":%b}}' % (b"9" * 5000),
    ],
)
def test_any_other_document_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(a|an) "):
        scan([body], "u1")


@given(st.lists(st.binary(max_size=60)))
def test_any_bytes_give_a_scan_or_a_value_error(pieces: list[bytes]) -> None:
    with contextlib.suppress(ValueError):
        scan(pieces)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
image = st.fixed_dictionaries(
    {"id": st.text(), "url": st.sampled_from(["u1", "u2", "ü"])}, optional={"metadata": values, "images": values}
)
pack = st.fixed_dictionaries({"name": st.text(), "images": st.lists(image, max_size=5)}, optional={"data": values})


@given(pack, st.lists(st.integers(0, 400)))
def test_however_it_is_cut_into_pieces_it_is_the_same_pack(data: dict[str, Any], cuts: list[int]) -> None:
    text = document(data, extra=[{"images": []}])
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    result = scan([text[start:stop] for start, stop in itertools.pairwise(edges)], "u1", "ü")
    expected = tuple(ImageRef(image_id=i["id"], url=i["url"]) for i in data["images"] if i["url"] in {"u1", "ü"})
    assert result == PackScan(name=data["name"], image_count=len(data["images"]), found=expected)
