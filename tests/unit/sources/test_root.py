"""Paths in messages: only under the root, after resolving links and `..`; and what a message is for the pipeline."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ingest.errors import UsageError
from ingest.model import Job
from ingest.sources.base import NoJob
from ingest.sources.message import Reader, message_of
from ingest.sources.root import OutsideRoot, Root

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "root" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "a.jpg").write_bytes(b"a")
    (tmp_path / "root-beside").mkdir()
    (tmp_path / "root-beside" / "b.jpg").write_bytes(b"b")
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "root" / "inside.jpg").symlink_to("a.jpg")
    (tmp_path / "root" / "outside.jpg").symlink_to("../secret")
    (tmp_path / "root" / "up").symlink_to("..")
    (tmp_path / "root" / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("root")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("a.jpg", "root/a.jpg"),
        ("./deep/../a.jpg", "root/a.jpg"),
        ("inside.jpg", "root/a.jpg"),
        ("deep/none.jpg", "root/deep/none.jpg"),
        ("{tree}/root/a.jpg", "root/a.jpg"),
        ("{tree}/link/a.jpg", "root/a.jpg"),
        ("up/root/a.jpg", "root/a.jpg"),
        ("loop", "root/loop"),
    ],
)
@pytest.mark.parametrize("root", ["root", "link", "root/"])
def test_paths_inside(tree: Path, root: str, path: str, resolved: str) -> None:
    assert Root(f"{tree}/{root}").resolve(path.format(tree=tree)) == f"{tree}/{resolved}"


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "deep/../../secret",
        "outside.jpg",
        "up/secret",
        "up/root-beside/b.jpg",
        "{tree}/secret",
        "{tree}/root-beside/b.jpg",
        "/etc/passwd",
        "..",
        "a\0b",
    ],
)
def test_paths_outside(tree: Path, path: str) -> None:
    found = Root(f"{tree}/root").resolve(path.format(tree=tree))
    assert isinstance(found, OutsideRoot)
    assert found.reason == "path_outside_root"


def test_without_a_root_no_path_is_taken() -> None:
    found = Root(None).resolve("/a.jpg")
    assert isinstance(found, OutsideRoot)
    assert found.reason == "path_without_root"


def test_a_root_that_is_none(tree: Path) -> None:
    for name in ("none", "secret"):
        with pytest.raises(UsageError, match="not a directory"):
            Root(f"{tree}/{name}")


def test_how_paths_are_published(tree: Path) -> None:
    assert Root(f"{tree}/link").relative(f"{tree}/root/deep/../a.jpg") == "a.jpg"
    assert Root(None).relative(f"{tree}/root/deep/../a.jpg") == f"{tree}/root/a.jpg"
    assert isinstance(Root(f"{tree}/root").relative(f"{tree}/secret"), OutsideRoot)


def test_a_message_is_a_job(tree: Path) -> None:
    reader = Reader(root=Root(f"{tree}/root"), has_pack=True)
    told = Job(image="inside.jpg", id="7")
    assert reader.read(message_of(told), "m") == Job(image=f"{tree}/root/a.jpg", file_name="inside.jpg", id="7")
    url = Job(image="https://a.test/x?y=z", pack="P", file_name="n", id="7")
    assert reader.read(message_of(url), "m") == url


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "bad_message"),
        (b"\xff", "bad_message"),
        (b"[1]", "bad_message"),
        (b'{"pack": "P"}', "bad_message"),
        (b'{"image": 1}', "bad_message"),
        (b'{"image": "' + b"x" * 70_000 + b'"}', "bad_message"),
        (b'{"image": "a.jpg"}', "no_pack"),
        (b'{"image": "../secret", "pack": "P"}', "path_outside_root"),
    ],
)
def test_a_message_that_is_no_job(tree: Path, body: bytes, reason: str) -> None:
    found = Reader(root=Root(f"{tree}/root"), has_pack=False).read(body, "m-1")
    assert isinstance(found, NoJob)
    assert (found.place, found.reason) == ("m-1", reason)
    assert found.detail


def test_a_name_that_is_not_utf8_is_no_message() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        message_of(Job(image=os.fsdecode(b"/\xff.jpg")))
