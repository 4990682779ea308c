"""Lines out of anything that can be read: all of them, in order, whatever their length and however they arrive."""

from __future__ import annotations

import os
import threading
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.sources import lines as module
from ingest.sources.lines import Line, lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST = 8


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def read(descriptor: int, longest: int = LONGEST, begun: bytes = b"") -> list[Line]:
    return [line for line in lines(descriptor, longest=longest, stop=threading.Event(), begun=begun) if line]


def expected(content: bytes, longest: int = LONGEST) -> list[Line]:
    return [
        Line(number, raw if len(raw) <= longest else None)
        for number, raw in enumerate(content.splitlines(keepends=True), start=1)
    ]


def contents() -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.text("ab\r\n", max_size=12).map(str.encode) | st.binary(max_size=12), max_size=12)


@given(contents(), st.booleans())
def test_lines_are_those_of_the_whole_however_it_comes_in_pieces(pieces, has_begun):
    remaining = list(filter(None, pieces))
    whole = b"".join(remaining)
    begun = remaining.pop(0) if has_begun and remaining else b""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_blocks", lambda *_: iter(remaining))
        found = read(-1, begun=begun)
    assert found == expected(whole)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", []),
        (b"a", [(1, b"a")]),
        (b"a\n\nb", [(1, b"a\n"), (2, b"\n"), (3, b"b")]),
        (b"a\r\nb\rc\n", [(1, b"a\r\n"), (2, b"b\r"), (3, b"c\n")]),
        (b"1234567\n12345678\n1\n", [(1, b"1234567\n"), (2, None), (3, b"1\n")]),
        (b"x" * 100, [(1, None)]),
    ],
)
def test_a_file(tmp_path: Path, content: bytes, found: list[tuple[int, bytes | None]]) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert read(file.fileno()) == found


def test_a_line_of_a_hundred_megabytes_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "list"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b"\nshort\n")
    with path.open("rb") as file:
        tracemalloc.start()
        try:
            assert read(file.fileno(), longest=64 * 1024) == [(1, None), (2, b"short\n")]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4_000_000


def test_what_has_come_is_told_before_more_is_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    stop = threading.Event()
    found = lines(reading, longest=LONGEST, stop=stop)
    assert next(found) is None
    os.write(writing, b"one\ntw")
    assert next(found) == (1, b"one\n")
    assert next(found) is None
    os.write(writing, b"o\n")
    assert next(line for line in found if line) == (2, b"two\n")
    os.close(writing)
    assert [line for line in found if line] == []


def test_it_stops_when_it_is_not_wanted_any_more(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    stop = threading.Event()
    found = lines(reading, longest=LONGEST, stop=stop)
    assert next(found) is None
    stop.set()
    assert list(found) == []
    os.close(writing)
