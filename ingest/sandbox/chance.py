"""Decides which request meets which fault of the plan.

Throws seeded dice and counts; sends, delays and closes nothing.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ingest.sandbox.faults import Delay, Fault, FaultPlan, Operation

__all__ = ["Chance"]


class Chance:
    """The dice and counters of one plan; a replaced plan begins anew."""

    def __init__(self, plan: FaultPlan) -> None:
        self._rules = plan.rules
        self.has_rules = bool(plan.rules)
        self._random = random.Random(plan.seed)  # noqa: S311 - faults repeat, they keep no secret
        self._seen = [0] * len(plan.rules)
        self._struck = [0] * len(plan.rules)

    def draw(self, operation: Operation, subject: str) -> Fault | None:
        """The fault that this request meets, None for none; `subject` is the text that `match` is looked for in."""
        for number, rule in enumerate(self._rules):
            if rule.operation not in ("*", operation):
                continue
            if rule.match is not None and rule.match not in subject:
                continue
            self._seen[number] += 1
            if self._seen[number] <= rule.after:
                continue
            if rule.times is not None and self._struck[number] >= rule.times:
                continue
            if self._random.random() >= rule.probability:
                continue
            self._struck[number] += 1
            return rule
        return None

    def seconds(self, delay: Delay) -> float:
        """One time out of a delay."""
        if isinstance(delay, tuple):
            return self._random.uniform(*delay)
        return delay
