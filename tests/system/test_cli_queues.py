"""Queues from the command line: enqueue, run, kill, run again, on a private Redis; the ledger says what came of it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
import redis as redis_client
from brokers.servers import RedisServer, running
from test_readme import blocks, commands

from ingest.cli.enqueueing import job_id
from ingest.model import FileStamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .conftest import CommandLine, Served

PASSWORD = "pa:ss@word"
ESCAPED = "pa%3Ass%40word"
NOT_SHARED = "Several workers here may add an image twice; use --journal postgres://…"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    with running(RedisServer, tmp_path / "redis") as server:
        yield server


def url(broker: RedisServer, **parameters: object) -> str:
    said = {"stream": "images", "lease": 1, **parameters}
    return f"redis://:{ESCAPED}@127.0.0.1:{broker.port}/0?{urlencode(said)}"


def connected(broker: RedisServer) -> redis_client.Redis:
    return redis_client.Redis(port=broker.port, password=PASSWORD, protocol=2)


def messages(broker: RedisServer, stream: str = "images") -> list[dict[str, str]]:
    with connected(broker) as redis:
        return [json.loads(fields[b"job"]) for _, fields in redis.xrange(stream)]


def pending(broker: RedisServer) -> int:
    with connected(broker) as redis:
        (group,) = redis.xinfo_groups("images")
        return int(group["pending"]) + int(group["lag"])


def test_the_example_of_the_readme(
    ingest: CommandLine, sandbox: Served, broker: RedisServer, pictures: Callable[..., Path]
) -> None:
    folder = pictures(6)
    enqueue, run = commands(blocks("sh")[4])
    for command in (enqueue, run):
        words = [
            word.replace("/srv/pictures", str(folder)).replace("host:6379", f":{ESCAPED}@127.0.0.1:{broker.port}")
            for word in shlex.split(command)
        ]
        idle = ["--idle", "0.2", "--create-pack"] if words[1] == "run" else []
        done = ingest(*words[1:], *idle)
        assert done.code == 0, done

    assert len(sandbox.urls("Motivation")) == 6


def test_a_worker_that_is_killed_in_the_middle_adds_nothing_twice(
    ingest: CommandLine, sandbox: Served, broker: RedisServer, pictures: Callable[..., Path]
) -> None:
    folder = pictures(60)
    assert ingest("enqueue", folder, "--root", folder, "--to", url(broker)).code == 0
    sandbox.fail({"operation": "add_image", "kind": "slow", "delay_s": 0.05})
    arguments = ("run", url(broker), "--root", folder, "--pack", "Holiday", "--create-pack", "--idle", "0.3")
    options = ("--log-level", "debug", "--concurrency", "4")
    with ingest.start(*arguments, *options) as started:
        for _ in range(10):
            started.wait_for_line("job.settled")
        started.signal(signal.SIGKILL)
        assert started.finish().code == -signal.SIGKILL
    assert 0 < len(sandbox.urls("Holiday")) < 60
    assert pending(broker) > 0

    # At once: what the dead one held is waited for as long as its lease.
    done = ingest(*arguments, "--settle-delay", "0.2", "--json")

    assert done.code == 0, done
    assert done.json["pending"] == 0
    urls = sandbox.urls("Holiday")
    assert len(urls) == len(set(urls)) == 60
    assert pending(broker) == 0
    assert messages(broker, "images:dead") == []


def test_a_broker_that_is_killed_and_started_again_under_a_run(
    ingest: CommandLine, sandbox: Served, broker: RedisServer, pictures: Callable[..., Path]
) -> None:
    folder = pictures(40)
    assert ingest("enqueue", folder, "--root", folder, "--to", url(broker)).code == 0
    arguments = ("run", url(broker, prefetch=8), "--root", folder, "--pack", "Holiday", "--create-pack", "--idle", "1")
    with ingest.start(*arguments, "--log-level", "debug", "--concurrency", "2", "--json") as started:
        for _ in range(5):
            started.wait_for_line("job.settled")
        broker.kill()
        started.wait_for_line("Connection refused")
        broker.start()
        done = started.finish()

    assert done.code == 0, done
    urls = sandbox.urls("Holiday")
    assert len(urls) == len(set(urls)) == 40
    assert pending(broker) == 0


def test_served_beside_a_directory(
    ingest: CommandLine, sandbox: Served, broker: RedisServer, pictures: Callable[..., Path]
) -> None:
    queued = pictures(6)
    inbox = ingest.home / "Inbox"
    inbox.mkdir()
    serve = ("serve", url(broker), inbox, "--root", queued, "--pack", "Holiday", "--create-pack")
    options = ("--settle-files", "0.1s", "--metrics-port", "0", "--log-level", "debug", "--json")
    with ingest.start(*serve, *options) as started:
        started.wait_for_line("pack.resolved")
        assert ingest("enqueue", queued, "--root", queued, "--to", url(broker)).code == 0
        for _ in range(6):
            started.wait_for_line("job.settled")
        (pictures(1, "late") / "000.jpg").rename(inbox / "late.jpg")
        started.wait_for_line("job.settled")
        started.signal(signal.SIGTERM)
        done = started.finish()

    assert done.code == 0, done
    assert (done.json["discovered"], done.json["added"]) == (7, 7)
    assert len(sandbox.urls("Holiday")) == 7
    assert pending(broker) == 0


def test_stopped_it_gives_back_what_it_holds(
    ingest: CommandLine, sandbox: Served, broker: RedisServer, pictures: Callable[..., Path]
) -> None:
    folder = pictures(30)
    assert ingest("enqueue", folder, "--root", folder, "--to", url(broker)).code == 0
    sandbox.fail({"operation": "add_image", "kind": "slow", "delay_s": 0.1})
    queue = url(broker, lease=3600)
    arguments = ("run", queue, "--root", folder, "--pack", "Holiday", "--create-pack")
    with ingest.start(*arguments, "--log-level", "debug", "--concurrency", "2") as started:
        for _ in range(4):
            started.wait_for_line("job.settled")
        started.signal(signal.SIGTERM)
        assert started.finish().code == 128 + signal.SIGTERM

    sandbox.fail()
    # Under such a lease, only what was given back is there.
    done = ingest(*arguments, "--idle", "0.5", "--json")

    assert done.code == 0, done
    assert len(sandbox.urls("Holiday")) == 30
    assert pending(broker) == 0


def test_what_is_rejected_and_failed_is_dead_lettered_with_its_reason(
    ingest: CommandLine, sandbox: Served, broker: RedisServer, pictures: Callable[..., Path]
) -> None:
    folder = pictures(3)
    (folder / "fake.jpg").write_bytes(b"no image")
    (folder / "gone.jpg").write_bytes(b"no image either")
    assert ingest("enqueue", folder, "--root", folder, "--to", url(broker)).code == 0
    (folder / "gone.jpg").unlink()

    done = ingest("run", url(broker), "--root", folder, "--pack", "Holiday", "--create-pack", "--idle", "0.3", "--json")

    assert done.code == 1, done
    assert (done.json["added"], done.json["rejected"], done.json["failed"]) == (3, 1, 1)
    with connected(broker) as redis:
        dead = {json.loads(fields[b"job"])["image"]: fields for _, fields in redis.xrange("images:dead")}
    assert {name: fields[b"ingest-reason"] for name, fields in dead.items()} == {
        "fake.jpg": b"not_an_image",
        "gone.jpg": b"missing",
    }
    assert dead["gone.jpg"][b"ingest-outcome"] == b"failed"
    assert pending(broker) == 0


def test_the_dead_letters_hold_exactly_what_is_no_job(
    ingest: CommandLine, sandbox: Served, broker: RedisServer, pictures: Callable[..., Path]
) -> None:
    folder = pictures(12)
    sandbox_pack = ingest("packs", "create", "Holiday")
    assert sandbox_pack.code == 0, sandbox_pack
    bad = {
        b"no json": "bad_message",
        b'{"image": 7}': "bad_message",
        b'{"image": "../../etc/passwd", "pack": "Holiday"}': "path_outside_root",
        b'{"image": "000.jpg"}': "no_pack",
        b'{"image": "000.jpg", "pack": "There is none"}': "unknown_pack",
    }
    with connected(broker) as redis:
        for body in bad:
            redis.xadd("images", {"job": body})
    published = ingest("enqueue", folder, "--root", folder, "--pack", "Holiday", "--to", url(broker))
    assert published.code == 0, published

    done = ingest("run", url(broker), "--root", folder, "--idle", "0.3", "--json")

    assert done.code == 1, done
    assert (done.json["added"], done.json["rejected"], done.json["discovered"]) == (12, 5, 17)
    with connected(broker) as redis:
        dead = {fields[b"job"]: fields[b"ingest-reason"].decode() for _, fields in redis.xrange("images:dead")}
    assert dead == bad
    assert pending(broker) == 0
    assert ingest("failures", "--json").out.count("path_outside_root") == 1


def test_an_empty_queue_is_no_mistake(ingest: CommandLine, sandbox: Served, broker: RedisServer) -> None:
    done = ingest("run", url(broker), "--pack", "Holiday", "--create-pack", "--idle", "0.2", "--json")
    assert done.code == 0, done
    assert done.json["discovered"] == 0


def test_it_says_that_the_journal_is_not_shared_and_never_the_password(
    ingest: CommandLine, broker: RedisServer, pictures: Callable[..., Path]
) -> None:
    folder = pictures(1)
    done = ingest("run", url(broker), "--pack", "Holiday", "--create-pack", "--idle", "0.2", "--log-level", "debug")
    assert NOT_SHARED in "\n".join(json.loads(line).get("message", "") for line in done.err.splitlines())
    more = [
        ingest("run", url(broker, lease=99999), "--pack", "Holiday"),
        ingest("run", url(broker).replace(str(broker.port), "1"), "--pack", "Holiday"),
        ingest("run", url(broker).replace("%3A", "?"), "--pack", "Holiday"),
        ingest("enqueue", folder, "--to", url(broker) + "&stream=x"),
        ingest("enqueue", folder, "--to", url(broker).replace("redis:", "radish:")),
        ingest("enqueue", folder, "--to", url(broker)),
    ]
    assert [each.code for each in more] == [2, 75, 2, 2, 2, 0], more
    for each in (done, *more):
        assert "word" not in (each.out + each.err).replace("password of", "").replace("a password", "").replace(
            ":password@", ""
        ), each
    journal = b"".join(path.read_bytes() for path in ingest.home.rglob("journal.db*"))
    assert PASSWORD.encode() not in journal
    assert ESCAPED.encode() not in journal


def test_published_twice_is_added_once_and_a_changed_file_again(
    ingest: CommandLine, sandbox: Served, broker: RedisServer, pictures: Callable[..., Path]
) -> None:
    folder = pictures(3)
    publish = ("enqueue", folder, "--root", folder, "--to", url(broker), "--json")
    run = ("run", url(broker), "--root", folder, "--pack", "Holiday", "--create-pack", "--idle", "0.2", "--json")
    assert [ingest(*publish).json["published"] for _ in range(2)] == [3, 3]
    first = ingest(*run).json
    assert (first["added"], first["duplicate"]) == (3, 3)

    other = pictures(4, "other")
    (other / "003.jpg").replace(folder / "000.jpg")
    assert ingest(*publish).code == 0
    second = ingest(*run).json

    assert (second["added"], second["duplicate"]) == (1, 2)
    assert len(sandbox.urls("Holiday")) == 4


def test_what_a_message_says(ingest: CommandLine, broker: RedisServer, pictures: Callable[..., Path]) -> None:
    folder = pictures(2)
    assert ingest("enqueue", folder, "--root", folder, "--pack", "Holiday", "--to", url(broker)).code == 0
    assert ingest("enqueue", folder, "--to", url(broker, stream="absolute"), "--exclude", "001*").code == 0

    status = (folder / "000.jpg").stat()
    stamp = FileStamp(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)
    assert messages(broker)[0] == {
        "image": "000.jpg",
        "pack": "Holiday",
        "file_name": "000.jpg",
        "id": job_id("000.jpg", stamp),
    }
    assert [message["image"] for message in messages(broker, "absolute")] == [str(folder / "000.jpg")]
    assert Counter(message["id"] for message in messages(broker)).most_common(1)[0][1] == 1


def test_what_can_not_be_published_is_told(
    ingest: CommandLine, broker: RedisServer, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    folder = pictures(2)
    (folder / "000.jpg").rename(folder / os.fsdecode(b"\xff.jpg"))
    done = ingest("enqueue", folder, "--to", url(broker), "--json")
    assert done.code == 1, done
    assert (done.json["published"], done.json["refused"]) == (1, 1)
    assert "name_not_utf8" in done.err
    outside = ingest("enqueue", folder, "--root", tmp_path / "home", "--to", url(broker), "--json")
    assert (outside.code, outside.json["refused"]) == (1, 2)
    assert "path_outside_root" in outside.err
    (tmp_path / "empty").mkdir()
    assert ingest("enqueue", tmp_path / "empty", "--to", url(broker)).code == 2
    assert ingest("enqueue", folder).code == 2
    assert ingest("enqueue", "--to", url(broker)).code == 2


@pytest.mark.parametrize(
    ("scheme", "module"), [("redis", "redis"), ("amqp", "aio_pika"), ("nats", "nats"), ("sqs", "boto3")]
)
def test_a_missing_client_names_its_extra(ingest: CommandLine, tmp_path: Path, scheme: str, module: str) -> None:
    """As where only `ingest` was installed: the client's module can't be found."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {module!r}:\n"
        "            raise ModuleNotFoundError('gone', name=name)\n"
        "sys.meta_path.insert(0, Gone())\n"
    )
    named = f"{scheme}://host?stream=a" if scheme in {"redis", "nats"} else f"{scheme}://host/v?queue=a"
    done = ingest("run", named if scheme != "sqs" else "sqs://a", "--pack", "P", env={"PYTHONPATH": str(blocked)})
    assert done.code == 2, done
    assert f"pip install 'ingest[{scheme}]'" in done.err
    assert module in done.err


def test_no_broker_is_loaded_where_none_is_named() -> None:
    program = (
        "import sys, ingest.assemble, ingest.cli.running, ingest.cli.enqueueing;"
        "print([name for name in ('redis', 'aio_pika', 'aiormq', 'nats', 'boto3', 'botocore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
