"""The sandbox of a round as a process that can be killed, and what may be done to it from behind.

Counts what it dealt; judges nothing.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.system.conftest import KEY, Served

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence

    from tests.soak.processes import Shell

__all__ = ["Remote", "Sandbox"]

STARTING_S: Final = 30.0


class Remote(Served):
    """The sandbox as those see it who may look behind it."""

    def deal(self, plan: Mapping[str, Any]) -> None:
        """Replace faults and limits."""
        self._control("PUT", "faults", plan)

    def sabotage(self, pack: str) -> None:
        """Lose one image of the pack and double another, as a bad program would."""
        held = self.pack(pack)
        gone, doubled = held["images"][0], held["images"][1]
        self._ask("DELETE", f"packs/{held['id']}/images/{gone['id']}")
        self._ask("POST", f"packs/{held['id']}/images", {"image_url": doubled["url"]})

    def _ask(self, method: str, path: str, body: Any = None) -> None:
        request = urllib.request.Request(
            f"{self.base_url}/{path}",
            method=method,
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
            data=None if body is None else json.dumps(body).encode(),
        )
        urllib.request.urlopen(request, timeout=10).close()


class Sandbox:
    """A real `ingest sandbox`, which can be killed and comes back on its port with its data."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._plan: dict[str, Any] = {"seed": 0, "rule": []}
        self._starts = 0
        self._process, self.remote = self._start("0")
        shell.env.update(self.remote.env)

    @classmethod
    @contextmanager
    def serving(cls, shell: Shell) -> Iterator[Sandbox]:
        """A sandbox that is gone at the end."""
        sandbox = cls(shell)
        try:
            yield sandbox
            sandbox.kill()
        finally:
            sandbox._process.kill()
            sandbox._process.wait()

    def deal(self, plan: dict[str, Any], *, once: Sequence[dict[str, Any]] = ()) -> None:
        """Replace faults and limits, for later lives too; not so the rules that come `once`, before the others."""
        self._plan = plan
        self.remote.deal({**plan, "rule": [*once, *plan["rule"]]})

    def kill(self) -> None:
        """SIGKILL; what it had dealt is counted before."""
        self._tally()
        self._process.kill()
        self._process.wait()
        self._shell.find_traces(f"sandbox-{self._starts}")

    def restart(self) -> None:
        """The same port and data, and other dice."""
        self._process, self.remote = self._start(self.remote.url.rpartition(":")[2])
        self.deal({**self._plan, "seed": self._plan["seed"] + 1})

    def _tally(self) -> None:
        """Count what it did in this life."""
        ledger = self.remote.ledger()
        for kinds in ledger["faults"].values():
            for kind, number in kinds.items():
                # Nearly every answer is held back a little (`weather.EVERY_REQUEST`): no fault to boast of.
                self._shell.figures.count(*(("slowed", "") if kind == "slow" else ("faults", kind)), number)
        self._shell.figures.count("faults", "over a limit", sum(ledger["limited"].values()))
        self._shell.figures.count(
            "adds sent again", "", sum(max(0, n["received"] - 1) for n in ledger["adds"].values())
        )
        self._shell.figures.count("surplus copies deleted", "", ledger["effects"].get("delete_image", 0))
        self._shell.figures.count("requests", "", sum(sum(a.values()) for a in ledger["requests"].values()))

    def _start(self, port: str) -> tuple[subprocess.Popen[bytes], Remote]:
        self._starts += 1
        name = f"sandbox-{self._starts}"
        out = self._shell.folder / f"{name}.out"
        process = self._shell.popen(
            name, ("sandbox", "--port", port, "--data", self._shell.folder / "sandbox", "--key", KEY)
        )
        deadline = time.monotonic() + STARTING_S
        while not (told := re.search(r"GENVIRAL_BASE_URL=(\S+)\n", out.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise RuntimeError(f"the sandbox did not start; see {out.with_suffix('.err')}")
            time.sleep(0.02)
        base_url = told[1].strip("'\"")
        return process, Remote(url=base_url.partition("/api/")[0], base_url=base_url, key=KEY)
