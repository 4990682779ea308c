"""Certificates are always checked, against what the environment says; proxies are what it says, too."""

import asyncio
import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from rude import KEY, SECRET, Received, RudeServer, always, http, serve

from ingest.api.transport import Call, HttpTransport, NoAnswer
from ingest.errors import RequestFailure, UsageError
from ingest.model import Operation
from ingest.settings import ApiSettings


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def certificate(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def add_to(server: RudeServer) -> Call:
    return call_to(f"{server.url}/packs/p/images")


def call_to(url: str, operation: Operation = Operation.ADD_IMAGE) -> Call:
    return Call(operation=operation, method="POST", url=url, headers={"Authorization": f"Bearer {KEY}"}, body=b"{}")


def settings(base_url: str = "http://127.0.0.1:1") -> ApiSettings:
    return ApiSettings(key=KEY, base_url=base_url, timeout_s=50.0)


async def exchange(call: Call) -> int:
    async with HttpTransport.open(settings(), 4) as transport:
        return (await transport.exchange(call)).status


# TLS


async def test_an_unknown_authority_is_refused(authority: trustme.CA) -> None:
    async with serve(always(http(200)), ssl=certificate(authority)) as server:
        with pytest.raises(NoAnswer, match="certificate") as caught:
            await exchange(add_to(server))
        assert (caught.value.failure, caught.value.was_sent) == (RequestFailure.TLS, False)
        assert server.requests == []


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_the_environment_names_an_authority(
    authority: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(ca_file))
    async with serve(always(http(200)), ssl=certificate(authority)) as server:
        assert await exchange(add_to(server)) == 200


async def test_a_certificate_for_another_host_is_refused(
    authority: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    async with serve(always(http(200)), ssl=certificate(authority, "other.example")) as server:
        with pytest.raises(NoAnswer, match="127\\.0\\.0\\.1") as caught:
            await exchange(add_to(server))
        assert (caught.value.failure, caught.value.was_sent) == (RequestFailure.TLS, False)


async def test_a_server_without_tls_is_refused() -> None:
    received = b""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        received = await reader.read(100_000)
        writer.write(http(400))
        writer.close()

    listener = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with listener:
        server = RudeServer(port=listener.sockets[0].getsockname()[1], scheme="https")
        with pytest.raises(NoAnswer) as caught:
            await exchange(add_to(server))
    assert not caught.value.was_sent
    assert SECRET.encode() not in received


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_an_authority_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=f"{variable}.*gone"):
        await exchange(call_to("http://127.0.0.1:1/"))


async def test_a_file_that_holds_no_certificate_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(UsageError, match="REQUESTS_CA_BUNDLE"):
        await exchange(call_to("http://127.0.0.1:1/"))


# Proxies


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("user", ["", "me:p%40ss@"])
async def test_a_proxy_of_the_environment_carries_the_request(
    monkeypatch: pytest.MonkeyPatch, variable: str, user: str
) -> None:
    async with serve(always(http(200))) as proxy:
        monkeypatch.delenv("REQUEST_METHOD", raising=False)
        monkeypatch.setenv(variable, f"http://{user}127.0.0.1:{proxy.port}")
        assert await exchange(call_to("http://api.invalid/packs/p/images")) == 200
        (received,) = proxy.requests
        assert received.line == "POST http://api.invalid/packs/p/images HTTP/1.1"
        expected = f"Basic {base64.b64encode(b'me:p@ss').decode()}" if user else None
        assert received.headers.get("Proxy-Authorization") == expected
        assert received.headers["Authorization"] == f"Bearer {KEY}"


async def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(always(http(200))) as server, serve(always(http(502))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert await exchange(add_to(server)) == 200
        assert proxy.requests == []


async def test_a_tunnel_is_asked_for_without_the_key(
    authority: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = always(http(200))

    async def tunnel(received: Received, reader: Any, writer: Any) -> None:
        if received.line.startswith("CONNECT"):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            await writer.start_tls(certificate(authority, "api.invalid"))
        else:
            await inner(received, reader, writer)

    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    async with serve(tunnel) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:pass@127.0.0.1:{proxy.port}")
        assert await exchange(call_to("https://api.invalid/packs/p/images")) == 200
        asked, sent = proxy.requests
        assert asked.line == "CONNECT api.invalid:443 HTTP/1.1"
        assert SECRET.encode() not in asked.head
        assert "Proxy-Authorization" in asked.headers
        assert sent.line == "POST /packs/p/images HTTP/1.1"
        assert "Proxy-Authorization" not in sent.headers


async def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(always(http(407))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(NoAnswer, match=r"proxy refused.*407") as caught:
            await exchange(call_to("https://api.invalid/packs/p/images"))
        assert (caught.value.failure, caught.value.was_sent) == (RequestFailure.CONNECT, False)


async def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(always(http(200))) as proxy:
        pass
    monkeypatch.setenv("HTTP_PROXY", f"http://me:pa55@127.0.0.1:{proxy.port}")
    with pytest.raises(NoAnswer, match="proxy") as caught:
        await exchange(call_to("http://api.invalid/"))
    assert (caught.value.failure, caught.value.was_sent) == (RequestFailure.CONNECT, False)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "http://", "http://[bad", "http://host:port"])
async def test_a_proxy_that_can_not_be_used_is_said_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(UsageError, match=r"api\.invalid") as caught:
        async with HttpTransport.open(settings("https://api.invalid"), 4):
            pass
    assert "HTTPS_PROXY" in caught.value.hint
