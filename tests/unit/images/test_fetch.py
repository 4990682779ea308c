"""Checks and downloads against real servers on loopback, rude ones among them, and the guard of addresses."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
import tempfile
import traceback
from dataclasses import replace

import pytest
from aiohttp.abc import AbstractResolver
from blake3 import blake3
from image_samples import picture, saved

from ingest.errors import ImageRejected, ImageUnreachable, MachineError
from ingest.images.download import downloaded
from ingest.images.fetch import Fetcher
from ingest.images.hosts import DOWN_AFTER, DOWN_S, Hosts
from ingest.images.memory import MemoryBudget
from ingest.settings import FetchSettings, ImageSettings

PNG, JPEG = saved(picture(), "PNG"), saved(picture(), "JPEG")
OPEN = FetchSettings(allow_private_hosts=True, timeout_s=5.0, connect_timeout_s=5.0)
GUARDED = replace(OPEN, allow_private_hosts=False)
IMAGES = ImageSettings()


class Server:
    """Answers each request as the test's function says, and remembers its head; one request a connection."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.answer = lambda _head: whole(PNG)
        self.port = 0
        self.open = 0
        self.most_open = 0
        self.sent_bytes = 0
        self._tasks: set[asyncio.Task[None] | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/a.png"

    @property
    def methods(self) -> list[str]:
        return [head.partition(" ")[0] for head in self.heads]

    @contextlib.asynccontextmanager
    async def serving(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer) -> None:
        self._tasks.add(asyncio.current_task())
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            answer = self.answer(head)
            if isinstance(answer, bytes):
                before, blank, _ = answer.partition(b"\r\n\r\n")
                writer.write(before + blank if head.startswith("HEAD") else answer)
                await writer.drain()
            else:
                async for piece in answer:
                    writer.write(piece)
                    self.sent_bytes += len(piece)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


def whole(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = {"Content-Length": str(len(body)), "Connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    told = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{told}\r\n".encode() + body


def refused(status: str, **headers: str) -> bytes:
    return whole(b"", status, **headers)


@pytest.fixture
async def server():
    async with Server().serving() as server:
        yield server


@contextlib.asynccontextmanager
async def opened(settings: FetchSettings = OPEN, resolver: AbstractResolver | None = None):
    async with Fetcher.open(settings, tls=ssl.create_default_context, resolver=resolver) as fetcher:
        yield fetcher


async def check(url: str, settings: FetchSettings = OPEN, resolver: AbstractResolver | None = None) -> str:
    async with opened(settings, resolver) as fetcher:
        return await fetcher.check(url)


async def reason_of(url: str, settings: FetchSettings = OPEN, resolver: AbstractResolver | None = None) -> str:
    with pytest.raises((ImageRejected, ImageUnreachable)) as caught:
        await check(url, settings, resolver)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    return caught.value.reason


# The check.


async def test_an_image_is_one_and_little_is_said_to_its_host(server):
    assert await check(f"{server.url}?x=%28") == "image/png"
    assert server.methods == ["HEAD", "GET"]
    for head in server.heads:
        assert head.splitlines()[0].split()[1] == "/a.png?x=%28"
        assert not {"authorization", "cookie", "proxy-authorization"} & {
            line.partition(":")[0].lower() for line in head.splitlines()
        }
        assert "accept-encoding: identity" in head.lower()
    assert "range: bytes=0-4095" in server.heads[1].lower()


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "403 Forbidden", "404 Not Found", "500 Oops", "400 Bad"])
async def test_a_host_that_refuses_head_is_asked_by_get(server, status):
    server.answer = lambda head: refused(status) if head.startswith("HEAD") else whole(PNG)
    assert await check(server.url) == "image/png"


async def test_a_host_that_hangs_up_on_head_is_asked_by_get(server):
    server.answer = lambda head: b"" if head.startswith("HEAD") else whole(PNG)
    assert await check(server.url) == "image/png"


async def test_the_content_counts_and_not_what_it_is_called(server):
    server.answer = lambda _: whole(JPEG, Content_Type="text/html")
    assert await check(server.url) == "image/jpeg"
    server.answer = lambda _: whole(b"<!doctype html><title>Gone</title>", Content_Type="image/png")
    assert await reason_of(server.url) == "not_an_image"
    server.answer = lambda _: whole(b"%PDF-1.7", Content_Type="image/png")
    assert await reason_of(server.url) == "unsupported_type"
    server.answer = lambda _: whole(b"", Content_Type="image/png")
    assert await reason_of(server.url) == "empty"


async def test_a_host_that_ignores_ranges_or_never_ends_is_left(server):
    async def endless():
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PNG
        while True:
            yield bytes(65536)

    server.answer = lambda head: endless() if head.startswith("GET") else refused("200 OK")
    assert await check(server.url) == "image/png"
    assert server.sent_bytes < 64 * 1024 * 1024


ELSEWHERE = whole(b"tail", "206 Partial Content", Content_Range="bytes 9-12/13")


@pytest.mark.parametrize("first", [refused("416 Range Not Satisfiable"), ELSEWHERE])
async def test_a_host_that_is_wrong_about_ranges_is_asked_without(server, first):
    server.answer = lambda head: first if "Range:" in head else whole(PNG)
    assert await check(server.url) == "image/png"
    assert server.methods == ["HEAD", "GET", "GET"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("404 Not Found", "not_found"),
        ("410 Gone", "not_found"),
        ("401 Unauthorized", "forbidden"),
        ("403 Forbidden", "forbidden"),
        ("451 No", "forbidden"),
        ("418 Teapot", "http_418"),
        ("304 Not Modified", "http_304"),
    ],
)
async def test_what_is_not_there_is_rejected(server, status, reason):
    server.answer = lambda _: refused(status)
    with pytest.raises(ImageRejected) as caught:
        await check(f"{server.url}?secret")
    assert caught.value.reason == reason
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", ["500 Oops", "503 Busy", "429 Slow down", "408 Late", "425 Early"])
async def test_what_may_pass_is_to_be_asked_again(server, status):
    server.answer = lambda _: refused(status, Retry_After="7")
    with pytest.raises(ImageUnreachable) as caught:
        await check(server.url)
    assert (caught.value.reason, caught.value.retry_after_s) == (f"http_{status[:3]}", 7.0)


