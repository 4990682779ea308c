"""Names decide what is discovered, and file names reach the pack as the API takes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.sources.selection import IMAGE_ENDINGS, Selection, Verdict, ending, file_name, is_entered


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("a.jpg", Verdict.DISCOVERED),
        ("below/a.JPeG", Verdict.DISCOVERED),
        ("a.svg", Verdict.DISCOVERED),
        ("a.avif", Verdict.DISCOVERED),
        ("a.mov", Verdict.IGNORED),
        ("a.jpg.txt", Verdict.IGNORED),
        ("a.jpg~", Verdict.IGNORED),
        ("a~", Verdict.IGNORED),
        ("a.jpg.tmp", Verdict.IGNORED),
        ("a.jpg.PART", Verdict.IGNORED),
        ("scan", Verdict.LOOK_INSIDE),
        ("v1.2/scan", Verdict.LOOK_INSIDE),
        ("\udcff.png", Verdict.DISCOVERED),
        ("two\nlines.png", Verdict.DISCOVERED),
    ],
)
def test_by_ending(name, verdict):
    assert Selection().of_file(name) is verdict


@pytest.mark.parametrize("last", sorted(IMAGE_ENDINGS))
def test_every_image_ending_in_any_case(last):
    assert Selection().of_file("x" + last.upper()) is Verdict.DISCOVERED


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("*.jpg", "a.jpg", True),
        ("*.jpg", "2024/a.JPG", True),
        ("*.jpg", "a.png", False),
        ("2024/*", "2024/05/a.jpg", True),
        ("2024/*", "old/2024/a.jpg", False),
        ("**/raw/*", "raw/a.jpg", True),
        ("**/raw/*", "x/y/raw/a.jpg", True),
        ("a/**/b.jpg", "a/b.jpg", True),
        ("IMG_????.*", "x/IMG_0001.jpg", True),
        ("[ab].gif", "c.gif", False),
        ("line*.png", "line\n1.png", True),
        ("\udcff*", "\udcff.png", True),
    ],
)
def test_globs(glob, name, matches):
    above, slash, name = name.rpartition("/")
    assert (Selection(include=[glob]).of_file(name, above + slash) is Verdict.DISCOVERED) is matches
    assert (Selection(exclude=[glob]).of_file(name, above + slash) is Verdict.EXCLUDED) is matches


def test_an_included_file_needs_no_ending_of_an_image():
    selection = Selection(include=["*.dat", "*.part"])
    assert selection.of_file("a.dat", "x/") is Verdict.DISCOVERED
    assert selection.of_file("a.jpg.part") is Verdict.DISCOVERED
    assert selection.of_file("a.jpg") is Verdict.EXCLUDED


def test_exclude_wins():
    assert Selection(include=["*.jpg"], exclude=["bad*"]).of_file("bad.jpg") is Verdict.EXCLUDED


def test_whole_directories_are_left_out():
    selection = Selection(exclude=["thumbs/", "a/b"])
    assert selection.excludes_directory("x/thumbs")
    assert selection.excludes_directory("a/b")
    assert not selection.excludes_directory("x/a/b")
    assert not Selection(include=["*.jpg"]).excludes_directory("x")


@pytest.mark.parametrize(
    "name", [".git", "@eaDir", "@__thumb", ".thumbnails", "__MACOSX", "My.photoslibrary", "Cat Previews.LRDATA"]
)
def test_what_is_never_entered(name):
    assert not is_entered(name)


@pytest.mark.parametrize("name", ["photos", "2024.05", "lrdata", "a.b"])
def test_what_is_entered(name):
    assert is_entered(name)


def test_endings():
    assert [ending(name) for name in ("a.JPG", "a", "a.b/c", "a.tar.gz", ".hidden")] == [".jpg", "", "", ".gz", ""]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/p/a.jpg", "a.jpg"),
        ("/p/b\udcff.jpg", "b\ufffd.jpg"),
        ("/p/ü.jpg", "ü.jpg"),
        ("/p/ ", "\ufffd"),
        ("/p/" + "x" * 300 + ".jpeg", "x" * 250 + ".jpeg"),
    ],
)
def test_file_names(path, name):
    assert file_name(path) == name


@given(st.binary(min_size=1, max_size=400).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_every_file_has_a_name_that_the_api_takes(path):
    name = file_name(path)
    assert 1 <= len(name) <= 255
    name.encode()
    assert name.strip()
