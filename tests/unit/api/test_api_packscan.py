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
    scanner = PackScanner("p", frozenset(wanted))
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
    assert scan([document({"id": "p", "name": "n", "images": []})]) == PackScan(name="n", image_count=0, found=())


@pytest.mark.parametrize("changes", [{"code": None}, {"code": 200.0}])
def test_a_code_that_says_nothing_else_is_let_pass(changes: dict[str, Any]) -> None:
    assert scan([document(**changes)]).image_count == 3


def test_an_id_may_be_asked_for_in_capitals() -> None:
    assert scan([document({"id": "P", "name": "n", "images": []})]).image_count == 0


def test_an_image_is_found_as_it_is_wanted_however_the_server_spells_it() -> None:
    images = [
        {"id": "decoded", "url": "https://cdn.test/a(1)é.jpg"},
        {"id": "lower", "url": "https://cdn.test/a%281%29%c3%a9.jpg"},
        {"id": "same", "url": "https://cdn.test/a%281%29%C3%A9.jpg"},
        {"id": "escaped", "url": "https://cdn.test/%62.jpg"},
        {"id": "another", "url": "https://cdn.test/a%2F1.jpg"},
    ]
    ours, plain = "https://cdn.test/a%281%29%C3%A9.jpg", "https://cdn.test/b.jpg"
    found = scan([document({**PACK, "images": images})], ours, plain, "https://cdn.test/a/1.jpg").found
    assert [(image.image_id, image.url) for image in found] == [
        ("decoded", ours), ("lower", ours), ("same", ours), ("escaped", plain),
    ]  # fmt: skip


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
        *(document(PACK, code=code) for code in (201, 404, 200.5, "200", True, [200], {})),
        document({"id": "p", "name": "n"}),
        document({"id": "p", "images": []}),
        document({"name": "n", "images": []}),
        document({"id": None, "name": "n", "images": []}),
        document({"id": "another", "name": "n", "images": []}),
        document({"id": "p", "name": 1, "images": []}),
        document({"id": "p", "name": "n", "images": {}}),
        document({"id": "p", "name": "n", "images": None}),
        document({"id": "p", "name": "n", "images": ["u1"]}),
        document({"id": "p", "name": "n", "images": [[{"id": "i", "url": "u"}]]}),
        document({"id": "p", "name": "n", "images": [{"id": "i"}]}),
        document({"id": "p", "name": "n", "images": [{"url": "u1"}]}),
        document({"id": "p", "name": "n", "images": [{"id": 1, "url": "u1"}]}),
        document({"id": "p", "name": "n", "images": [{"id": "i", "url": ["u1"]}]}),
        b'{"ok":true,"data":{"id":"p","name":"\xff","images":[]}}',
        b'{"ok":true,"data":{"id":"p","name":"n","images":[],"n":1e9999999999999999999}}',
        b'{"ok":true,"data":{"id":"p","name":"n","images":[],"n":%b}}' % (b"9" * 5000),
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
pack = st.fixed_dictionaries(
    {"id": st.just("p"), "name": st.text(), "images": st.lists(image, max_size=5)}, optional={"data": values}
)


@given(pack, st.lists(st.integers(0, 400)))
def test_however_it_is_cut_into_pieces_it_is_the_same_pack(data: dict[str, Any], cuts: list[int]) -> None:
    text = document(data, extra=[{"images": []}])
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    result = scan([text[start:stop] for start, stop in itertools.pairwise(edges)], "u1", "ü")
    expected = tuple(ImageRef(image_id=i["id"], url=i["url"]) for i in data["images"] if i["url"] in {"u1", "ü"})
    assert result == PackScan(name=data["name"], image_count=len(data["images"]), found=expected)
