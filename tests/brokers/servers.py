"""The processes: each can be killed and started again, and keeps what it confirmed (moto for SQS is only stopped)."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

START_S = 50.0


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Server:
    """One process that listens on `port`. `start` returns when it answers."""

    name: ClassVar[str]
    binary: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.directory / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                self.command(), env={**os.environ, **self.environment()}, cwd=self.directory,
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.wait()

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def wait(self) -> None:
        """Until it greets, as its protocol does."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2) as line:
                line.settimeout(2)
                if self.greets(line):
                    return
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not start:\n{(self.directory / 'log').read_text()[-3000:]}")

    def greets(self, line: socket.socket) -> bool:
        raise NotImplementedError

    def kill(self) -> None:
        """As the plug is pulled."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            if self.process.stdin is not None:
                with contextlib.suppress(OSError):
                    self.process.stdin.close()
            self.process = None

    stop = kill

    def restart(self) -> None:
        self.kill()
        self.start()


class RedisServer(Server):
    name = "redis"
    binary = "redis-server"

    def command(self) -> Sequence[str]:
        return [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always", "--requirepass", "pa:ss@word"),
        ]

    def greets(self, line: socket.socket) -> bool:
        line.sendall(b"AUTH pa:ss@word\r\nPING\r\n")
        said = b""
        while not said.endswith(b"+PONG\r\n"):
            if not (came := line.recv(100)) or b"LOADING" in said:
                return False
            said += came
        return True


class NatsServer(Server):
    name = "nats"
    binary = "nats-server"

    def command(self) -> Sequence[str]:
        return ["nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.directory / "store")]

    def greets(self, line: socket.socket) -> bool:
        return line.recv(2000).startswith(b"INFO") and b'"jetstream":true' in self.info(line)

    def info(self, line: socket.socket) -> bytes:
        line.close()
        with socket.create_connection(("127.0.0.1", self.port), 2) as again:
            return again.recv(2000)


class RabbitServer(Server):
    """A node of its own: name, ports, data, cookie, and the daemon that knows its name."""

    name = "amqp"
    binary = "rabbitmq-server"
    consumer_timeout_s = 30

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.dist_port, self.epmd_port = free_port(), free_port()
        self.node = f"ingest-{self.port}@localhost"
        (directory / "plugins").write_text("[].")
        (directory / "advanced.config").write_text(
            f'[{{rabbit, [{{tcp_listeners, [{{"127.0.0.1", {self.port}}}]}}, '
            f"{{consumer_timeout, {self.consumer_timeout_s * 1000}}}, {{channel_tick_interval, 1000}}]}}]."
        )

    def command(self) -> Sequence[str]:
        # The package's own script wants the user `rabbitmq`; the program itself needs nobody.
        found = sorted(glob.glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
        return [found[-1] if found else "rabbitmq-server"]

    def environment(self) -> dict[str, str]:
        here = self.directory
        return {
            "HOME": str(here),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "true",  # so that it can be told to end
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "logs"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_CONFIG_FILE": str(here / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "plugins"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }

    def greets(self, line: socket.socket) -> bool:
        line.sendall(b"AMQP\x00\x00\x09\x01")
        return len(line.recv(8)) == 8

    def restart(self) -> None:
        # Which queues are quorum queues is written to the disk every three minutes only; a younger one does not come
        # back after a SIGKILL, with whatever it held (3.10). Those in use are older than that.
        control = Path(self.command()[0]).with_name("rabbitmqctl")
        done = subprocess.run(
            [control, "-n", self.node, "eval", "[ok = dets:sync(Table) || Table <- dets:all()]."],
            env={**os.environ, **self.environment()}, capture_output=True, timeout=START_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        super().restart()

    def stop(self) -> None:
        self.kill()
        subprocess.run(
            ["epmd", "-port", str(self.epmd_port), "-kill"],
            env={**os.environ, **self.environment()}, capture_output=True, check=False,
        )  # fmt: skip


MOTO = """
import sys
from moto.server import ThreadedMotoServer
port = int(sys.argv[1])
server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
server.start()
for line in sys.stdin:
    if line.strip() == "stop":
        server.stop()
    else:
        server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        server.start()
"""


class MotoServer(Server):
    """It keeps its queues in memory only: an outage is one of its listener."""

    name = "sqs"
    binary = sys.executable

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", MOTO, str(self.port)]

    def greets(self, line: socket.socket) -> bool:
        line.sendall(b"GET /moto-api/data.json HTTP/1.0\r\n\r\n")
        return line.recv(20).startswith(b"HTTP/1.")

    def restart(self) -> None:
        self.say(b"stop\n")
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 2).close()
            except OSError:
                break
            time.sleep(0.02)
        self.say(b"start\n")
        self.wait()

    def say(self, line: bytes) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()


@contextlib.contextmanager
def running(kind: type[Server], directory: Path):
    """The server, as long as the block; skipped where its program is missing, but not in CI."""
    if shutil.which(kind.binary) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{kind.binary} is not installed")
        pytest.skip(f"{kind.binary} is not installed")
    directory.mkdir(parents=True, exist_ok=True)
    server = kind(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
