"""Two spellings of one url are known for one, and two urls never are."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.policy.spelling import Spellings, canonical

PLAIN = "https://cdn.test/w/a(1) é.jpg"

parts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/?#%"), min_size=1, max_size=8)
urls = st.lists(parts, min_size=1, max_size=3).map(lambda path: "https://cdn.test/" + "/".join(path))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PLAIN, "https://cdn.test/w/a%281%29%20%C3%A9.jpg"),
        (PLAIN, "https://cdn.test/w/a%281)%20%c3%A9.jpg"),
        (PLAIN, "https://cdn.test/%77/%61(1) %C3%a9%2Ejpg"),
        ("https://cdn.test/a%2fb", "https://cdn.test/%61%2Fb"),
        ("https://cdn.test/a%ff%2F", "https://cdn.test/%61%FF%2f"),  # no UTF-8
        ("https://cdn.test/%28?a=%28#%28", "https://cdn.test/(?a=%28#%28"),
    ],
)
def test_one_url(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://cdn.test/a%2Fb", "https://cdn.test/a/b"),
        ("https://cdn.test/a%3Fb", "https://cdn.test/a?b"),
        ("https://cdn.test/a%23b", "https://cdn.test/a#b"),
        ("https://cdn.test/a%2541", "https://cdn.test/a%41"),
        ("https://cdn.test/%2541", "https://cdn.test/A"),
        ("https://cdn.test/x?a=%28", "https://cdn.test/x?a=("),
        ("https://cdn.test/x#%28", "https://cdn.test/x#("),
        ("https://a%2Eb/x", "https://a.b/x"),
        ("https://cdn.test/%C3", "https://cdn.test/%A9"),
        ("https://CDN.test/x", "https://cdn.test/x"),
    ],
)
def test_two_urls(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    "url", ["", "%", "%41", "a/%41", "//%41", "https://x", "https://x/%", "https://x/%4", "https://x/%zz", "%" * 9]
)
def test_what_is_no_url_or_has_no_escapes_is_its_own_spelling(url: str) -> None:
    assert canonical(url) == url


@given(urls, st.data())
def test_any_spelling_is_known_for_the_url_that_is_wanted(url: str, data: st.DataObject) -> None:
    wanted, stored = (_respelt(url, data) for _ in range(2))
    assert canonical(wanted) == canonical(stored)
    assert Spellings({wanted}).meant(stored) == wanted
    assert Spellings({wanted, "https://cdn.test/other"}).meant(stored) == wanted


@given(urls, urls, st.data())
def test_spellings_of_two_urls_stay_two(one: str, other: str, data: st.DataObject) -> None:
    is_one = unquote(one) == unquote(other)
    assert (canonical(_respelt(one, data)) == canonical(_respelt(other, data))) == is_one


@given(st.text())
def test_any_text_has_a_spelling(text: str) -> None:
    canonical(text)
    canonical(f"https://cdn.test/{text}%28")
    assert Spellings(()).meant(text) is None


def test_the_spelling_that_is_wanted_itself_goes_before_another() -> None:
    escaped, decoded = "https://cdn.test/%28", "https://cdn.test/("
    both = Spellings({escaped, decoded})
    assert (both.meant(escaped), both.meant(decoded)) == (escaped, decoded)


def _respelt(url: str, data: st.DataObject) -> str:
    """The same url, with some characters of its path as escapes, in capitals or not."""
    path = url.removeprefix("https://cdn.test/")
    spelt = ""
    for character in path:
        way = "plain" if character == "/" else data.draw(st.sampled_from(["plain", "upper", "lower"]))
        escaped = "".join(f"%{octet:02X}" for octet in character.encode()) if way != "plain" else character
        spelt += escaped.lower() if way == "lower" else escaped
    return f"https://cdn.test/{spelt}"
