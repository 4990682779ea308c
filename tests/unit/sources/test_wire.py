"""A job as JSON: what is one, and why something is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.model import Job
from ingest.sources.wire import FIELDS, LONGEST_JOB, Misread, UnknownFields, job_of, read_job

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60).filter(
    str.strip
)
jobs = st.builds(Job, image=texts, pack=st.none() | texts, file_name=st.none() | texts, id=st.none() | texts)


@pytest.mark.parametrize(
    ("raw", "job"),
    [
        (b'{"image": "a.jpg"}', Job(image="a.jpg")),
        (
            b' {"image":"a.jpg","pack":"P","file_name":"n.jpg","id":"7"}\r\n',
            Job(image="a.jpg", pack="P", file_name="n.jpg", id="7"),
        ),
        (b'{"image": "a.jpg", "pack": null, "file_name": null, "id": null}', Job(image="a.jpg")),
        (b'{"image": "https://h/a.jpg?x=1"}', Job(image="https://h/a.jpg?x=1")),
        (b'{"image": "\\u00e9 \\ud83d\\ude00"}', Job(image="é 😀")),
        (b'{"image": "first", "image": "last"}', Job(image="last")),
        (b'{"image": " a\\nb "}', Job(image=" a\nb ")),
    ],
)
def test_what_is_a_job(raw, job):
    assert read_job(raw) == job


@pytest.mark.parametrize(
    ("raw", "reason", "says"),
    [
        (b"", "bad_row", "not JSON"),
        (b"a.jpg", "bad_row", "not JSON"),
        (b'{"image": "a.jpg"', "bad_row", "not JSON"),
        (b'{"image": "a.jpg"} {}', "bad_row", "not JSON"),
        (b"{'image': 'a.jpg'}", "bad_row", "not JSON"),
        (b'{"image": "\\ud800"}', "bad_row", "not JSON"),
        (b'{"image": "a\0b"}', "bad_row", "not JSON"),
        (b'{"image": "\xff"}', "bad_row", "not UTF-8"),
        (b'{"other": "\xff", "image": "a"}', "bad_row", "not UTF-8"),
        (b'["a.jpg"]', "bad_row", "object"),
        (b'"a.jpg"', "bad_row", "object"),
        (b"null", "bad_row", "object"),
        (b'{"image": "a", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "bad_row", "nested"),
        (b'{"image": "a", "x": "' + b"y" * LONGEST_JOB + b'"}', "bad_row", "longer than 64 KiB"),
        (b"{}", "no_image", "no image"),
        (b'{"image": null}', "no_image", "no image"),
        (b'{"Image": "a.jpg"}', "no_image", "no image"),
        (b'{"image": 7}', "bad_image", "text"),
        (b'{"image": ["a.jpg"]}', "bad_image", "text"),
        (b'{"image": ""}', "bad_image", "empty"),
        (b'{"image": " \\t"}', "bad_image", "empty"),
        (b'{"image": "a\\u0000b"}', "bad_image", "NUL"),
        (b'{"image": "' + b"y" * 8193 + b'"}', "bad_image", "8192"),
        (b'{"image": "a", "pack": 7}', "bad_pack", "text"),
        (b'{"image": "a", "pack": ""}', "bad_pack", "empty"),
        (b'{"image": "a", "pack": "' + b"p" * 121 + b'"}', "bad_pack", "120"),
        (b'{"image": "a", "file_name": true}', "bad_file_name", "text"),
        (b'{"image": "a", "file_name": ""}', "bad_file_name", "empty"),
        (b'{"image": "a", "file_name": "' + b"p" * 256 + b'"}', "bad_file_name", "255"),
        (b'{"image": "a", "id": 17}', "bad_id", '"17"'),
        (b'{"image": "a", "id": " "}', "bad_id", "empty"),
        (b'{"image": "a", "id": "' + b"p" * 1025 + b'"}', "bad_id", "1024"),
    ],
)
def test_what_is_none(raw, reason, says):
    read = read_job(raw)
    assert isinstance(read, Misread)
    assert read.reason == reason
    assert says in read.detail


def test_nothing_of_an_image_is_quoted():
    for raw in (b'{"image": "https://u:pw@h/a?sig=SECRET\\u0000"}', b'{"image": "https://h/a?sig=SECRET" x}'):
        read = read_job(raw)
        assert isinstance(read, Misread)
        assert "SECRET" not in read.detail
        assert "pw" not in read.detail


def test_other_fields_are_noted_and_bounded():
    unknown = UnknownFields()
    read_job(b'{"image": "a", "title": 1, "Pack": 2}', unknown)
    read_job(b'{"image": 7, "title": 1}', unknown)
    assert unknown.counts == {"title": 2, "Pack": 1}
    for number in range(1000):
        read_job(json.dumps({"image": "a", f"field {number}": 1}).encode(), unknown)
    assert len(unknown.counts) == 20


@given(jobs)
def test_a_job_comes_back_as_it_was_written(job):
    fields = {name: value for name in FIELDS if (value := getattr(job, name)) is not None}
    assert read_job(json.dumps(fields).encode()) == job
    assert read_job(json.dumps(fields, ensure_ascii=False).encode()) == job
    assert job_of({**fields, "other": object()}) == job


@given(st.binary() | st.text().map(str.encode) | st.recursive(st.none() | st.booleans() | st.integers() | st.floats()
       | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*FIELDS, "x"]), inner)).map(
           lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_are_a_job_or_a_reason(raw):
    assert isinstance(read_job(raw), Job | Misread)
