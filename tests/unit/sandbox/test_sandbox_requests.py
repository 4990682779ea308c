"""What the sandbox takes and refuses, and in which words: API.md as a table."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.sandbox import ApiKey, SandboxFileError, SandboxSettings, load_keys
from ingest.sandbox.answers import Refusal
from ingest.sandbox.database import iso
from ingest.sandbox.keys import KeyChange, Keyring
from ingest.sandbox.requests import AddImage, CreatePack, UpdatePack, UploadFile, parse, read_page


def encode(content) -> bytes:
    return msgspec.json.encode(content)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (CreatePack, {"name": "x" * 120}),
        (CreatePack, {"name": " " * 100 + "x" * 120}),
        (CreatePack, {"name": "x", "is_public": True, "unknown": 1}),
        (UpdatePack, {"is_public": False}),
        (AddImage, {"image_url": "HTTPS://example.com"}),
        (AddImage, {"image_url": "http://127.0.0.1:80/a?b#c", "file_name": "x" * 255}),
        (UploadFile, {"contentType": "video/mp4", "filename": "a.mp4", "size": 1}),
    ],
)
def test_accepted(message, content):
    assert isinstance(parse(encode(content), message), message)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (CreatePack, {}),
        (CreatePack, []),
        (CreatePack, None),
        (CreatePack, {"name": "   "}),
        (CreatePack, {"name": "x" * 121}),
        (CreatePack, {"name": 1}),
        (CreatePack, {"name": "x", "is_public": "true"}),
        (CreatePack, {"name": "x", "is_public": None}),
        (UpdatePack, {}),
        (UpdatePack, {"name": ""}),
        (UpdatePack, {"unknown": 1}),
        (AddImage, {"file_name": "x"}),
        (AddImage, {"image_url": "a.jpg"}),
        (AddImage, {"image_url": "ftp://example.com/a.jpg"}),
        (AddImage, {"image_url": "https:///a.jpg"}),
        (AddImage, {"image_url": "https://example.com/a b.jpg"}),
        (AddImage, {"image_url": "https://example.com:port/"}),
        (AddImage, {"image_url": "https://example.com", "file_name": ""}),
        (AddImage, {"image_url": "https://example.com", "file_name": "x" * 256}),
        (UploadFile, {}),
        (UploadFile, {"contentType": "image/avif"}),
        (UploadFile, {"contentType": "image/tiff"}),
        (UploadFile, {"contentType": "image/jpeg", "filename": ""}),
        (UploadFile, {"contentType": "image/jpeg", "size": 0}),
        (UploadFile, {"contentType": "image/jpeg", "size": "1"}),
    ],
)
def test_wrong_payloads(message, content):
    with pytest.raises(Refusal) as caught:
        parse(encode(content), message)
    assert (caught.value.status, caught.value.error_code) == (422, "invalid_payload")


@pytest.mark.parametrize("body", [b"", b"{", b'{"name": 1,}', b"\xff", b'{"name": "\\ud800"}', b"[" * 100_000])
def test_what_is_no_json(body):
    with pytest.raises(Refusal) as caught:
        parse(body, CreatePack)
    assert (caught.value.status, caught.value.error_code) == (400, "invalid_json")


def test_an_empty_update_says_the_wrong_thing():
    with pytest.raises(Refusal) as caught:
        parse(b"", UpdatePack)
    assert (caught.value.status, caught.value.error_code) == (422, "invalid_payload")


@given(st.binary(max_size=60) | st.from_regex(rb'\{"(name|image_url|contentType)": ?"?[^"]*"?\}', fullmatch=True))
def test_whatever_comes_is_taken_or_refused(body):
    for message in (CreatePack, UpdatePack, AddImage, UploadFile):
        with contextlib.suppress(Refusal):
            assert isinstance(parse(body, message), message)


@pytest.mark.parametrize(
    ("url", "content_type"),
    [
        ("https://example.com/a.PNG", "image/png"),
        ("https://example.com/a.gif?size=2", "image/gif"),
        ("https://example.com/a.webp", "image/webp"),
        ("https://example.com/a.heic", "image/heic"),
        ("https://example.com/a.heif", "image/heif"),
        ("https://example.com/a.avif", "image/avif"),
        ("https://example.com/a.jpeg", "image/jpeg"),
        ("https://example.com/a", "image/jpeg"),
        ("https://example.com/?x=.png", "image/jpeg"),
    ],
)
def test_the_type_is_inferred_from_the_ending(url, content_type):
    assert AddImage(image_url=url).content_type == content_type


@pytest.mark.parametrize(
    ("query", "page"), [({}, (20, 0)), ({"limit": "1"}, (1, 0)), ({"limit": "100", "offset": "7"}, (100, 7))]
)
def test_pages(query, page):
    wanted = read_page(query, default_limit=20)
    assert (wanted.limit, wanted.offset) == page


@pytest.mark.parametrize(
    "query",
    [
        *({"limit": text} for text in ("0", "101", "-1", "x", "", "1.5", "²", "9" * 5000)),
        *({"offset": text} for text in ("-1", "x", "", "9" * 19)),
    ],
)
def test_wrong_pages(query):
    with pytest.raises(ValueError, match="must be an integer"):
        read_page(query, default_limit=20)


def test_times_have_milliseconds_and_a_z():
    assert iso(1_771_326_120_007) == "2026-02-17T11:02:00.007Z"


def test_a_key_shows_no_secret():
    key = ApiKey(key="public.secret")
    assert "secret" not in repr(key)
    assert "secret" not in repr(SandboxSettings(keys=(key,)))
    assert key.public_id == "public"


@pytest.mark.parametrize("text", ["", "public", ".secret", "public.", "pub lic.secret", "public.secret\n"])
def test_a_key_that_is_none(text):
    with pytest.raises(ValueError, match=r"public_id\.secret"):
        ApiKey(key=text)


def test_fresh_keys_differ_and_share_their_scope():
    first, second = ApiKey.generate(), ApiKey.generate()
    assert first.key != second.key
    assert first.scope == second.scope
    assert ApiKey.generate(scope="personal", owner_id="me").scope == "users/me"


def test_a_key_is_changed_in_part():
    ring = Keyring([ApiKey(key="a.b", workspace_id="w")])
    ring.change(KeyChange(key="a.b", revoked=True))
    assert ring.find("a.b") == ApiKey(key="a.b", workspace_id="w", revoked=True)
    assert ring.find("c.d") is None


def test_keys_come_from_a_file(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text('[[key]]\nkey = "a.b"\n\n[[key]]\nkey = "c.d"\nkind = "personal"\nowner_id = "me"\ntier = "none"\n')
    keys = (ApiKey(key="a.b"), ApiKey(key="c.d", kind="personal", owner_id="me", tier="none"))
    assert load_keys(path) == keys
    assert SandboxSettings.from_files(keys_file=path).keys == keys


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"missing required field `key`"),
        ("key = []", r"length >= 1 - at `\$.key`"),
        ('[[key]]\nkey = "nodot"', r"public_id.secret - at `\$.key\[0\]`"),
        ('[[key]]\nkey = "a.b"\ntier = "gold"', r"'gold' - at `\$.key\[0\].tier`"),
        ('[[key]]\nkey = "a.b"\nworkspace_id = "../x"', r"at `\$.key\[0\].workspace_id`"),
        ('[[key]]\nkey = "a.topsecret"\n[[key]]\nkey = "a.topsecret"', r"key\[1\] \(a\.…\) is there twice"),
    ],
)
def test_wrong_keys_name_file_and_place(tmp_path, text, says):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(SandboxFileError, match=says) as caught:
        load_keys(path)
    assert str(caught.value).startswith(str(path))
    assert "topsecret" not in str(caught.value)
