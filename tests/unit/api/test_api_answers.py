"""The table: every answer, and every lack of one, is a value or exactly one error of the tree."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rude import Canned, answer, client_of, ok, refusal, run

from ingest.api.answers import retry_after_s
from ingest.api.client import PacksClient
from ingest.api.messages import UploadTicket
from ingest.api.transport import NoAnswer
from ingest.errors import Fatal, Rejected, RequestError, RequestFailure, Retryable, Uncertain
from ingest.model import Operation
from ingest.settings import MAX_RETRY_AFTER_S

TICKET = UploadTicket(
    upload_url="https://storage.example/x?X-Amz-Signature=0", url="https://cdn.example/x", content_type="image/png",
    expires_in_s=600,
)  # fmt: skip

Method = Callable[[PacksClient], Awaitable[Any]]

API_METHODS: dict[str, Method] = {
    "list_packs": lambda client: client.list_packs(),
    "get_pack": lambda client: client.get_pack("p"),
    "scan_pack": lambda client: client.scan_pack("p", ()),
    "create_pack": lambda client: client.create_pack("n"),
    "update_pack": lambda client: client.update_pack("p", name="n"),
    "delete_pack": lambda client: client.delete_pack("p"),
    "add_image": lambda client: client.add_image("p", "https://cdn.example/x"),
    "delete_image": lambda client: client.delete_image("p", "i"),
    "upload_file": lambda client: client.upload_file("image/png"),
    "list_files": lambda client: client.list_files(),
    "get_subscription": lambda client: client.get_subscription(),
}
LASTING = ("add_image", "create_pack")
REPEATABLE = tuple(name for name in API_METHODS if name not in LASTING)

HTML = b"<!DOCTYPE html><html><title>Bad gateway</title></html>"
IMAGE = '{"id":"i","url":"https://cdn.example/x","deleted":true}'
EVERYTHING = (  # what is enough for every endpoint
    '{"id":"p","name":"n","image_count":0,"is_public":false,"images":[],"url":"https://cdn.example/x","packs":[],'
    '"files":[],"total":0,"limit":1,"offset":0,"scope":"workspace","uploadUrl":"https://storage.example/x",'
    '"contentType":"image/png","expiresIn":600}'
)


def error_of(method: Method, end: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        run(method(client_of(end)))  # type: ignore[arg-type]
    return caught.value


def put(client: PacksClient) -> Awaitable[None]:
    return client.put_file(TICKET, b"x", content_type="image/png", content_length=1)


WORD_OF_THE_API = [
    (400, Rejected), (401, Fatal), (402, Fatal), (403, Fatal), (404, Rejected), (413, Rejected), (422, Rejected),
    (429, Retryable),
]  # fmt: skip


@pytest.mark.parametrize("name", API_METHODS)
@pytest.mark.parametrize(("status", "kind"), WORD_OF_THE_API)
def test_what_the_api_says_in_its_envelope_counts(name: str, status: int, kind: type[RequestError]) -> None:
    error = error_of(API_METHODS[name], answer(status, refusal(status, "its_word")))
    assert type(error) is kind
    assert (error.status, error.error_code, error.failure) == (status, "its_word", None)
    assert error.reason == "its_word"


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 418])
@pytest.mark.parametrize("name", API_METHODS)
def test_an_envelope_that_promises_nothing(name: str, status: int) -> None:
    error = error_of(API_METHODS[name], answer(status, refusal(status)))
    assert type(error) is (Uncertain if name in LASTING else Retryable)
    assert (error.status, error.error_code, error.failure) == (status, None, None)


NO_ENVELOPE = [
    b"", b" ", HTML, b"<?xml version='1.0'?>", b"null", b"[]", b"true", b'"ok"', b"{", b"{}", b"\xff\xfe",
    b"[" * 100_000, b'{"ok":false,"x":"\xff"}',
    b'{"ok":false}', b'{"ok":false,"code":500}', b'{"ok":false,"code":"500","message":"m"}',
    b'{"ok":0,"code":500,"message":"m"}', b'{"ok":false,"code":500,"message":null}', refusal(500)[:-1],
    b'{"ok":false,"code":500,"message":"m","error_code":7}', b'{"ok":true,"code":200,"message":"m","data":{}}',
    b'{"error":"no route"}', refusal(500).decode().encode("utf-16"),
]  # fmt: skip


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 422, 429, 500, 503])
@pytest.mark.parametrize("body", NO_ENVELOPE, ids=lambda body: repr(body[:30]))
def test_outside_its_envelope_the_api_has_said_nothing(body: bytes, status: int) -> None:
    for name, method in API_METHODS.items():
        error = error_of(method, answer(status, body))
        assert type(error) is (Uncertain if name in LASTING else Retryable), name
        assert (error.status, error.error_code, error.failure) == (status, None, RequestFailure.UNREADABLE)


BAD_SUCCESS = [
    *NO_ENVELOPE,
    refusal(200),
    refusal(500),
    b'{"ok":true,"code":200,"message":"m"}',
    ok("null"),
    ok("[]"),
    ok("7"),
    ok(IMAGE).replace(b'"ok":true', b'"ok":false'),
]


@pytest.mark.parametrize("body", BAD_SUCCESS, ids=lambda body: repr(body[:60]))
def test_a_success_that_is_none(body: bytes) -> None:
    for name, method in API_METHODS.items():
        if name.startswith("delete") and b'"data":{}' in body:
            continue  # `data: {}` is enough for a delete
        error = error_of(method, answer(200, body))
        assert type(error) is (Uncertain if name in LASTING else Retryable), name
        assert (error.status, error.error_code, error.failure) == (200, None, RequestFailure.UNREADABLE)


def test_a_refusal_in_a_success_is_told_in_the_words_of_the_api() -> None:
    error = error_of(API_METHODS["get_pack"], answer(200, refusal(500, "internal")))
    assert "(internal, “no”)" in str(error)


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_any_2xx_with_the_right_data_is_a_success(status: int) -> None:
    assert run(client_of(answer(status, ok(IMAGE, code=status))).add_image("p", "u")).id == "i"


@pytest.mark.parametrize("code", [b"", b'"code":null,'])
def test_a_success_may_leave_the_code_out(code: bytes) -> None:
    for method in API_METHODS.values():
        error = None
        try:
            run(method(client_of(answer(200, ok(EVERYTHING).replace(b'"code":200,', code)))))  # type: ignore[arg-type]
        except RequestError as raised:
            error = raised
        assert error is None


@pytest.mark.parametrize("name", API_METHODS)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, ok("EVERYTHING", code=500)) for status in (200, 201)),
        (200, ok("EVERYTHING", code=201)),
        (200, ok("EVERYTHING").replace(b'"code":200', b'"code":"200"')),
        (200, ok("EVERYTHING").replace(b'"code":200', b'"code":true')),
        *((status, refusal(500, "internal")) for status in (400, 401, 402, 403, 404, 413, 422, 429, 503)),
        (404, refusal(401)),
        (500, refusal(404, "not_found")),
    ],
)
def test_an_envelope_for_another_status_says_nothing(name: str, status: int, body: bytes) -> None:
    error = error_of(API_METHODS[name], answer(status, body.replace(b"EVERYTHING", EVERYTHING.encode())))
    assert type(error) is (Uncertain if name in LASTING else Retryable)
    assert (error.status, error.error_code, error.failure) == (status, None, RequestFailure.UNREADABLE)


@pytest.mark.parametrize("data", ['{"id":"","url":"u"}', '{"id":"i","url":""}', '{"id":"i"}', '{"url":"u"}'])
def test_an_add_that_does_not_tell_what_it_added_is_uncertain(data: str) -> None:
    error = error_of(API_METHODS["add_image"], answer(201, ok(data, code=201)))
    assert (type(error), error.failure) == (Uncertain, RequestFailure.UNREADABLE)


@pytest.mark.parametrize("name", ["get_pack", "scan_pack", "update_pack"])
def test_another_pack_than_the_one_that_was_asked_for_tells_nothing_of_it(name: str) -> None:
    error = error_of(API_METHODS[name], answer(200, ok(EVERYTHING.replace('"id":"p"', '"id":"q"'))))
    assert (type(error), error.failure) == (Retryable, RequestFailure.UNREADABLE)
    assert "a pack other than" in str(error)


def test_a_delete_that_says_it_did_not() -> None:
    for name in ("delete_pack", "delete_image"):
        error = error_of(API_METHODS[name], answer(200, ok('{"id":"i","deleted":false}')))
        assert error.failure is RequestFailure.UNREADABLE


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "ftp://x/y",
        "https://",
        "https://x/ y",
        "https://x/ü",
        "https://[/x",
        "https://x/\\u0000",
        f"https://{'a' * 64}.x/",
        "https://x:99999/",
        "https://x..y/",
    ],
)
def test_a_ticket_to_nowhere(url: str) -> None:
    body = ok(f'{{"uploadUrl":"{url}","url":"https://c/x","contentType":"image/png","expiresIn":600}}', code=201)
    assert error_of(API_METHODS["upload_file"], answer(201, body)).failure is RequestFailure.UNREADABLE


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("name", API_METHODS)
def test_a_redirect_names_its_host_and_what_to_correct(name: str, status: int) -> None:
    target = "https://elsewhere.example/v1?token=secret"
    error = error_of(API_METHODS[name], answer(status, HTML, {"location": target}))
    assert type(error) is (Uncertain if name in LASTING else Retryable)
    assert error.failure is RequestFailure.UNREADABLE
    assert "elsewhere.example" in str(error)
    assert "secret" not in str(error)
    assert name in LASTING or "GENVIRAL_BASE_URL" in str(error)


@pytest.mark.parametrize("location", ["", "/packs", "https://[bad"])
def test_a_redirect_to_nowhere(location: str) -> None:
    assert error_of(API_METHODS["get_pack"], answer(302, b"", {"Location": location})).status == 302


@pytest.mark.parametrize("failure", RequestFailure)
@pytest.mark.parametrize("was_sent", [True, False])
@pytest.mark.parametrize("name", [*API_METHODS, "put_file"])
def test_no_answer(name: str, was_sent: bool, failure: RequestFailure) -> None:
    silence = NoAnswer("nothing came", failure=failure, was_sent=was_sent, status=None)
    error = error_of(API_METHODS.get(name, put), silence)
    assert type(error) is (Uncertain if name in LASTING and was_sent else Retryable)
    assert (error.status, error.failure, error.reason) == (None, failure, failure.value)
    assert "nothing came" in str(error)
    assert error.__cause__ is silence


def s3(code: str, message: str = "no") -> bytes:
    return f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "failure"),
    [
        (403, s3("AccessDenied"), Retryable, "AccessDenied", None),
        (403, s3("SignatureDoesNotMatch"), Retryable, "SignatureDoesNotMatch", None),
        (403, b"", Retryable, None, RequestFailure.UNREADABLE),
        (403, HTML, Retryable, None, RequestFailure.UNREADABLE),
        (400, s3("EntityTooLarge"), Rejected, "EntityTooLarge", None),
        (413, b"", Rejected, None, None),
        (413, HTML, Rejected, None, None),
        (400, s3("BadDigest"), Retryable, "BadDigest", None),
        (404, s3("NoSuchBucket"), Retryable, "NoSuchBucket", None),
        (500, s3("InternalError"), Retryable, "InternalError", None),
        (503, s3("SlowDown"), Retryable, "SlowDown", None),
        (502, HTML, Retryable, None, RequestFailure.UNREADABLE),
        (200, HTML, Retryable, None, RequestFailure.UNREADABLE),
        (200, b"\xef\xbb\xbf \n<HTML>", Retryable, None, RequestFailure.UNREADABLE),
        (200, s3("InternalError"), Retryable, "InternalError", None),
        (307, s3("TemporaryRedirect"), Retryable, None, RequestFailure.UNREADABLE),
        (400, s3("not a word, but a whole sentence"), Retryable, None, RequestFailure.UNREADABLE),
        (400, b"<Code>" * 10_000, Retryable, None, RequestFailure.UNREADABLE),
        (400, b"<Error><Code>&xxe;</Code></Error>", Retryable, None, RequestFailure.UNREADABLE),
    ],
)
def test_storage(
    status: int, body: bytes, kind: type[RequestError], code: str | None, failure: RequestFailure | None
) -> None:
    error = error_of(put, answer(status, body))
    assert type(error) is kind
    assert (error.operation, error.status, error.error_code, error.failure) == (
        Operation.PUT_FILE,
        status,
        code,
        failure,
    )


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, b"", {}),
        (200, b"", {"Content-Type": "text/html"}),
        (201, b"<PostResponse><Location>x</Location></PostResponse>", {"Content-Type": "application/xml"}),
        (204, b"", {}),
        (200, b'{"stored": true}', {"Content-Type": "application/json", "etag": '"5d41"'}),
    ],
)
def test_storage_took_it(status: int, body: bytes, headers: dict[str, str]) -> None:
    run(client_of(answer(status, body, headers)).put_file(TICKET, b"x", content_type="image/png", content_length=1))


def test_a_page_by_its_content_type_is_no_success() -> None:
    page = answer(200, b"Please log in to this network", {"Content-Type": "text/html; charset=utf-8"})
    assert error_of(put, page).failure is RequestFailure.UNREADABLE


@pytest.mark.parametrize("body", [b'{"ok": false, "code": 500}', b'{"ok": true}', b"busy", b"\x00"])
def test_what_is_not_the_storages_word_is_no_success(body: bytes) -> None:
    error = error_of(put, answer(200, body))
    assert isinstance(error, Retryable)
    assert error.failure is RequestFailure.UNREADABLE


@pytest.mark.parametrize(
    "end",
    [answer(429, refusal(429), {"Retry-After": "7"}), answer(503, HTML, {"Retry-After": "7"})],
)
def test_retry_after_comes_with_the_error(end: Any) -> None:
    error = error_of(API_METHODS["get_pack"], end)
    assert isinstance(error, Retryable)
    assert error.retry_after_s == 7.0


def test_slow_down_comes_with_the_error() -> None:
    error = error_of(put, answer(503, s3("SlowDown"), {"Retry-After": "3"}))
    assert isinstance(error, Retryable)
    assert error.retry_after_s == 3.0


NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "5"}, 5.0),
        ({"Retry-After": " 5 "}, 5.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "9" * 300}, 1e300),
        ({"Retry-After": "9" * 1000}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:30 -0000"}, 30.0),
        ({"Retry-After": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0.0),
        ({"Retry-After": "Sat, 15 Jan 2028 08:00:00 GMT"}, 365 * 86_400.0),
        ({"Retry-After": "Fri, 15 Jan 99999 07:00:00 GMT"}, None),
        ({"Retry-After": "Fri, 15 Jan 2027 09:00:10 GMT", "Date": "Fri, 15 Jan 2027 09:00:00 GMT"}, 10.0),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:30 GMT", "Date": "yesterday"}, 30.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(answer(429, b"", headers).headers, NOW) == expected


@given(st.text())
def test_any_retry_after_is_a_pause_or_none(value: str) -> None:
    pause_s = retry_after_s(answer(429, b"", {"Retry-After": value, "Date": value}).headers, NOW)
    assert pause_s is None or 0.0 <= pause_s < math.inf


def test_an_error_carries_no_pause_without_an_end() -> None:
    error = error_of(API_METHODS["get_pack"], answer(429, refusal(429), {"Retry-After": "31536000"}))
    assert isinstance(error, Retryable)
    assert error.retry_after_s == MAX_RETRY_AFTER_S


json_like = st.recursive(
    st.sampled_from([b"true", b"false", b"null", b"0", b"1e999", b'"x"', b'"\\ud800"', b'"https://x/y"', b"-", b""]),
    lambda inner: (
        st.builds(b"[%b,%b]".__mod__, st.tuples(inner, inner))
        | st.builds(
            b'{"%b":%b,"%b":%b}'.__mod__,
            st.tuples(
                st.sampled_from([b"ok", b"data", b"code", b"id"]),
                inner,
                st.sampled_from([b"data", b"url", b"message"]),
                inner,
            ),
        )
    ),
    max_leaves=10,
)


@given(st.sampled_from([*API_METHODS, "put_file"]), st.integers(200, 599), st.binary() | json_like)
@example("add_image", 201, ok('{"id":"\\ud800","url":"u"}'))
@example("add_image", 201, ok('{"id":"i","url":"' + "x" * 100_000 + '"}'))
@example("get_pack", 404, b'{"ok":false,"code":404,"message":"\\ud800\\u202e\\u0007"}')
def test_any_bytes_are_a_value_or_an_error_of_the_tree(name: str, status: int, body: bytes) -> None:
    error: RequestError | None = None
    try:
        run(API_METHODS.get(name, put)(client_of(answer(status, body))))  # type: ignore[arg-type]
    except RequestError as raised:
        error = raised
    if error is not None:
        what_came, _, what_to_do = str(error).partition("\n")
        assert what_came.isprintable()
        assert what_to_do.isprintable()
        assert len(str(error)) < 800
        assert type(error) is not Uncertain or name in LASTING


def test_a_message_says_what_was_tried_what_came_and_what_to_do() -> None:
    error = error_of(API_METHODS["get_pack"], answer(404, refusal(404, "not_found", "Pack not found")))
    assert str(error) == (
        "Reading the pack (GET https://api.example/v1/packs/p): HTTP 404 not_found, “Pack not found”.\n"
        "Check the id, and that the key is of the pack's own workspace, or personal as the pack is."
    )


def test_one_call_is_one_request_whatever_comes() -> None:
    for status in (200, 301, 401, 429, 500):
        client = client_of(answer(status))
        with pytest.raises(RequestError):
            run(client.get_pack("p"))
        transport = client._transport
        assert isinstance(transport, Canned)
        assert len(transport.calls) == 1
