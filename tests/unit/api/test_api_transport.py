"""One exchange over a real socket: every way it can end, and that nothing is ever sent twice."""

import asyncio
import gzip
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from rude import KEY, Received, RudeServer, always, hang_up, http, ok, refusal, serve, silence

from ingest.api import transport as transport_module
from ingest.api.client import PacksClient
from ingest.api.transport import Call, HttpTransport, NoAnswer
from ingest.api.wire import KEEPALIVE_S
from ingest.errors import ImageChanged, RequestFailure, Retryable, Uncertain
from ingest.model import Operation
from ingest.settings import ApiSettings

PATIENT_S = 50.0
IMPATIENT_S = 0.2

HEADERS = {"Authorization": f"Bearer {KEY}"}


def call_to(server: RudeServer, operation: Operation = Operation.ADD_IMAGE, **changes: Any) -> Call:
    fields: dict[str, Any] = {"method": "POST", "url": f"{server.url}/x%2Fy?a=%2B", "headers": HEADERS, "body": b"{}"}
    return Call(operation=operation, **{**fields, **changes})


def get(server: RudeServer, **changes: Any) -> Call:
    return call_to(server, Operation.GET_PACK, method="GET", body=None, **changes)


def put(server: RudeServer, body: Any, content_length: int | None = None) -> Call:
    headers = {"Content-Type": "image/png"}
    return call_to(server, Operation.PUT_FILE, method="PUT", headers=headers, body=body, content_length=content_length)


def settings(server: RudeServer | None = None, timeout_s: float = PATIENT_S) -> ApiSettings:
    return ApiSettings(key=KEY, base_url=server.url if server else "http://127.0.0.1:1", timeout_s=timeout_s)


async def no_answer(call: Call, timeout_s: float = PATIENT_S) -> NoAnswer:
    async with HttpTransport.open(settings(timeout_s=timeout_s), 4) as transport:
        with pytest.raises(NoAnswer) as caught:
            await transport.exchange(call)
    return caught.value


def outcome(error: NoAnswer) -> tuple[RequestFailure, bool, int | None]:
    return error.failure, error.was_sent, error.status


# What goes out


async def test_a_request_is_sent_as_it_is() -> None:
    async with (
        serve(always(http(200, b"{}", {"X-Thing": "1"}))) as server,
        HttpTransport.open(settings(), 4) as carrier,
    ):
        answer = await carrier.exchange(call_to(server))
        assert (answer.status, answer.body, answer.headers["x-thing"]) == (200, b"{}", "1")
        (received,) = server.requests
        assert received.line == "POST /x%2Fy?a=%2B HTTP/1.1"
        assert received.body == b"{}"
        assert received.headers["User-Agent"].startswith("ingest/")
        assert received.headers["Authorization"] == f"Bearer {KEY}"
        assert "Cookie" not in received.headers


async def test_cookies_are_not_kept() -> None:
    async with serve(always(http(200, b"{}", {"Set-Cookie": "a=b; Path=/"}))) as server:
        async with HttpTransport.open(settings(), 4) as transport:
            for _ in range(2):
                await transport.exchange(get(server))
        assert all("Cookie" not in received.headers for received in server.requests)


