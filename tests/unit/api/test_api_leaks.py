"""Neither the key nor a presigned query string is in any error, its causes, its context or its traceback."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rude import KEY, SECRET, always, answer, client_of, hang_up, http, refusal, run, serve, silence

from ingest.api.client import PacksClient
from ingest.api.messages import UploadTicket
from ingest.api.redaction import excerpt, without_query, word
from ingest.errors import RequestError
from ingest.settings import ApiSettings

SIGNATURE = "f00dfeed0123456789"
QUERY = f"X-Amz-Credential=AKIA&X-Amz-Signature={SIGNATURE}"


def ticket(base_url: str) -> UploadTicket:
    return UploadTicket(
        upload_url=f"{base_url}/bucket/x?{QUERY}",
        url="https://cdn.example/x",
        content_type="image/png",
        expires_in_s=600,
    )


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if error.__context__ is not None and error.__context__ is not error.__cause__:
            yield from chain(error.__context__)
        error = error.__cause__


def assert_clean(error: BaseException) -> None:
    texts = ["".join(traceback.format_exception(error))]
    for link in chain(error):
        texts += [str(link), repr(link), repr(link.args), repr(vars(link)), *getattr(link, "__notes__", ())]
    for text in texts:
        assert SIGNATURE not in text
        assert SECRET not in text


async def get(client: PacksClient, _url: str) -> Any:
    return await client.get_pack("p")


async def add(client: PacksClient, _url: str) -> Any:
    return await client.add_image("p", "u")


async def put(client: PacksClient, url: str) -> Any:
    await client.put_file(ticket(url), b"x", content_type="image/png", content_length=1)


async def put_much(client: PacksClient, url: str) -> Any:
    await client.put_file(ticket(url), bytes(20_000_000), content_type="image/png", content_length=20_000_000)


ECHO = f"you sent {KEY} and {QUERY}"
RUDE = {
    "silence": silence,
    "hang up": hang_up,
    "cut": always(http(200, b"{}")[:-1], then_close=True),
    "no http": always(b"HTTP/1.1 nonsense\r\n\r\n", then_close=True),
    "cut chunk": always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", then_close=True),
    "redirect": always(http(307, b"", {"Location": f"https://u:{SECRET}@x.example/?{QUERY}"})),
    "echo": always(http(422, refusal(422, message=ECHO))),
    "echo in code": always(http(422, refusal(422, error_code=SECRET))),
    "page": always(http(500, ECHO.encode())),
    "storage": always(http(400, f"<Error><Code>{SIGNATURE}</Code><Message>{ECHO}</Message></Error>".encode())),
}


@pytest.mark.parametrize("behaviour", RUDE)
@pytest.mark.parametrize("act", [get, add, put, put_much])
async def test_whatever_goes_wrong(behaviour: str, act: Callable[[PacksClient, str], Awaitable[Any]]) -> None:
    reads_body = act is not put_much
    async with serve(RUDE[behaviour], reads_body=reads_body) as server:
        settings = ApiSettings(key=KEY, base_url=server.url, timeout_s=0.2 if behaviour == "silence" else 50.0)
        async with PacksClient.connect(settings) as client:
            with pytest.raises(RequestError) as caught:
                await act(client, server.url)
        assert_clean(caught.value)


@pytest.mark.parametrize("act", [get, add, put, put_much])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_without_a_connection(scheme: str, act: Callable[[PacksClient, str], Awaitable[Any]]) -> None:
    async with serve(silence) as server:
        server.scheme = scheme
    async with PacksClient.connect(ApiSettings(key=KEY, base_url=server.url)) as client:
        with pytest.raises(RequestError) as caught:
            await act(client, server.url)
    assert_clean(caught.value)


async def test_a_body_that_fails() -> None:
    async def body() -> Any:
        yield bytes(100_000)
        raise OSError(5, "Input/output error")

    async with serve(silence, reads_body=False) as server:
        async with PacksClient.connect(ApiSettings(key=KEY, base_url=server.url)) as client:
            with pytest.raises(OSError, match="Input/output") as caught:
                await client.put_file(ticket(server.url), body(), content_type="image/png", content_length=200_000)
        assert_clean(caught.value)


async def test_a_cancellation() -> None:
    async with serve(silence) as server, PacksClient.connect(ApiSettings(key=KEY, base_url=server.url)) as client:
        task = asyncio.create_task(put(client, server.url))
        await server.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    assert_clean(caught.value)


@pytest.mark.parametrize(
    "message", [KEY, SECRET, SECRET[:10], f"Bearer {KEY}", QUERY, "?Signature=abc", "x-goog-signature"]
)
def test_a_message_that_may_hold_a_secret_is_withheld(message: str) -> None:
    with pytest.raises(RequestError, match="withheld") as caught:
        run(client_of(answer(422, refusal(422, message=message))).get_pack("p"))
    assert message not in str(caught.value)


@given(st.text("ab0 \x1f\u202e"), st.text("ab0", min_size=1))
def test_an_excerpt_is_one_short_line_without_the_secret(text: str, secret: str) -> None:
    line = excerpt(text, (secret,))
    assert len(line) <= 200
    assert line.isprintable()
    assert secret not in line or "withheld" in line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://x/y?a=1#f", "https://x/y"),
        ("https://x/y#f?a", "https://x/y"),
        ("https://u:p@x/y", "https://x/y"),
        ("https://u:p@x", "https://x"),
        ("https://x/@y", "https://x/@y"),
        ("/y?a=1", "/y"),
        ("u:p@x/y", "x/y"),
        ("https://x?a=b@c://", "https://x"),
        ("", ""),
    ],
)
def test_a_url_without_its_query(url: str, shown: str) -> None:
    assert without_query(url) == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [("not_found", "not_found"), ("SlowDown", "SlowDown"), ("", None), (None, None), ("a b", None), ("x" * 65, None),
     ("secret-word", None), ("new\nline", None), ("word\n", None)],
)  # fmt: skip
def test_a_word_for_machines(text: str | None, expected: str | None) -> None:
    assert word(text, ("secret-w",)) == expected
