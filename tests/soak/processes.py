"""The `ingest` commands of a round, and what each may and may not do at its end.

Outputs go to files of the round's directory, where they are judged and kept. Disturbs nobody by itself.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.system.conftest import KEY, CommandLine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.soak.figures import Figures

__all__ = ["Process", "Shell", "reveals"]

PARTS: Final = ("added", "duplicate", "rejected", "failed", "pending")

TRACES: Final = (
    *("Traceback (most recent call last)", "Exception ignored", "never retrieved", "never awaited"),
    "Fatal Python error",
)
SECRETS: Final = (KEY.partition(".")[2], "X-Amz-Signature", "X-Amz-Credential")

TO_NOBODY: Final = {"GENVIRAL_BASE_URL": "http://127.0.0.1:9/", "PYTHONWARNINGS": ""}

ENDING_S: Final = 60.0
"""After SIGTERM: the drain, and a busy machine. Who is still there has to be killed, which is a wrong exit."""


@dataclass
class Process:
    """An `ingest` command that was started; `may_exit` grows with what is done to it."""

    name: str
    popen: subprocess.Popen[bytes]
    figures: Figures
    may_exit: set[int]

    @property
    def is_over(self) -> bool:
        return self.popen.poll() is not None

    @property
    def takes_signals(self) -> bool:
        """Whether the program has its handlers: before, and in its last moments, Python and the system have theirs."""
        try:
            with open(f"/proc/{self.popen.pid}/status") as status:
                caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt:"))
        except (OSError, StopIteration):
            return False
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within so many seconds."""
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def send(self, number: signal.Signals) -> bool:
        """Whether it was there to take the signal; then it may end of it."""
        if self.is_over or (number in {signal.SIGTERM, signal.SIGINT} and not self.takes_signals):
            return False
        self.popen.send_signal(number)
        self.figures.count("signals", number.name)
        if number is signal.SIGKILL:
            self.may_exit.add(-number)
        elif number in {signal.SIGTERM, signal.SIGINT}:
            self.may_exit.add(128 + number)
        return True

    def end(self) -> None:
        """See it end: by itself if it was asked to, else by SIGTERM. What stays is killed, and that is a wrong exit."""
        deadline = time.monotonic() + ENDING_S
        is_asked = bool(self.may_exit & {128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGKILL})
        while not self.wait(0.05) and time.monotonic() < deadline:
            is_asked = is_asked or self.send(signal.SIGTERM)
        self.kill()

    def kill(self) -> None:
        """If it is still there."""
        self.popen.kill()
        self.popen.wait()


@dataclass
class Shell:
    """Where the commands of one round run. `env` says to whom they talk: to nobody, before there is a sandbox.

    Warnings are as users have them: a signal in the midst of an import leaves a file to the collector, which is right.
    """

    folder: Path
    journal: Path
    figures: Figures
    env: dict[str, str] = field(default_factory=lambda: dict(TO_NOBODY))
    has_journal: bool = False  # for certain: a run has ended that had begun
    _number: int = 0

    @contextmanager
    def started(self, *args: str | Path, may_exit: set[int], env: Mapping[str, str] | None = None) -> Iterator[Process]:
        """A command that is judged when it has ended, and ended if it has not."""
        self._number += 1
        process = Process(
            name=f"{self._number:03}-{args[0]}",
            popen=self.popen(f"{self._number:03}-{args[0]}", (*args, "--journal", self.journal), env),
            figures=self.figures,
            may_exit=set(may_exit),
        )
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        process.end()
        self._judge(process, is_run=args[0] == "run")

    def popen(
        self, name: str, args: tuple[str | Path, ...], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A command whose outputs go to files of that name."""
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("wb") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "ingest", *args],
                env=CommandLine(home=self.folder, env=self.env).environment(env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                # Ctrl-C in the terminal is for the soak alone, which then ends all of them.
                start_new_session=True,
            )

    def summary(self, process: Process) -> dict[str, Any] | None:
        """The JSON object of a run that has ended; None where there is none."""
        lines = self._text(f"{process.name}.out").splitlines()
        try:
            (summary,) = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return summary if isinstance(summary, dict) else None

    def find_traces(self, name: str) -> None:
        """Look for what no stderr may hold."""
        told = self._text(f"{name}.err")
        if found := [trace for trace in TRACES if trace in told]:
            self.figures.problem("tracebacks", f"{name}.err has {found[0]!r}")
        for suffix in ("out", "err"):
            if name.startswith("sandbox") and suffix == "out":
                continue  # it prints its key to be pasted
            if reveals(self.folder / f"{name}.{suffix}"):
                self.figures.problem("leaks", f"a secret in {name}.{suffix}")

    def _judge(self, process: Process, *, is_run: bool) -> None:
        code = process.popen.returncode
        self.find_traces(process.name)
        if not is_run:
            if code not in process.may_exit:
                self.figures.problem("wrong exits", f"{process.name} ended with {code}")
            return
        self.figures.count("runs")
        self.figures.count("exits", str(code))
        if code not in process.may_exit:
            allowed = sorted(process.may_exit)
            self.figures.problem("wrong exits", f"{process.name} ended with {code}; it might with {allowed}")
        if code == -signal.SIGKILL:
            return
        summary = self.summary(process)
        if summary is None or summary["exit_code"] != code:
            self.figures.problem("astray", f"{process.name} ended with {code} and told {summary}")
        elif summary["discovered"] != sum(summary[part] for part in PARTS):
            self.figures.problem("astray", f"{process.name}: its sums are wrong: {summary}")
        self.has_journal = self.has_journal or bool(summary and summary["run_id"])

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text(errors="surrogateescape")


def reveals(path: Path) -> bool:
    """Whether a file holds a secret."""
    content = path.read_bytes()
    return any(secret.encode() in content for secret in SECRETS)
