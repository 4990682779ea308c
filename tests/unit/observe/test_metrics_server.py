"""The HTTP side: what scrapers and probes get, and what nobody gets."""

import io
import json
import logging
import socket

import aiohttp
import anyio
import pytest

from ingest.errors import UsageError
from ingest.observe.http import serve
from ingest.observe.logging import configure
from ingest.observe.metrics import Metrics


def ready():
    return None


@pytest.fixture
async def get():
    async with aiohttp.ClientSession() as session:

        async def request(port, path, method="GET", **options):
            async with session.request(method, f"http://127.0.0.1:{port}{path}", **options) as response:
                return response.status, response.headers, await response.text()

        yield request


async def test_metrics_are_served_as_rendered(get):
    metrics = Metrics()
    async with serve("127.0.0.1", 0, metrics=metrics.render, not_ready=ready) as port:
        metrics.discovered(3)
        status, headers, text = await get(port, "/metrics")
    body, content_type = metrics.render()
    assert (status, headers["Content-Type"], text) == (200, content_type, body.decode())
    assert "ingest_jobs_discovered_total 3.0" in text


async def test_probes(get):
    reasons: list[str | None] = ["the key was refused", None]
    async with serve("127.0.0.1", 0, metrics=Metrics().render, not_ready=lambda: reasons.pop(0)) as port:
        assert (await get(port, "/healthz"))[::2] == (200, "ok\n")
        assert (await get(port, "/readyz"))[::2] == (503, "the key was refused\n")
        assert (await get(port, "/readyz"))[::2] == (200, "ready\n")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_pages_are_read_only(get, path):
    async with serve("127.0.0.1", 0, metrics=Metrics().render, not_ready=ready) as port:
        assert (await get(port, path, "HEAD"))[::2] == (200, "")
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert (await get(port, path, method, data=b"x"))[0] == 405


async def test_no_page_says_more_than_it_must(get):
    async with serve("127.0.0.1", 0, metrics=Metrics().render, not_ready=ready) as port:
        for path, expected in (("/healthz", 200), ("/metrics", 200), ("/nothing", 404)):
            status, headers, _ = await get(port, path)
            assert status == expected
            assert "Server" not in headers
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"


async def test_a_page_that_fails_keeps_its_reason_to_the_log(get):
    def broken():
        raise RuntimeError("s3cret")

    stream = io.StringIO()
    with configure("json", "info", stream, secrets=["s3cret"]):
        async with serve("127.0.0.1", 0, metrics=broken, not_ready=broken) as port:
            for path in ("/metrics", "/readyz"):
                status, _, text = await get(port, path)
                assert status == 500
                assert "s3cret" not in text
                assert "Traceback" not in text
            assert (await get(port, "/healthz"))[0] == 200
    failed = [line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == "page.failed"]
    assert [line["path"] for line in failed] == ["/metrics", "/readyz"]
    assert all("RuntimeError: [withheld]" in line["exception"] for line in failed)


async def test_requests_and_nonsense_leave_no_line(get, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    async with serve("127.0.0.1", 0, metrics=Metrics().render, not_ready=ready) as port:
        await get(port, "/metrics")
        for nonsense in (b"\x16\x03\x01 this is no HTTP\r\n\r\n", b"GET /metrics HTTP/1.1\r\nbad header\r\n\r\n"):
            async with await anyio.connect_tcp("127.0.0.1", port) as scanner:
                await scanner.send(nonsense)
                assert b"400" in await scanner.receive()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("aiohttp", "ingest"))]
    assert [line.split()[0] for line in lines] == ["http.opened"]
    assert capfd.readouterr().err == ""


async def test_a_port_in_use_names_the_option():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)) as caught:
            async with serve("127.0.0.1", port, metrics=Metrics().render, not_ready=ready):
                pass
    assert caught.value.code == "port_in_use"
    assert "--metrics-port" in caught.value.hint
    assert caught.value.exit_code == 2


async def test_an_address_that_is_not_ours_names_the_option():
    with pytest.raises(UsageError) as caught:  # 192.0.2.0/24 is for documentation (RFC 5737)
        async with serve("192.0.2.1", 0, metrics=Metrics().render, not_ready=ready):
            pass
    assert caught.value.code == "address_unavailable"
    assert "--metrics-host" in caught.value.hint


async def test_the_port_is_free_again_afterwards():
    async with serve("127.0.0.1", 0, metrics=Metrics().render, not_ready=ready) as port:
        pass
    async with serve("127.0.0.1", port, metrics=Metrics().render, not_ready=ready) as again:
        assert again == port
