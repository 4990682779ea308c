"""Images that are named by URLs, by the command line against the sandbox and image servers on loopback.

Judged by the server's ledger, and by what the image servers were asked.
"""

from __future__ import annotations

import hashlib
import http.server
import signal
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from test_cli_verify import REPAIR, copy, found, take_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import CommandLine, Finished, Served

LINKING = Path(__file__).with_name("linking.py")
SECRET = "sEcReTtOkEn"
RUN = ("--pack", "P", "--create-pack", "--settle-delay", "0.2s", "--json", "--allow-private-hosts")


class Host:
    """An image server: what lies under each path, and what it was asked."""

    def __init__(self, port: int, folder: Path) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.asked: Counter[tuple[str, str]] = Counter()
        self.bodies: dict[str, bytes] = {}
        self.status: dict[str, list[int]] = {}  # the next answers, the last for ever
        self.location: dict[str, str] = {}
        self._folder = folder

    def image(self, name: str, number: int) -> str:
        """A picture under that name; its URL."""
        path = self._folder / name
        Image.new("RGB", (64, 48), (number, 2 * number, 255 - number)).save(path)
        self.bodies[f"/{name}"] = path.read_bytes()
        return f"{self.base}/{name}"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            known.asked[self.command, path] += 1
            left = known.status.get(path, [200 if path in known.bodies else 404])
            status = left.pop(0) if len(left) > 1 and self.command == "GET" else left[0]
            body = known.bodies.get(path, b"") if status == 200 else b"no"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if path in known.location:
                self.send_header("Location", known.location[path])
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - as the server calls it

        def log_message(self, *_: Any) -> None:
            pass

    folder = tmp_path / "hosted"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        known = Host(server.server_port, folder)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield known
        server.shutdown()
        thread.join()


@pytest.fixture
def run(ingest: CommandLine, tmp_path: Path) -> Callable[..., Finished]:
    """Runs the command upon these URLs, to its end or to a point where it is killed."""
    file = tmp_path / "list.urls"

    def running(urls: list[str], *options: str, at: str = "", common: tuple[str, ...] = RUN) -> Finished:
        file.write_text("\n".join(urls))
        linked = replace(ingest)
        linked._command = lambda args: [sys.executable, str(LINKING), *([at] if at else []), "--", *args]
        done = linked("run", file, *common, *options)
        assert (done.code == -signal.SIGKILL) == bool(at), done
        return done

    return running


def counts(done: Finished) -> dict[str, int]:
    told = done.json
    return {name: told[name] for name in ("added", "duplicate", "rejected", "failed", "pending") if told[name]}


def reasons(ingest: CommandLine) -> dict[str, str]:
    return {line["image"]: line["reason"] for line in ingest("failures", "--json").lines}


def test_urls_are_checked_and_added_as_they_are_once(run: Callable[..., Finished], sandbox: Served, host: Host) -> None:
    urls = [host.image(f"{number}.png", number) for number in range(5)]
    done = run([*urls, f"again {urls[0]}"])
    assert (done.code, counts(done)) == (0, {"added": 5, "duplicate": 1}), done
    assert sorted(sandbox.urls("P")) == sorted(urls)
    assert host.asked == Counter({(method, f"/{n}.png"): 1 for n in range(5) for method in ("HEAD", "GET")})

    done = run([*urls, f"other {urls[1]}"])
    assert counts(done) == {"duplicate": 6}
    assert sum(host.asked.values()) == 10  # nobody asked again
    assert sandbox.ledger()["packs"][0]["images"][0]["url"] in urls


def test_what_the_pack_holds_already_is_a_duplicate(run: Callable[..., Finished], sandbox: Served, host: Host) -> None:
    first, second = host.image("a.png", 1), host.image("(b).png", 2)
    run([first])
    copy(sandbox, second.replace("(", "%28").replace(")", "%29"))
    done = run([first, second])
    assert counts(done) == {"duplicate": 2}
    assert len(sandbox.urls("P")) == 2


def test_what_is_no_image_is_rejected_and_a_host_that_fails_is_asked_again_by_the_next_run(
    run: Callable[..., Finished], ingest: CommandLine, sandbox: Served, host: Host
) -> None:
    host.bodies["/page"] = b"<!doctype html><title>Please log in</title>"
    host.status["/moved"], host.location["/moved"] = [302], f"http://user:{SECRET}@127.0.0.1/a.png"
    flaky, down = host.image("flaky.png", 1), host.image("down.png", 2)
    host.status["/flaky.png"], host.status["/down.png"] = [503, 200], [500]
    urls = [f"{host.base}/{name}?token={SECRET}" for name in ("page", "gone", "moved")]
    urls += [f"ftp://{SECRET}:{SECRET}@pics.test/a.png", flaky, down]
    done = run(urls, "--max-attempts", "2", "--timeout", "2s", "--log-level", "debug")
    assert (done.code, counts(done)) == (1, {"added": 1, "rejected": 4, "failed": 1}), done
    assert sandbox.urls("P") == [flaky]
    told = reasons(ingest)
    assert told[f"{host.base}/page?…"] == "not_an_image"
    assert told[f"{host.base}/gone?…"] == "not_found"
    assert told[f"{host.base}/moved?…"] == "bad_url"
    assert told["ftp://pics.test/a.png"] == "bad_url"
    assert told[down] == "http_500"
    failures = ingest("failures")
    verified = ingest("verify", "--json")
    assert SECRET not in "".join([done.out, done.err, failures.out, verified.out])

    host.status["/down.png"] = [200]
    done = run([down])
    assert counts(done) == {"added": 1}


