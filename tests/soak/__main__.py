"""`python -m tests.soak --minutes 30`: random runs under random disasters, and a table of what was lost or doubled.

Runs from the repository's root with the `test` extra installed, on Linux; talks to nobody but its own sandbox. Ends
with 0 where everything that must be 0 is.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

from tests.soak.figures import Figures
from tests.soak.machine import can_mount, faketime_library
from tests.soak.rounds import Abilities, Round

WRONG_BY_SABOTAGE = {"lost": 1, "doubled": 1}


def main() -> int:
    """Rounds until the time is up; returns the exit code."""
    args = _arguments()
    signal.signal(signal.SIGTERM, _leave)
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=args.folder))
    total = Figures()
    began = time.monotonic()
    try:
        abilities = _abilities(folder)
        for number in range(args.rounds or sys.maxsize):
            if number and time.monotonic() - began > args.minutes * 60:
                break
            _round(args.seed + number, folder / f"{args.seed + number}", abilities, total, args)
    except KeyboardInterrupt:
        print("stopped before its time", flush=True)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing was kept
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes from seed {args.seed}\n{total.table()}", flush=True)
    if args.self_test:
        found = {kind: total.problems[kind] for kind in WRONG_BY_SABOTAGE}
        print("self-test:", "both were found" if found == WRONG_BY_SABOTAGE else f"found {found}", flush=True)
        return 0 if found == WRONG_BY_SABOTAGE else 1
    return 0 if total.is_clean and total.counts["rounds", ""] else 1


def _round(seed: int, folder: Path, abilities: Abilities, total: Figures, args: argparse.Namespace) -> None:
    began = time.monotonic()
    played = Round(seed, folder, abilities)
    figures = played.figures
    is_whole = False
    try:
        played.run(is_tiny=args.tiny or args.self_test, is_sabotaged=args.self_test)
        is_whole = True
    except Exception as error:
        traceback.print_exc()
        figures.problem("broken off", f"{type(error).__name__}: {error}")
    finally:
        total.add(figures)
        print(
            f"seed {seed}: {figures.total('jobs')} jobs, {figures.total('runs')} runs, "
            f"{figures.total('signals')} signals, {figures.total('faults')} faults, {time.monotonic() - began:.0f} s; "
            f"lost {figures.problems['lost']}, doubled {figures.problems['doubled']}",
            flush=True,
        )
        for finding in figures.findings:
            print(f"  {finding}", flush=True)
        if args.keep or not (is_whole and (figures.is_clean or args.self_test)):
            print(f"  kept in {folder}; again: python -m tests.soak --seed {seed} --rounds 1 --keep", flush=True)
        else:
            shutil.rmtree(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="begin no round after that (default 30)")
    parser.add_argument("--rounds", type=int, help="at most so many")
    parser.add_argument("--seed", type=int, help="of the first round; each next one has the next number")
    parser.add_argument("--keep", action="store_true", help="keep the directories of good rounds, too")
    parser.add_argument("--folder", type=Path, help="where these are made (default: the directory for temporary files)")
    parser.add_argument("--tiny", action="store_true", help="rounds of a few seconds")
    parser.add_argument("--self-test", action="store_true", help="lose one image and double one: both must be found")
    args = parser.parse_args()
    if args.self_test:
        args.rounds = 1
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(10**6)
    return args


def _abilities(folder: Path) -> Abilities:
    """What this machine gives; what it does not is said, and left out."""
    no_disk = can_mount(folder / "disk")
    library = faketime_library(folder)
    (folder / "probe").unlink(missing_ok=True)
    for missing in (no_disk and f"no full disks: {no_disk}", isinstance(library, str) and f"no clock steps: {library}"):
        if missing:
            print(missing, flush=True)
    return Abilities(disk=no_disk is None, faketime=None if isinstance(library, str) else library)


def _leave(*_: object) -> NoReturn:
    """End as Ctrl-C does, so that every process is ended and every disk unmounted."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
