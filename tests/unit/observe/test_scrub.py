"""Scrubbing: no secret in what is shown, and nothing else lost."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.observe.scrub import WITHHELD, Scrubber, withhold_signatures

SIGNED = "https://cdn.example/a/b.jpg?X-Amz-Credential=AKIA&X-Amz-Signature=deadbeef"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SIGNED, "https://cdn.example/a/b.jpg?[withheld]"),
        (f"PUT {SIGNED} gave 403", "PUT https://cdn.example/a/b.jpg?[withheld] gave 403"),
        (f'{{"url":"{SIGNED}","n":1}}', '{"url":"https://cdn.example/a/b.jpg?[withheld]","n":1}'),
        (f"<Url>{SIGNED}</Url>", "<Url>https://cdn.example/a/b.jpg?[withheld]</Url>"),
        ("https://s/x?Expires=1&Signature=abc%3D", "https://s/x?[withheld]"),
        ("https://s/x?a=1&x-amz-signature=abc", "https://s/x?[withheld]"),
        ("https://s/x?X-Goog-Credential=me&X-Goog-Signature=abc", "https://s/x?[withheld]"),
        ("X-Amz-Date=1&X-Amz-Signature=abc", "[withheld]"),
        (f"{SIGNED} {SIGNED}", "https://cdn.example/a/b.jpg?[withheld] https://cdn.example/a/b.jpg?[withheld]"),
        ("https://s/x?page=2", "https://s/x?page=2"),
        ("why? because", "why? because"),
        ("", ""),
    ],
)
def test_query_strings_that_sign_are_withheld(text, shown):
    assert withhold_signatures(text) == shown


def test_a_registered_secret_is_withheld_in_every_form():
    scrubber = Scrubber(["p/ss 'word"])
    scrubber.register("pk_1.s3cret")
    text = "pk_1.s3cret amqp://me:p%2Fss%20%27word@host amqp://me:p%2fss%20%27word@host p/ss 'word " + repr(
        "p/ss 'word"
    )
    assert "ss" not in scrubber.text(text).replace("pass", "")
    assert "s3cret" not in scrubber.text(text)
    assert scrubber.text("amqp://me:p%2fss%20%27word@host") == f"amqp://me:{WITHHELD}@host"


def test_a_secret_that_holds_another_is_withheld_whole():
    assert Scrubber(["abc", "abcdef"]).text("abcdef abc") == f"{WITHHELD} {WITHHELD}"


def test_an_empty_secret_withholds_nothing():
    assert Scrubber([""]).text("plain") == "plain"


WORDS = st.text("XYZ01 %/'\"\\é")  # nothing that the replacement itself is made of


@given(WORDS.filter(bool), WORDS, WORDS)
def test_no_text_shows_a_secret(secret, before, after):
    assert secret not in Scrubber([secret]).text(before + secret + after)


def test_nested_values_become_plain_without_secrets():
    scrubber = Scrubber(["s3cret"])
    value = {
        "s3cret": [1, 2.5, True, None, ("s3cret", {SIGNED})],
        "path": Path("/tmp/s3cret"),
        "error": ValueError("key s3cret refused"),
        "silent": TimeoutError(),
        "bytes": b"s3cret",
    }
    assert scrubber.plain(value) == {
        WITHHELD: [1, 2.5, True, None, [WITHHELD, ["https://cdn.example/a/b.jpg?[withheld]"]]],
        "path": f"/tmp/{WITHHELD}",
        "error": f"key {WITHHELD} refused",
        "silent": "TimeoutError()",
        "bytes": f"b'{WITHHELD}'",
    }


@pytest.mark.parametrize(
    ("value", "shown"), [(math.inf, "inf"), (math.nan, "nan"), ("a\udcffb", "a\\xffb"), ("é", "é")]
)
def test_what_json_cannot_say_becomes_text(value, shown):
    assert Scrubber().plain(value) == shown


def test_a_value_that_cannot_be_shown_costs_only_itself():
    class Broken:
        def __str__(self):
            raise RuntimeError

    assert Scrubber().plain([1, Broken()]) == [1, "<Broken>"]


def test_a_value_that_contains_itself_ends():
    loop: list = []
    loop.append(loop)
    assert "..." in str(Scrubber().plain(loop))
