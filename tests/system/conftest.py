"""What tests of the command line stand on: a sandbox to talk to, pictures, and the command as a process of its own.

Nothing of the user who runs the tests is read or written: every process gets a home of its own.
"""

from __future__ import annotations

import colorsys
import json
import os
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal
from PIL import Image, ImageDraw

from ingest.sandbox import ApiKey, FaultPlan, Sandbox, SandboxSettings

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

KEY = "tester.sEcReT-0123456789"
INHERITED = ("PATH", "LANG", "TMPDIR", "VIRTUAL_ENV", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
LONG_S = 50.0


@dataclass(frozen=True)
class Served:
    """A sandbox that answers on a thread of its own."""

    url: str
    base_url: str
    key: str

    @property
    def env(self) -> dict[str, str]:
        return {"GENVIRAL_API_KEY": self.key, "GENVIRAL_BASE_URL": self.base_url}

    def ledger(self) -> dict[str, Any]:
        return self._control("GET", "ledger")

    def pack(self, name: str) -> dict[str, Any]:
        """The only pack of that name."""
        (found,) = [pack for pack in self.ledger()["packs"] if pack["name"] == name]
        return found

    def urls(self, name: str) -> list[str]:
        return [image["url"] for image in self.pack(name)["images"]]

    def fail(self, *rules: dict[str, Any], limits: list[dict[str, Any]] | None = None) -> None:
        """Replace the faults."""
        self._control("PUT", "faults", {"seed": 1, "rule": list(rules), "limit": limits or []})

    def change_key(self, **change: Any) -> None:
        self._control("POST", "keys", change)

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/sandbox/{path}", method=method, data=None if body is None else json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())


@dataclass
class Finished:
    """A command that has ended."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    def __str__(self) -> str:
        return f"{self.args} -> {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@dataclass
class Started:
    """A command that runs; its stderr is read as it comes."""

    process: subprocess.Popen[str]
    args: tuple[str, ...]
    _err: list[str] = field(default_factory=list)

    def wait_for_line(self, text: str) -> str:
        """Read stderr until a line with `text` comes."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._err.append(line)
            if text in line:
                return line
        raise AssertionError(f"{self.args} ended without {text!r}:\n{''.join(self._err)}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self) -> Finished:
        out, err = self.process.communicate(timeout=LONG_S)
        return Finished(self.args, self.process.returncode, out, "".join(self._err) + err)


@dataclass
class CommandLine:
    """The `ingest` command with a home and an environment of its own."""

    home: Path
    env: dict[str, str]

    def __call__(self, *args: str | bytes | Path, env: Mapping[str, str] | None = None, **options: Any) -> Finished:
        done = subprocess.run(
            self._command(args),
            env=self.environment(env),
            cwd=options.pop("cwd", self.home),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=LONG_S,
            check=False,
            **options,
        )
        return Finished(tuple(map(str, args)), done.returncode, done.stdout, done.stderr)

    @contextmanager
    def start(self, *args: str | Path, env: Mapping[str, str] | None = None, **options: Any) -> Iterator[Started]:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            self._command(args), env=self.environment(env), cwd=self.home, text=True, **{**streams, **options}
        )
        # A test that fails must not wait for its command; `with` closes the pipes.
        guard = threading.Timer(LONG_S, process.kill)
        guard.start()
        try:
            with process:
                try:
                    yield Started(process, tuple(map(str, args)))
                finally:
                    process.kill()
        finally:
            guard.cancel()

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {
            **inherited,
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "XDG_DATA_HOME": str(self.home / "data"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "PYTHONWARNINGS": "error",
            **self.env,
            **(more or {}),
        }

    @staticmethod
    def _command(args: tuple[Any, ...]) -> list[Any]:
        return [sys.executable, "-m", "ingest", *args]


@pytest.fixture
def sandbox() -> Iterator[Served]:
    """A sandbox without faults, with one key."""
    settings = SandboxSettings(keys=(ApiKey(key=KEY),), faults=FaultPlan(), enrich=False)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Sandbox(settings).serve()) as running,
    ):
        yield Served(url=running.url, base_url=running.base_url, key=KEY)


@pytest.fixture
def ingest(tmp_path: Path, sandbox: Served) -> CommandLine:
    """The command, pointed at the sandbox."""
    home = tmp_path / "home"
    home.mkdir()
    return CommandLine(home=home, env=sandbox.env)


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of so many different small pictures."""

    def make(count: int, name: str = "pictures") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(count):
            draw(folder / f"{number:03}.{('jpg', 'png', 'webp')[number % 3]}", number)
        return folder

    return make


def draw(path: Path, number: int) -> None:
    """A picture like no other number's."""
    red, green, blue = (int(part * 255) for part in colorsys.hsv_to_rgb(number * 0.618 % 1, 0.6, 0.9))
    image = Image.new("RGB", (64, 48), (red, green, blue))
    ImageDraw.Draw(image).text((4, 16), f"{path.parent.name} {number}", fill=(0, 0, 0))
    image.save(path)