async def test_a_netrc_is_not_read(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with serve(always(http(200))) as server, HttpTransport.open(settings(), 4) as transport:
        await transport.exchange(call_to(server))
        await transport.exchange(put(server, b"x", 1))
        assert [received.headers.get("Authorization") for received in server.requests] == [f"Bearer {KEY}", None]


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_body_of_any_size(size: int, is_streamed: bool) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    source = in_pieces(body[: size // 2], body[size // 2 :]) if is_streamed else body
    async with serve(always(http(200))) as server, HttpTransport.open(settings(), 4) as transport:
        await transport.exchange(put(server, source, size))
        (received,) = server.requests
        assert received.body == body
        assert received.headers["Content-Length"] == str(size)
        assert "Transfer-Encoding" not in received.headers


async def test_a_stream_needs_its_length() -> None:
    async with serve(silence) as server, HttpTransport.open(settings(), 4) as transport:
        with pytest.raises(TypeError, match="content_length"):
            await transport.exchange(put(server, in_pieces(b"x")))


async def test_at_most_so_many_at_once_and_the_rest_wait_outside_their_timeout() -> None:
    gate, full = asyncio.Event(), asyncio.Event()

    async def hold(_received: Received, _reader: Any, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 2:
            full.set()
        await gate.wait()
        writer.write(http(200))

    async with serve(hold) as server, HttpTransport.open(settings(), 2) as transport, asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(transport.exchange(get(server)))
        await full.wait()
        assert len(server.requests) == 2
        gate.set()
    assert len(server.requests) == 5


# What comes back


async def test_a_redirect_is_an_answer_and_the_key_goes_nowhere() -> None:
    async with serve(always(http(200, ok("{}")))) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            redirect = http(status, b"", {"Location": f"{elsewhere.url}/packs"})
            async with serve(always(redirect)) as server, PacksClient.connect(settings(server)) as client:
                with pytest.raises(Retryable, match=r"127\.0\.0\.1") as caught:
                    await client.get_pack("p")
                assert caught.value.status == status
                with pytest.raises(Uncertain):
                    await client.add_image("p", "u")
        assert elsewhere.requests == []


async def test_a_compressed_answer() -> None:
    packed = http(200, gzip.compress(b'{"a":1}'), {"Content-Encoding": "gzip"})
    async with serve(always(packed)) as server, HttpTransport.open(settings(), 4) as transport:
        assert (await transport.exchange(get(server))).body == b'{"a":1}'


async def test_an_answer_may_end_with_its_connection() -> None:
    raw = b"HTTP/1.1 200 OK\r\n\r\nhello"
    async with serve(always(raw, then_close=True)) as server, HttpTransport.open(settings(), 4) as transport:
        assert (await transport.exchange(get(server))).body == b"hello"


async def test_a_200_goes_into_the_sink_and_any_other_answer_does_not() -> None:
    pieces: list[bytes] = []
    body = b"x" * 300_000
    async with HttpTransport.open(settings(), 4) as transport:
        async with serve(always(http(200, body))) as server:
            answer = await transport.exchange(get(server, sink=pieces.append))
        assert (answer.status, answer.body) == (200, b"")
        assert b"".join(pieces) == body
        async with serve(always(http(404, refusal(404)))) as server:
            answer = await transport.exchange(get(server, sink=pieces.append))
        assert answer.body == refusal(404)
        assert b"".join(pieces) == body


async def test_a_sink_may_refuse_an_answer_that_never_ends() -> None:
    async def flood(_received: Received, _reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"<html>" * 10_000)
            await writer.drain()

    def refuse(_piece: bytes) -> None:
        raise ValueError("a page")

    async with serve(flood) as server:
        error = await no_answer(get(server, sink=refuse))
    assert outcome(error) == (RequestFailure.UNREADABLE, True, 200)
    assert str(error) == "a page"


@pytest.mark.parametrize("is_packed", [False, True])
async def test_an_answer_has_a_largest_size(monkeypatch: pytest.MonkeyPatch, is_packed: bool) -> None:
    monkeypatch.setattr(transport_module, "MAX_ANSWER_BYTES", 1000)
    body, headers = b"x" * 1001, {}
    if is_packed:
        body, headers = gzip.compress(body), {"Content-Encoding": "gzip"}
    async with serve(always(http(200, body, headers))) as server:
        assert outcome(await no_answer(get(server))) == (RequestFailure.UNREADABLE, True, 200)


@pytest.mark.parametrize(
    "raw",
    [
        http(200, b'{"ok":true}')[:-1],
        http(200, b"xx", {"Content-Encoding": "gzip"}),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
    ],
)
async def test_a_body_that_can_not_be_read(raw: bytes) -> None:
    async with serve(always(raw, then_close=True)) as server:
        assert outcome(await no_answer(call_to(server))) == (RequestFailure.UNREADABLE, True, 200)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    ],
)
async def test_an_answer_that_is_no_http(raw: bytes) -> None:
    async with serve(always(raw, then_close=True)) as server:
        error = await no_answer(call_to(server))
    assert error.was_sent
    assert error.status is None
    assert error.failure in {RequestFailure.UNREADABLE, RequestFailure.CONNECT}


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
async def test_a_connection_that_is_closed_before_an_answer(raw: bytes) -> None:
    async with serve(always(raw, then_close=True)) as server:
        assert outcome(await no_answer(call_to(server))) == (RequestFailure.CONNECT, True, None)


async def test_a_connection_that_is_reset_within_an_answer() -> None:
    async def reset(_received: Received, _reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        await half_read.wait()
        linger = struct.pack("ii", 1, 0)  # on, for no time: closing resets the connection
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise ConnectionResetError

    half_read = asyncio.Event()
    async with serve(reset) as server:
        error = await no_answer(get(server, sink=lambda _piece: half_read.set()))
    assert outcome(error) == (RequestFailure.UNREADABLE, True, 200)


# Nothing was sent


async def test_a_refused_connection() -> None:
    async with serve(silence) as server:
        pass
    assert outcome(await no_answer(call_to(server))) == (RequestFailure.CONNECT, False, None)


async def test_a_host_that_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: Any, **_kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await no_answer(Call(operation=Operation.ADD_IMAGE, method="POST", url="http://host.invalid/", body=b"{}"))
    assert outcome(error) == (RequestFailure.CONNECT, False, None)
    assert "host.invalid" in str(error)


async def test_a_handshake_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "CONNECT_TIMEOUT_S", 0.1)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with listener:
        server = RudeServer(port=listener.sockets[0].getsockname()[1], scheme="https")
        assert outcome(await no_answer(call_to(server))) == (RequestFailure.CONNECT, False, None)


# Nothing is sent twice


@pytest.mark.parametrize("make", [get, call_to, lambda server: put(server, b"x", 1)])
async def test_a_kept_connection_that_breaks_is_not_tried_again(make: Callable[[RudeServer], Call]) -> None:
    async def answer_once(received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            writer.write(http(200))
        else:
            await hang_up(received, reader, writer)

    async with serve(answer_once) as server, HttpTransport.open(settings(), 4) as transport:
        await transport.exchange(make(server))
        with pytest.raises(NoAnswer) as caught:
            await transport.exchange(make(server))
        assert outcome(caught.value) == (RequestFailure.CONNECT, True, None)
        assert len(server.requests) == 2
        assert len({request.line for request in server.requests}) == 1


async def test_connections_are_kept_for_less_than_a_server_keeps_them() -> None:
    assert KEEPALIVE_S < 5.0
    async with HttpTransport.open(settings(), 4) as transport:
        for lane in transport._lanes.values():
            assert lane.wire.connector._keepalive_timeout == KEEPALIVE_S


async def test_what_nobody_asked_for_answers_nothing() -> None:
    """A stray answer on a kept connection would be taken for the next one's, and every later one's for another."""
    has_strayed = asyncio.Event()

    async def stray(received: Received, _reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, received.line.encode()))
        await writer.drain()
        if len(server.requests) == 1:
            await asyncio.sleep(0.05)  # beyond the answer, or it would come with that
            writer.write(http(200, b"nobody asked"))
            await writer.drain()
            has_strayed.set()

    async with serve(stray) as server, HttpTransport.open(settings(), 4) as transport:
        for _ in range(3):
            answer = await transport.exchange(get(server))
            assert answer.body.startswith(b"GET")
            await has_strayed.wait()
            await asyncio.sleep(0.05)


async def test_nothing_is_left_to_be_written_once_a_request_has_its_answer() -> None:
    async with serve(always(http(200))) as server, HttpTransport.open(settings(), 4) as transport:
        await transport.exchange(get(server))
        (pool,) = [lane.wire.connector for lane in transport._lanes.values() if lane.wire.connector._conns]
        for ((protocol, _),) in pool._conns.values():
            assert protocol.transport.get_write_buffer_size() == 0


async def test_a_connection_is_used_again() -> None:
    peers = set()

    async def note(_received: Received, _reader: Any, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        writer.write(http(200))

    async with serve(note) as server, HttpTransport.open(settings(), 4) as transport:
        for size in (1, 100_000, 5):
            await transport.exchange(put(server, bytes(size), size))
    assert len(peers) == 1


# No progress


async def test_silence_times_out() -> None:
    async with serve(silence) as server:
        assert outcome(await no_answer(call_to(server), IMPATIENT_S)) == (RequestFailure.TIMEOUT, True, None)


@pytest.mark.parametrize("sink", [None, lambda _piece: None])
async def test_a_drip_times_out(sink: Any) -> None:
    async def drip(_received: Received, _reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with serve(drip) as server:
        error = await no_answer(get(server, sink=sink), IMPATIENT_S)
    assert outcome(error) == (RequestFailure.TIMEOUT, True, 200)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_stalled_upload_times_out(is_streamed: bool) -> None:
    size = 50_000_000

    async def unread(_received: Received, _reader: Any, _writer: Any) -> None:
        await asyncio.get_running_loop().create_future()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65_536)

    async with serve(unread, reads_body=False) as server:
        error = await no_answer(put(server, endless() if is_streamed else bytes(size), size), IMPATIENT_S)
    assert outcome(error) == (RequestFailure.TIMEOUT, True, None)


async def test_a_slow_body_iterable_times_out() -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.get_running_loop().create_future()

    async with serve(silence) as server:
        error = await no_answer(put(server, stuck(), 2), IMPATIENT_S)
    assert error.failure is RequestFailure.TIMEOUT


# Bodies with errors of their own


@pytest.mark.parametrize(
    "problem", [ImageChanged("it changed", reason="changed"), OSError(5, "I/O"), TimeoutError(), KeyError("x")]
)
@pytest.mark.parametrize("at", [0, 1, 100_000])
async def test_what_the_body_raises_comes_out(problem: Exception, at: int) -> None:
    closed = asyncio.Event()

    async def cut(_received: Received, reader: asyncio.StreamReader, _writer: Any) -> None:
        await reader.read()
        closed.set()

    async def body() -> AsyncIterator[bytes]:
        if at:
            yield bytes(at)
        raise problem

    async with serve(cut, reads_body=False) as server, HttpTransport.open(settings(), 4) as transport:
        with pytest.raises(type(problem)) as caught:
            await transport.exchange(put(server, body(), 200_000))
        assert caught.value is problem
        if server.requests:
            await closed.wait()


@pytest.mark.parametrize(("announced", "pieces"), [(10, [b"short"]), (3, [b"lo", b"ng"]), (0, [b"x"]), (5, [])])
async def test_a_body_of_another_length_has_changed(announced: int, pieces: list[bytes]) -> None:
    async with serve(silence, reads_body=False) as server, HttpTransport.open(settings(), 4) as transport:
        with pytest.raises(ImageChanged) as caught:
            await transport.exchange(put(server, in_pieces(*pieces), announced))
    assert caught.value.reason == "changed"


async def test_an_early_answer_ends_the_upload() -> None:
    async def too_large(_received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(413))
        await reader.read()

    class Endless:
        def __init__(self) -> None:
            self.stopped = False

        async def pieces(self) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1000)
                    await asyncio.sleep(0)
            finally:
                self.stopped = True

    body = Endless()
    async with serve(too_large, reads_body=False) as server, HttpTransport.open(settings(), 4) as transport:
        pieces = body.pieces()
        answer = await transport.exchange(put(server, pieces, 10**12))
        assert answer.status == 413
        await pieces.aclose()  # would raise if somebody were still reading it
    assert body.stopped


async def test_a_success_before_the_body_is_out_is_none() -> None:
    async def hasty(_received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(200))
        await reader.read()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        yield b"y"
        await asyncio.get_running_loop().create_future()

    async with serve(hasty, reads_body=False) as server:
        assert outcome(await no_answer(put(server, stuck(), 3))) == (RequestFailure.UNREADABLE, True, 200)


async def test_a_change_that_is_found_at_the_end_leaves_the_upload_incomplete() -> None:
    changed = ImageChanged("another time stamp", reason="changed")
    received_bytes = asyncio.get_running_loop().create_future()

    async def count(_received: Received, reader: asyncio.StreamReader, _writer: Any) -> None:
        received_bytes.set_result(len(await reader.read()))

    async def body() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        yield bytes(100_000)
        raise changed

    async with serve(count, reads_body=False) as server, HttpTransport.open(settings(), 4) as transport:
        with pytest.raises(ImageChanged) as caught:
            await transport.exchange(put(server, body(), 200_000))
        assert caught.value is changed
        assert await received_bytes < 200_000


# Cancellation


async def test_a_cancellation_passes_through_and_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def wait(_received: Received, reader: asyncio.StreamReader, _writer: Any) -> None:
        await reader.read()
        gone.set()

    async with serve(wait) as server, HttpTransport.open(settings(), 4) as transport:
        task = asyncio.create_task(transport.exchange(call_to(server)))
        await server.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()


async def test_after_a_cancellation_the_body_is_not_read_any_more() -> None:
    reading = asyncio.Event()
    is_cleaned_up = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal is_cleaned_up
        try:
            yield b"x"
            reading.set()
            await asyncio.get_running_loop().create_future()
        finally:
            is_cleaned_up = True

    async with serve(silence, reads_body=False) as server, HttpTransport.open(settings(), 4) as transport:
        pieces = body()
        task = asyncio.create_task(transport.exchange(put(server, pieces, 2)))
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_cleaned_up
        await pieces.aclose()


async def test_a_file_that_is_read_for_a_body_is_closed_when_the_body_is_not_taken() -> None:
    reading = asyncio.Event()
    is_closed = False

    class File:
        async def __aiter__(self) -> AsyncIterator[bytes]:
            nonlocal is_closed
            try:
                while True:
                    yield bytes(1_000_000)
                    reading.set()
            finally:
                is_closed = True

    async def cut(_received: Received, _reader: Any, _writer: Any) -> None:
        await reading.wait()
        raise ConnectionResetError

    async with serve(cut, reads_body=False) as server, HttpTransport.open(settings(), 4) as transport:
        with pytest.raises(NoAnswer) as caught:
            await transport.exchange(put(server, File(), 10**12))
        assert caught.value.was_sent
        assert is_closed


async def test_a_client_of_a_library_user_raises_what_the_block_raises() -> None:
    with pytest.raises(KeyError):
        async with PacksClient.connect(settings()):
            raise KeyError
