"""A local nginx that answers a job's three requests at once, or after a delay, in the envelope of the Partner API.

Remembers nothing: every reserve gets a fresh url, every add succeeds, and a pack is always empty. It reads each body to
its end before it answers; the delay is nginx's own (the echo module), so that no slower process stands between.
"""

from __future__ import annotations

import contextlib
import getpass
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KEY", "PACK", "Missing", "free_port", "serving"]

KEY: Final = "bench.secret"
PACK: Final = "22222222-2222-2222-2222-222222222222"

INSTALL: Final = "Install nginx with its echo module, and wrk: apt-get install nginx-light libnginx-mod-http-echo wrk"

START_TIMEOUT_S: Final = 10.0

BODY_BUFFER: Final = "256k"
# A body of that size stays in nginx's memory; a larger one goes to a file, in memory too where there is /dev/shm.

PRESIGNED: Final = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260101%2Fauto%2Fs3%2Faws4_request"
    "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=600&X-Amz-SignedHeaders=content-type%3Bhost"
    "&X-Amz-Signature=$request_id$request_id"
)

CONFIGURATION: Final = """\
load_module {modules}/ngx_http_echo_module.so;
{user}
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size {buffer};
    client_body_temp_path {bodies};
    proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    map $request_body $image_url {{ "~\\"image_url\\":\\s*\\"([^\\"]+)\\"" $1; default "none"; }}
    map $request_body $wanted_type {{ "~\\"contentType\\":\\s*\\"([^\\"]+)\\"" $1; default "image/jpeg"; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /api/files {{ echo_read_request_body; {sleep} echo_exec @reserved; }}
        location @reserved {{ return 201 '{reserved}'; }}
        location /storage/ {{ echo_read_request_body; {sleep} echo_exec @stored; }}
        location @stored {{ return 200 ''; }}
        location ~ ^/api/packs/[^/]+/images$ {{ echo_read_request_body; {sleep} echo_exec @added; }}
        location @added {{ return 201 '{added}'; }}
        location = /api/packs/{pack} {{ {sleep} echo_exec @pack; }}
        location @pack {{ return 200 '{one_pack}'; }}
        location = /api/packs {{ {sleep} echo_exec @packs; }}
        location @packs {{ return 200 '{packs}'; }}
    }}
}}
"""


class Missing(Exception):
    """A program that is not installed; the text says how to install it."""


@contextlib.contextmanager
def serving(*, delay_s: float = 0.0) -> Iterator[str]:
    """Serve while inside; gives the base URL. Every answer comes `delay_s` after its request was read."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise Missing(INSTALL)
    modules = _modules(nginx)
    memory = Path("/dev/shm")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-nginx-")))
        bodies = folder
        if memory.is_dir():
            bodies = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-nginx-", dir=memory)))
        port = free_port()
        (folder / "nginx.conf").write_text(_configuration(folder, bodies / "bodies", modules, port, delay_s))
        with (folder / "out").open("wb") as out:
            process = subprocess.Popen([nginx, "-p", folder, "-c", folder / "nginx.conf"], stdout=out, stderr=out)
        try:
            _await(process, port, folder)
            yield f"http://127.0.0.1:{port}/api"
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_S)


def free_port() -> int:
    """A port of the loopback interface that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _modules(nginx: str) -> Path:
    told = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"--modules-path=(\S+)", told)
    modules = Path(found[1]) if found else Path("/usr/lib/nginx/modules")
    if not (modules / "ngx_http_echo_module.so").exists():
        raise Missing(INSTALL)
    return modules


def _configuration(folder: Path, bodies: Path, modules: Path, port: int, delay_s: float) -> str:
    user = getpass.getuser()
    pack = f'"id":"{PACK}","name":"Bench","image_count":0,"is_public":false,"created_at":"2026-01-01T00:00:00.000Z"'
    return CONFIGURATION.format(
        folder=folder,
        bodies=bodies,
        modules=modules,
        port=port,
        pack=PACK,
        buffer=BODY_BUFFER,
        user=f"user {user};" if user == "root" else "",  # or its worker could not enter the folder
        sleep=f"echo_sleep {delay_s:.3f};" if delay_s else "",
        reserved=_envelope(
            201,
            "Upload URL generated",
            f'"uploadUrl":"http://127.0.0.1:{port}/storage/$request_id.jpg?{PRESIGNED}",'
            '"url":"https://cdn.example.com/partner-api/workspaces/33333333-3333-3333-3333-333333333333/'
            '$request_id.jpg","contentType":"$wanted_type","expiresIn":600',
        ),
        added=_envelope(
            201,
            "Pack image added",
            '"id":"$request_id","url":"$image_url","file_name":"image.jpg","content_type":"image/jpeg"',
        ),
        one_pack=_envelope(200, "Pack retrieved", f'{pack},"images":[]'),
        packs=_envelope(
            200,
            "Packs retrieved",
            f'"packs":[{{{pack},"preview_image_url":null}}],"total":1,"limit":100,"offset":0',
        ),
    )


def _envelope(code: int, message: str, data: str) -> str:
    return f'{{"ok":true,"code":{code},"message":"{message}","data":{{{data}}}}}'


def _await(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nginx did not start: {(folder / 'out').read_text()}")
