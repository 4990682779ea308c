"""What must be true at the end of a round: the sandbox's ledger against the trees, and against the journal.

Reads, and changes nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.soak.processes import reveals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tests.soak.figures import Figures
    from tests.soak.server import Remote
    from tests.soak.trees import Tree

__all__ = ["compare"]


def compare(remote: Remote, trees: Sequence[Tree], journal: Path, figures: Figures) -> None:
    """Every image of every tree is in its pack once, nothing else is, and the journal says the same."""
    ledger = remote.ledger()
    for tree in trees:
        _compare_pack(tree, [pack for pack in ledger["packs"] if pack["name"] == tree.pack], figures)
    if ledger["storage_authorizations"]:
        figures.problem("leaks", "an upload carried the API key to the storage")
    _compare_journal(ledger, journal, figures)
    for path in journal.parent.glob(f"{journal.name}*"):
        if reveals(path):
            figures.problem("leaks", f"a secret in {path}")


def _compare_pack(tree: Tree, packs: list[dict[str, Any]], figures: Figures) -> None:
    if len(packs) != 1:
        figures.problem("astray", f"there are {len(packs)} packs named {tree.pack!r}")
    held = Counter(image["sha256"] for pack in packs for image in pack["images"])
    lost = tree.wanted() - set(held)
    foreign = set(held) - tree.ever
    doubled = sum(number - 1 for number in held.values())
    if lost:
        figures.problem("lost", f"{tree.pack} lacks {_few(lost)}", len(lost))
    if doubled:
        several = [digest for digest, number in held.items() if number > 1]
        figures.problem("doubled", f"{tree.pack} has more than once {_few(several)}", doubled)
    if foreign:
        figures.problem("foreign", f"{tree.pack} has {_few(foreign)}", len(foreign))


def _compare_journal(ledger: dict[str, Any], journal: Path, figures: Figures) -> None:
    """Each image in the packs is one `added` job's; and no job and no audit is left open."""
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        added = connection.execute("SELECT pack_id, url, answered_url FROM jobs WHERE state = 'added'").fetchall()
        states = Counter(state for (state,) in connection.execute("SELECT state FROM jobs"))
        (audits,) = connection.execute("SELECT count(*) FROM jobs WHERE audit_is_open").fetchone()
    figures.count("jobs", "", states.total())
    said = Counter((pack_id, answered or url) for pack_id, url, answered in added)
    held = Counter((pack["id"], image["url"]) for pack in ledger["packs"] for image in pack["images"])
    if said != held:
        figures.problem(
            "astray", f"`added` and not in a pack {_few(said - held)}; in it and not `added` {_few(held - said)}"
        )
    unsettled = states.total() - sum(states[name] for name in ("added", "duplicate", "rejected", "failed"))
    if unsettled or audits:
        figures.problem("astray", f"{unsettled} jobs have no outcome and {audits} audits are open: {dict(states)}")


def _few(items: Iterable[object]) -> str:
    """Some of them, and how many there are; of a digest its beginning, of a url its end."""
    shown = sorted(item[:12] if isinstance(item, str) else f"…{str(item)[-48:]}" for item in items)
    return f"{', '.join(shown[:3])}{' …' if len(shown) > 3 else ''} ({len(shown)})"