async def test_what_is_sent_compressed_is_never_decompressed(server):
    server.answer = lambda _: whole(gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")
    assert await reason_of(server.url) == "encoded"
    async with opened() as fetcher:
        with pytest.raises(ImageRejected) as caught:
            await downloaded(server.url, fetcher.download(server.url, 10**8), IMAGES, MemoryBudget(10**8))
    assert caught.value.reason == "encoded"


async def test_a_host_that_drips_is_given_up(server):
    async def dripping():
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        while True:
            await asyncio.sleep(0.05)
            yield b"\x89"

    server.answer = lambda head: dripping() if head.startswith("GET") else refused("200 OK")
    assert await reason_of(server.url, replace(OPEN, timeout_s=0.5)) == "timeout"


async def test_a_host_that_says_nothing_is_given_up(server):
    async def silent():
        await asyncio.Event().wait()
        yield b""

    server.answer = lambda _: silent()
    assert await reason_of(server.url, replace(OPEN, timeout_s=0.3)) == "timeout"


async def test_a_host_that_is_not_there():
    async with Server().serving() as other:
        url = other.url
    assert await reason_of(f"{url}?secret") == "connect"
    assert await reason_of("http://no-such-host.invalid/a.jpg?secret", GUARDED) == "dns"


async def test_a_host_that_is_dead_is_not_asked_again_and_again():
    async with Server().serving() as other:
        url = other.url
    async with opened() as fetcher:
        downs = []
        for _ in range(DOWN_AFTER + 2):
            with pytest.raises(ImageUnreachable) as caught:
                await fetcher.check(url)
            assert caught.value.reason == "connect"
            downs.append(caught.value.is_host_down)
    assert downs == [False] * DOWN_AFTER + [True] * 2


def test_a_dead_host_is_asked_once_in_a_while_and_one_answer_brings_it_back():
    now = 0.0
    hosts = Hosts(2, clock=lambda: now)
    for _ in range(DOWN_AFTER):
        assert not hosts.is_down("dead.test")
        hosts.failed("dead.test")
    assert hosts.is_down("dead.test")
    assert not hosts.is_down("other.test")
    now += DOWN_S
    assert [hosts.is_down("dead.test") for _ in range(3)] == [False, True, True]
    hosts.answered("dead.test")
    assert not hosts.is_down("dead.test")


ENDLESS_HEAD = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"


@pytest.mark.parametrize("answer", [b"no http at all\r\n\r\n", ENDLESS_HEAD, b""], ids=["none", "long", "nothing"])
async def test_what_is_no_http_is_to_be_asked_again(server, answer):
    server.answer = lambda _: answer
    assert await reason_of(f"{server.url}?secret") == "unreadable"


async def test_few_requests_at_once_go_to_one_host(server):
    gate = asyncio.Event()
    waiting = asyncio.Event()

    async def held():
        if server.open == 2:
            waiting.set()
        await gate.wait()
        yield whole(PNG)

    server.answer = lambda _: held()
    async with opened(replace(OPEN, max_requests_per_host=2)) as fetcher, asyncio.TaskGroup() as tasks:
        checks = [tasks.create_task(fetcher.check(server.url)) for _ in range(10)]
        await waiting.wait()
        gate.set()
    assert {task.result() for task in checks} == {"image/png"}
    assert server.most_open == 2
    assert fetcher._hosts.asked_count == 0


# Redirects.


async def test_redirects_are_followed_and_bounded(server):
    def answer(head: str) -> bytes:
        number = int(head.split()[1].rpartition("/")[2])
        return refused("302 Found", Location=f"/{number - 1}") if number else whole(PNG)

    server.answer = answer
    base = f"http://127.0.0.1:{server.port}"
    assert await check(f"{base}/5") == "image/png"
    assert server.methods == ["HEAD"] * 6 + ["GET"]  # which goes where the last led to
    server.heads.clear()
    assert await reason_of(f"{base}/6") == "redirects"
    server.answer = lambda _: refused("301 Moved", Location="/a.png")
    assert await reason_of(server.url) == "redirects"


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data?secret", "private_host"),
        ("http://localhost/a.png", "private_host"),
        ("//2130706433/a.png", "private_host"),
        ("http://[::ffff:127.0.0.1]/a.png", "private_host"),
        ("http://inside.test/a.png", "private_host"),
        ("file:///etc/passwd", "bad_url"),
        ("http://user:secret@pics.test/a.png", "bad_url"),
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_redirect_to_where_nobody_may_go_is_refused(server, location, reason, method, monkeypatch):
    names = Names({"pics.test": ["127.0.0.1"], "inside.test": ["10.1.2.3"]})
    # The server itself is on loopback: for this test alone, that address is a public one.
    monkeypatch.setattr("ingest.images.fetch.is_public", lambda address: str(address) == "127.0.0.1")
    led = refused("302 Found", Location=location)
    server.answer = lambda head: refused("200 OK") if method == "GET" and head.startswith("HEAD") else led
    assert await reason_of(f"http://pics.test:{server.port}/a.png", GUARDED, names) == reason
    assert len(server.heads) == (1 if method == "HEAD" and reason == "private_host" else 2)


async def test_a_fragment_of_a_redirect_is_left_out(server):
    server.answer = lambda head: refused("302 Found", Location="/b#top") if "/a.png" in head else whole(PNG)
    assert await check(server.url) == "image/png"


# The guard.


class Names(AbstractResolver):
    """What names resolve to, one answer after the other, the last for ever."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self._answers = {name: list(addresses) for name, addresses in answers.items()}
        self.asked: list[str] = []

    async def resolve(self, host, port=0, family=0):
        self.asked.append(host)
        left = self._answers[host]
        addresses = (left.pop(0) if len(left) > 1 else left[0]).split()
        return [
            {"hostname": host, "host": a, "port": port, "family": 10 if ":" in a else 2, "proto": 0, "flags": 4}
            for a in addresses
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "127.0.0.1 10.0.0.1"),
        *("::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
async def test_a_name_that_resolves_to_a_private_address_is_refused(server, address):
    names = Names({"pics.test": [address]})
    assert await reason_of(f"http://pics.test:{server.port}/a.png", GUARDED, names) == "private_host"
    assert names.asked == ["pics.test"]
    assert server.heads == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:7f00:1]", "127.1"]
)
async def test_an_address_in_the_url_is_refused_and_no_resolver_asked(server, host):
    names = Names({})
    assert await reason_of(f"http://{host}:{server.port}/a.png", GUARDED, names) == "private_host"
    assert (server.heads, names.asked) == ([], [])


async def test_of_several_addresses_only_public_ones_are_connected_to(server, monkeypatch):
    monkeypatch.setattr("ingest.images.fetch.is_public", lambda address: str(address) == "127.0.0.1")
    names = Names({"pics.test": ["10.255.255.1 127.0.0.1"]})
    assert await check(f"http://pics.test:{server.port}/a.png", GUARDED, names) == "image/png"


async def test_a_name_that_leads_elsewhere_the_next_time_is_judged_anew(server, monkeypatch):
    """DNS rebinding: a public answer for the check of the name, a private one for the connection."""
    monkeypatch.setattr("ingest.images.fetch.is_public", lambda address: str(address) == "127.0.0.1")
    names = Names({"pics.test": ["127.0.0.1", "10.0.0.1"]})
    url = f"http://pics.test:{server.port}/a.png"
    async with opened(GUARDED, names) as fetcher:
        assert await fetcher.check(url) == "image/png"
        assert names.asked == ["pics.test"]  # what was judged is what was connected to, for as long as it is remembered
        fetcher._session.connector.clear_dns_cache()
        with pytest.raises(ImageRejected) as caught:
            await fetcher.check(url)
    assert caught.value.reason == "private_host"
    assert len(server.heads) == 2


async def test_no_proxy_of_the_environment_is_used(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await check(server.url) == "image/png"


# Downloads.


async def taken(server, settings=IMAGES, *, fetch=OPEN, memory=None):
    memory = memory or MemoryBudget(settings.max_memory_bytes)
    try:
        async with opened(fetch) as fetcher:
            return await downloaded(server.url, fetcher.download(server.url, settings.max_bytes), settings, memory)
    except BaseException:
        assert memory.held_bytes == 0
        raise


def large(size: int) -> bytes:
    """A JPEG of that many bytes."""
    return JPEG[:2] + b"\xff\xe0\x00\x10" + bytes(14) + JPEG[2:-2] + bytes(size - len(JPEG) - 18) + JPEG[-2:]


async def test_a_small_image_is_kept_in_memory(server):
    memory = MemoryBudget(10**8)
    with await taken(server, memory=memory) as image:
        assert (image.body, image.content_type, image.stamp) == (PNG, "image/png", None)
        assert image.fingerprint == blake3(PNG).digest()
        assert memory.held_bytes == len(PNG)
    assert memory.held_bytes == 0
    assert server.methods == ["GET"]


async def test_a_large_one_goes_through_a_temporary_file(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = large(3_000_000)
    server.answer = lambda _: whole(body)
    memory = MemoryBudget(10**8)
    with await taken(server, replace(IMAGES, stream_over_bytes=100_000), memory=memory) as image:
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o77 == 0
        assert image.size_bytes == len(body)
        assert b"".join([piece async for piece in image.body]) == body
        assert image.fingerprint == blake3(body).digest()
        assert memory.held_bytes == 512 * 1024
    assert list(tmp_path.iterdir()) == []
    assert memory.held_bytes == 0


@pytest.mark.parametrize("length", ["told", "untold", "a lie"])
async def test_what_is_too_large_is_rejected_before_it_is_taken(server, tmp_path, monkeypatch, length):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = large(5_000_000)

    async def streamed():
        yield {
            "told": whole(body)[: -len(body)],
            "untold": whole(body, Content_Length="")[: -len(body)],
            "a lie": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        }[length]
        for start in range(0, len(body), 65536):
            piece = body[start : start + 65536]
            yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if length == "a lie" else piece

    server.answer = lambda _: streamed()
    with pytest.raises(ImageRejected) as caught:
        await taken(server, replace(IMAGES, stream_over_bytes=100_000, max_bytes=1_000_000))
    assert caught.value.reason == "too_large"
    assert list(tmp_path.iterdir()) == []


async def test_a_body_that_is_cut_is_to_be_asked_for_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = large(1_000_000)
    server.answer = lambda _: whole(body)[:-1000]
    with pytest.raises(ImageUnreachable) as caught:
        await taken(server, replace(IMAGES, stream_over_bytes=100_000))
    assert caught.value.reason == "cut_short"
    assert list(tmp_path.iterdir()) == []


async def test_an_image_that_is_cut_short_itself_is_rejected(server):
    server.answer = lambda _: whole(PNG[:-8])
    with pytest.raises(ImageRejected) as caught:
        await taken(server)
    assert caught.value.reason == "cut_short"


async def test_a_body_without_a_length_that_ends_early_may_come_whole_the_next_time(server):
    server.answer = lambda _: whole(PNG[:-8], Content_Length="")
    with pytest.raises(ImageUnreachable) as caught:
        await taken(server)
    assert caught.value.reason == "cut_short"


async def test_a_download_that_moves_on_takes_as_long_as_it_takes_and_one_that_drips_does_not(server):
    async def moving():
        yield whole(b"", Content_Length="")
        body = large(16 * 16_384)
        for start in range(0, len(body), 16_384):
            await asyncio.sleep(0.05)
            yield body[start : start + 16_384]

    server.answer = lambda _: moving()
    (await taken(server, fetch=replace(OPEN, timeout_s=0.4))).release()

    async def dripping():
        yield whole(b"", Content_Length="") + PNG[:-1]
        while True:
            await asyncio.sleep(0.05)
            yield b"\0"

    server.answer = lambda _: dripping()
    with pytest.raises(ImageUnreachable) as caught:
        await taken(server, fetch=replace(OPEN, timeout_s=0.4))
    assert caught.value.reason == "timeout"


async def test_a_disk_that_is_full_ends_the_run(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such"))
    server.answer = lambda _: whole(large(500_000))
    with pytest.raises(MachineError):
        await taken(server, replace(IMAGES, stream_over_bytes=100_000))


async def test_a_download_that_is_cancelled_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    came = asyncio.Event()

    async def stalling():
        yield whole(b"", Content_Length="") + large(1_000_000)
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0.01)
        came.set()
        await asyncio.Event().wait()

    server.answer = lambda _: stalling()
    memory = MemoryBudget(10**8)
    task = asyncio.create_task(taken(server, replace(IMAGES, stream_over_bytes=100_000), memory=memory))
    await came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(tmp_path.iterdir()) == []
    assert memory.held_bytes == 0
