"""What is done to a run while it goes on: signals, an outage, a revoked key, a full disk, a changed tree, a set clock.

Each disturbance leaves the world as it found it, except for the run, which may have ended. Judges nothing.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.soak.figures import Figures
    from tests.soak.machine import Clock, SmallDisk
    from tests.soak.processes import Process, Shell
    from tests.soak.server import Sandbox
    from tests.soak.trees import Tree

__all__ = ["Scene", "disturb"]

BETWEEN_S: Final = 0.8
"""On average, from one disturbance to the next; half a second of the first goes to the start of the process."""

LEFT_ALONE_S: Final = 8.0
"""After the last one a run may go on for so long; then it is stopped like a user's."""

LEAST_BETWEEN_SIGNALS_S: Final = 0.02


@dataclass
class Scene:
    """A run, and what is around it."""

    run: Process
    args: tuple[str, ...]
    tree: Tree
    shell: Shell
    sandbox: Sandbox
    disk: SmallDisk | None
    clock: Clock | None
    figures: Figures
    dice: random.Random

    def goes_on(self, seconds: float) -> bool:
        """Whether the run is still there after so many seconds."""
        return not self.run.wait(seconds)


def disturb(scene: Scene) -> None:
    """A few disturbances, one after another while the run lasts, and then its end."""
    possible = {kind: weight for kind, weight in KINDS.items() if _is_possible(kind, scene)}
    for _ in range(scene.dice.randint(1, 5)):
        if not scene.goes_on(scene.dice.expovariate(1 / BETWEEN_S)):
            return
        (chosen,) = scene.dice.choices(tuple(possible), tuple(possible.values()))
        chosen(scene)
    if scene.goes_on(scene.dice.uniform(0, LEFT_ALONE_S)):
        scene.dice.choice((_kill, _terminate))(scene)


def _is_possible(kind: Callable[[Scene], None], scene: Scene) -> bool:
    return not ((kind is _fill_disk and scene.disk is None) or (kind is _set_clock and scene.clock is None))


def _kill(scene: Scene) -> None:
    scene.run.send(signal.SIGKILL)


def _terminate(scene: Scene) -> None:
    scene.run.send(signal.SIGTERM)


def _interrupt(scene: Scene) -> None:
    scene.run.send(signal.SIGINT)


def _terminate_twice(scene: Scene) -> None:
    if scene.run.send(signal.SIGTERM) and scene.goes_on(scene.dice.uniform(LEAST_BETWEEN_SIGNALS_S, 1.0)):
        scene.run.send(signal.SIGTERM)


def _pause(scene: Scene) -> None:
    """As a machine that sleeps, or one that swaps."""
    if scene.run.send(signal.SIGSTOP):
        scene.goes_on(scene.dice.uniform(0.1, 5.0))
        scene.run.send(signal.SIGCONT)


def _outage(scene: Scene) -> None:
    scene.sandbox.kill()
    scene.figures.count("sandbox killed")
    scene.goes_on(scene.dice.uniform(0, 4.0))
    scene.sandbox.restart()


def _revoke(scene: Scene) -> None:
    remote = scene.sandbox.remote
    remote.change_key(key=remote.key, revoked=True)
    scene.figures.count("key revoked")
    scene.run.may_exit.add(3)
    scene.goes_on(scene.dice.uniform(0.1, 5.0))
    remote.change_key(key=remote.key, revoked=False)


def _change_tree(scene: Scene) -> None:
    scene.tree.change()
    scene.figures.count("tree changed")


def _fill_disk(scene: Scene) -> None:
    assert scene.disk is not None
    scene.disk.fill()
    scene.figures.count("disk filled")
    scene.run.may_exit.add(74)
    scene.goes_on(scene.dice.uniform(0.1, 6.0))
    if scene.dice.random() < 0.3:
        _look(scene)
    scene.disk.make_room()


def _set_clock(scene: Scene) -> None:
    """An hour back or forward, and mostly not set right again before the run ends."""
    assert scene.clock is not None
    scene.clock.step(scene.dice.choice((-3600, 3600)))
    scene.figures.count("clock set")
    if scene.dice.random() < 0.3 and scene.goes_on(1.0):
        scene.clock.step(0)


def _look(scene: Scene) -> None:
    """What a person does who wonders how it goes."""
    is_full = scene.disk is not None and scene.disk.is_full
    # The first run may not have made its journal yet: 2. To read a log needs shared memory beside it: 74 when full.
    may_exit = {0} | ({74} if is_full else set()) | (set() if scene.shell.has_journal else {2})
    for command in ("status", "failures"):
        with scene.shell.started(command, "--json", may_exit=may_exit) as process:
            process.wait(20)
        scene.figures.count("looked beside it")


def _rival(scene: Scene) -> None:
    """The same command again on one journal: it is in use, unless the first has just ended."""
    scene.figures.count("rivals")
    with scene.shell.started(*scene.args, may_exit={0, 1, 75}) as rival:
        rival.wait(5)


KINDS: Final[dict[Callable[[Scene], None], int]] = {
    _kill: 6,
    _terminate: 2,
    _interrupt: 2,
    _terminate_twice: 2,
    _pause: 2,
    _outage: 3,
    _revoke: 2,
    _change_tree: 5,
    _fill_disk: 4,
    _set_clock: 6,
    _look: 2,
    _rival: 1,
}
"""With how likely each is."""
