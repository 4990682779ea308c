"""One round: a world made from its seed, runs that are disturbed, runs that are not, and the comparison.

Every choice comes from the seed; when a process does what is up to the machine.
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.soak.disturbances import Scene, disturb
from tests.soak.figures import Figures
from tests.soak.machine import Clock, SmallDisk
from tests.soak.processes import Shell
from tests.soak.server import Sandbox
from tests.soak.trees import Fate, Tree
from tests.soak.verdict import compare
from tests.soak.weather import EVERY_REQUEST, SETTLE_S, TIMEOUT_S, storm, straggler

if TYPE_CHECKING:
    from pathlib import Path

    from tests.soak.processes import Process

__all__ = ["Abilities", "Round"]

SIZES: Final = ((10, 30), (30, 90), (90, 250))
MOST_DISTURBED: Final = 8
MOST_CLOSING: Final = 6
"""Undisturbed runs of one tree: the first in bad weather, the others in fair."""

CLOSING_S: Final = 240.0


@dataclass(frozen=True)
class Abilities:
    """What this machine can do to itself."""

    disk: bool
    faketime: Path | None


class Round:
    """The world of one seed, under one folder. `figures` tell what came of it."""

    def __init__(self, seed: int, folder: Path, abilities: Abilities) -> None:
        self.seed = seed
        self.figures = Figures()
        self._folder = folder
        self._dice = random.Random(seed)
        self._abilities = abilities

    def run(self, *, is_tiny: bool = False, is_sabotaged: bool = False) -> None:
        """The whole of it. A tiny one has few images and one disturbed run; a sabotaged one is for the self-test."""
        self._folder.mkdir()
        dice = self._dice
        low, high = (6, 8) if is_tiny else dice.choices(SIZES, (3, 4, 2))[0]
        names = ("first",) if is_tiny or dice.random() < 0.5 else ("first", "second")
        trees = [
            Tree(self._folder / name, f"Pack {name}", random.Random(f"{self.seed} {name}"), dice.randint(low, high))
            for name in names
        ]
        for tree in trees[1:]:
            tree.borrow(trees[0])
        with contextlib.ExitStack() as stack:
            disk = self._disk(stack)
            shell = Shell(
                folder=self._folder,
                journal=(disk.place if disk else self._folder) / "journal.db",
                figures=self.figures,
            )
            sandbox = stack.enter_context(Sandbox.serving(shell))
            if not is_sabotaged:
                for _ in range(1 if is_tiny else dice.randint(1, MOST_DISTURBED)):
                    sandbox.deal(storm(dice))
                    self._disturbed(shell, sandbox, dice.choice(trees), disk)
            for tree in trees:
                if not (is_tiny or is_sabotaged):
                    sandbox.deal(storm(dice), once=[straggler(dice)])
                self._closing(shell, sandbox, tree)
            self._close_what_is_left(shell, sandbox)
            if is_sabotaged:
                sandbox.remote.sabotage(trees[0].pack)
            compare(sandbox.remote, trees, shell.journal, self.figures)
        self.figures.count("rounds")

    def _disk(self, stack: contextlib.ExitStack) -> SmallDisk | None:
        """A small disk for the journal, in some rounds."""
        if self._dice.random() < 0.5 or not self._abilities.disk:
            return None
        disk = SmallDisk(self._folder / "disk")
        stack.enter_context(disk.mounted())
        return disk

    def _disturbed(self, shell: Shell, sandbox: Sandbox, tree: Tree, disk: SmallDisk | None) -> None:
        dice = self._dice
        args = self._args(tree, is_resumed=dice.random() < 0.1)
        library = self._abilities.faketime
        clock = Clock(library, self._folder / "clock") if dice.random() < 0.5 and library is not None else None
        # 75 in any weather: it is documented, and what is left is done by the next run.
        with shell.started(*args, may_exit={0, 1, 75}, env=clock.env if clock else None) as run:
            try:
                disturb(Scene(run, args, tree, shell, sandbox, disk, clock, self.figures, random.Random(dice.random())))
                run.end()
            finally:
                run.kill()
                if clock is not None:
                    clock.tidy_after(run.popen.pid)

    def _closing(self, shell: Shell, sandbox: Sandbox, tree: Tree) -> None:
        """Run until the tree is done: exit 0 or 1, and nothing `failed` that a person could retry."""
        for _ in range(MOST_CLOSING):
            with shell.started(*self._args(tree), may_exit={0, 1, 75}) as run:
                run.wait(CLOSING_S)
            told = shell.summary(run)
            if run.popen.returncode in {0, 1} and told and not told["failed"] and not told["pending"]:
                self._check_counts(run, tree, told)
                return
            sandbox.deal(self._fair())
            with shell.started("retry", may_exit={0}) as retry:
                retry.wait(CLOSING_S)
        self.figures.problem("wrong exits", f"{MOST_CLOSING} undisturbed runs of {tree.root} did not finish it")

    def _close_what_is_left(self, shell: Shell, sandbox: Sandbox) -> None:
        """Jobs of files that are there no more belong to no tree: a run without a source ends them."""
        sandbox.deal(self._fair())
        with shell.started(*self._args(None), may_exit={0, 1}) as run:
            run.wait(CLOSING_S)

    def _check_counts(self, run: Process, tree: Tree, told: dict[str, int]) -> None:
        taken, refused = tree.count(Fate.TAKEN), tree.count(Fate.REFUSED)
        if (told["discovered"], told["rejected"]) != (taken + refused, refused):
            self.figures.problem("astray", f"{run.name} told {told} of {taken} images and {refused} that are none")

    def _fair(self) -> dict[str, Any]:
        return {"seed": self.seed, "rule": [EVERY_REQUEST]}

    def _args(self, tree: Tree | None, *, is_resumed: bool = False) -> tuple[str, ...]:
        dice = self._dice
        named = () if tree is None or is_resumed else (str(tree.root), "--pack", tree.pack, "--create-pack")
        return (
            *("run", *named, "--json", "--settle-delay", f"{SETTLE_S}s", "--timeout", f"{TIMEOUT_S}s"),
            *("--concurrency", str(dice.choice((1, 2, 4, 8, 16, 64)))),
            *("--max-attempts", str(dice.choice((8, 30)))),
            *("--drain-timeout", f"{dice.choice((0.1, 1, 5))}s"),
            *("--give-up-after", f"{dice.choice((5, 20, 60))}s"),
            *("--max-memory", dice.choice(("60MiB", "256MiB"))),
            *("--log-level", dice.choice(("info", "debug"))),
        )
