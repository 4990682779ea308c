"""What a soak counts, and the table that it ends with.

Judges nothing: a problem is counted here because somebody else found it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

__all__ = ["PROBLEMS", "Figures"]

PROBLEMS: Final = {
    "lost": "images that must be in their pack and are not",
    "doubled": "images that are in a pack more often than once",
    "foreign": "images in a pack that were never in its tree",
    "astray": "jobs, packs and sums that do not agree with each other",
    "wrong exits": "processes that ended as none may, or not at all",
    "tracebacks": "processes that wrote one",
    "leaks": "files and outputs with a secret in them",
    "broken off": "rounds that the soak itself could not bring to their end",
}
"""What must stay 0."""


@dataclass
class Figures:
    """Counts by group and name, such as ("signals", "SIGKILL"); and what was found wrong, in words."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.problems.total()

    def count(self, group: str, name: str = "", number: int = 1) -> None:
        """Something happened so often."""
        self.counts[group, name] += number

    def total(self, group: str) -> int:
        """All of a group."""
        return sum(number for (of, _), number in self.counts.items() if of == group)

    def problem(self, kind: str, text: str, number: int = 1) -> None:
        """Something is wrong; `kind` is one of `PROBLEMS`."""
        assert kind in PROBLEMS
        self.problems[kind] += number
        self.findings.append(f"{kind}: {text}")

    def add(self, other: Figures) -> None:
        """Take in the figures of one round."""
        self.counts += other.counts
        self.problems += other.problems
        self.findings += other.findings

    def table(self) -> str:
        """Every figure on a line, those that must be 0 last."""
        rows = [
            (f"{group}: {name}" if name else group, str(number))
            for (group, name), number in sorted(self.counts.items())
            if number
        ]
        rows += [(f"{kind} ({meaning})", str(self.problems[kind])) for kind, meaning in PROBLEMS.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {number:>9}" for name, number in rows)
