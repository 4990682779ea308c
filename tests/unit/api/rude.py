"""A server that can be as rude as a test needs, and a transport that answers without a network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from multidict import CIMultiDict

from ingest.api.client import PacksClient
from ingest.api.credentials import Credentials
from ingest.api.transport import Answer, Call, NoAnswer
from ingest.settings import ApiSettings

T = TypeVar("T")

SECRET = "s3cr3t-of-the-key"
KEY = f"pk_public.{SECRET}"
BASE_URL = "https://api.example/v1"


def ok(data: str, *, code: int = 200) -> bytes:
    """A success envelope around `data`, which is JSON."""
    return b'{"ok":true,"code":%d,"message":"fine","data":%s}' % (code, data.encode())


def refusal(code: int, error_code: str | None = None, message: str = "no") -> bytes:
    """An error envelope."""
    tail = f',"error_code":"{error_code}"' if error_code else ""
    return f'{{"ok":false,"code":{code},"message":"{message}"{tail}}}'.encode()


def http(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """A whole HTTP answer on a connection that is kept."""
    lines = {"Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body


@dataclass
class Received:
    """One request as it came over the wire."""

    head: bytes
    body: bytes = b""

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    @property
    def headers(self) -> CIMultiDict[str]:
        pairs = (line.split(": ", 1) for line in self.head.decode().split("\r\n")[1:] if line)
        return CIMultiDict((name, value) for name, value in pairs)


Behaviour = Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RudeServer:
    """Listens on loopback; `requests` is what came, also over a connection that was then broken."""

    port: int
    scheme: str = "http"
    host: str = "127.0.0.1"
    requests: list[Received] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


@contextlib.asynccontextmanager
async def serve(behaviour: Behaviour, *, reads_body: bool = True, ssl: Any = None) -> AsyncIterator[RudeServer]:
    """Run `behaviour` once for every request head that arrives."""
    connections: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            while True:
                received = Received(head=await reader.readuntil(b"\r\n\r\n"))
                server.requests.append(received)
                server.arrived.set()
                length = int(received.headers.get("Content-Length", "0"))
                if reads_body and length:
                    received.body = await reader.readexactly(length)
                await behaviour(received, reader, writer)
                if not reads_body:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, OSError):
                await writer.wait_closed()

    listener = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=ssl)
    server = RudeServer(port=listener.sockets[0].getsockname()[1], scheme="https" if ssl else "http")
    try:
        yield server
    finally:
        listener.close()
        left = list(connections)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def always(answer: bytes, *, then_close: bool = False) -> Behaviour:
    """Answer every request alike."""

    async def behave(_received: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if then_close:
            writer.close()
            await writer.wait_closed()
            raise ConnectionResetError

    return behave


async def silence(_received: Received, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Say nothing until the client has gone."""
    await reader.read()


async def hang_up(_received: Received, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Close the connection without a word."""
    raise ConnectionResetError


class Canned:
    """A transport that gives one answer, or none, without suspending; `calls` is what was asked."""

    def __init__(self, end: Answer | NoAnswer) -> None:
        self.end = end
        self.calls: list[Call] = []

    async def exchange(self, call: Call) -> Answer:
        self.calls.append(call)
        if isinstance(self.end, NoAnswer):
            raise self.end
        if call.sink is not None and self.end.status == 200:
            try:
                call.sink(self.end.body)
            except ValueError as error:
                raise unreadable_200(str(error)) from error
        return self.end


def unreadable_200(message: str) -> NoAnswer:
    from ingest.errors import RequestFailure

    return NoAnswer(message, failure=RequestFailure.UNREADABLE, was_sent=True, status=200)


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status=status, headers=CIMultiDict(headers or {}), body=body)


def client_of(end: Answer | NoAnswer) -> PacksClient:
    return PacksClient(Canned(end), Credentials(ApiSettings(key=KEY)), BASE_URL)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never waits to its end."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")