def test_nothing_is_asked_on_this_machine_unless_that_is_allowed(
    run: Callable[..., Finished], ingest: CommandLine, host: Host
) -> None:
    url = host.image("a.png", 1)
    port = host.base.rpartition(":")[2]
    urls = [url] + [f"http://{name}:{port}/a.png" for name in ("localhost", "2130706433", "0x7f.1", "[::ffff:7f00:1]")]
    guarded = RUN[:-1]
    for option in ((), ("--no-check-urls",), ("--rehost",)):
        done = run(urls, *option, common=guarded)
        assert (done.code, counts(done)) == (1, {"rejected": 5})
    assert set(reasons(ingest).values()) == {"private_host"}
    assert not host.asked


def test_without_checks_nobody_is_asked(run: Callable[..., Finished], sandbox: Served, host: Host) -> None:
    done = run([f"{host.base}/gone.png"], "--no-check-urls")
    assert counts(done) == {"added": 1}
    assert sandbox.urls("P") == [f"{host.base}/gone.png"]
    assert not host.asked


def test_what_is_rehosted_is_there_by_its_bytes(
    run: Callable[..., Finished], ingest: CommandLine, sandbox: Served, host: Host, pictures: Callable[..., Path]
) -> None:
    urls = [host.image(f"{number}.png", number) for number in range(3)]
    host.bodies["/copy.png"] = host.bodies["/0.png"]
    host.bodies["/large.png"] = host.bodies["/0.png"] + bytes(200_000)
    options = ("--rehost", "--max-bytes", "100kB")
    done = run([*urls, f"{host.base}/copy.png?token={SECRET}", f"{host.base}/large.png"], *options)
    assert (done.code, counts(done)) == (1, {"added": 3, "duplicate": 1, "rejected": 1}), done
    assert reasons(ingest) == {f"{host.base}/large.png": "too_large"}
    images = sandbox.pack("P")["images"]
    expected = {hashlib.sha256(host.bodies[f"/{number}.png"]).hexdigest() for number in range(3)}
    assert {image["sha256"] for image in images} == expected
    assert not any(host.base in image["url"] for image in images)
    assert done.json["bytes_uploaded"] == sum(len(host.bodies[f"/{number}.png"]) for number in range(3))
    asked = sum(host.asked.values())
    assert counts(run(urls, *options)) == {"duplicate": 3}
    assert sum(host.asked.values()) == asked


def test_verify_adds_what_is_missing_and_deletes_nothing(
    run: Callable[..., Finished], ingest: CommandLine, sandbox: Served, host: Host
) -> None:
    urls = [host.image(f"{number}.png", number) for number in range(3)]
    run(urls)
    take_out(sandbox, 0)
    copy(sandbox, sandbox.urls("P")[0])
    (doubled,) = {url for url, count in Counter(sandbox.urls("P")).items() if count == 2}
    assert Counter(found(ingest("verify", "--json"))) == Counter([("missing", 0, False), ("doubled", 2, False)])

    done = ingest(*REPAIR)

    assert (done.code, Counter(found(done))) == (1, Counter([("missing", 0, True), ("doubled", 2, False)])), done
    assert Counter(sandbox.urls("P")) == Counter([*urls, doubled])


# Killed.

NO_ANSWER = {"operation": "add_image", "kind": "cut_after", "after": 2, "times": 1}
NO_EFFECT = {**NO_ANSWER, "kind": "cut_before"}


@pytest.mark.parametrize(
    ("point", "faults", "options"),
    [
        ("hold.before", (), ()),
        ("hold.after:2", (), ()),
        ("check.before:2", (), ()),
        ("check.after:3", (), ()),
        ("Stored.before:2", (), ()),
        ("Stored.inside:3", (), ()),
        ("Stored.after:3", (), ()),
        ("add.before:3", (), ()),
        ("add.after:3", (), ()),
        ("add.unanswered", (NO_ANSWER,), ()),
        ("add.unanswered", (NO_EFFECT,), ()),
        ("Parked.after", (NO_ANSWER,), ()),
        ("found.inside", (NO_ANSWER,), ()),
        ("Resent.inside", (NO_EFFECT,), ()),
        ("Resent.after", (NO_EFFECT,), ()),
        ("AuditClosed.inside", (NO_EFFECT,), ()),
        ("added.inside:3", (), ()),
        ("download.before:2", (), ("--rehost",)),
        ("download.after:2", (), ("--rehost",)),
        ("Stored.after:2", (), ("--rehost",)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_killed_on_the_way_of_a_url_and_restarted(  # noqa: PLR0917 - three fixtures
    run: Callable[..., Finished],
    sandbox: Served,
    host: Host,
    point: str,
    faults: tuple[dict[str, Any], ...],
    options: tuple[str, ...],
) -> None:
    urls = [host.image(f"{number}.png", number) for number in range(4)]
    sandbox.fail(*faults)
    run(urls, *options, at=point)
    done = run(urls, *options)
    assert done.code == 0, done
    images = sandbox.pack("P")["images"]
    held = Counter(image["sha256"] if options else image["url"] for image in images)
    expected = [hashlib.sha256(host.bodies[f"/{number}.png"]).hexdigest() for number in range(4)] if options else urls
    assert held == Counter(expected)
    assert sum(counts(done).values()) == 4
