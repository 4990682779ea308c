"""What goes wrong on the network while one run goes on: random fault plans for the sandbox.

Everything stays inside what is promised (README, "What this does not cover"): effects land, and reads catch up, well
within `SETTLE_S`, and where one add lands later, its audit sees it; no answer that means "refused for good" is dealt to
a request that was right; and no 4xx that says "not done" comes with an effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random

__all__ = ["EVERY_REQUEST", "SETTLE_S", "TIMEOUT_S", "storm", "straggler"]

SETTLE_S: Final = 3.0
"""The `--settle-delay` of every run. A third of it is the most that effects lag: the machine may be busy."""

TIMEOUT_S: Final = 1.5

LAG_S: Final = [0.0, SETTLE_S / 3]

MENU: Final[tuple[dict[str, Any], ...]] = (
    {"operation": "*", "kind": "error", "status": 500},
    {"operation": "*", "kind": "error", "status": 500, "effect": True},
    {"operation": "*", "kind": "error", "status": 502},
    {"operation": "*", "kind": "error", "status": 503, "retry_after": 1},
    {"operation": "*", "kind": "error", "status": 504, "effect": True},
    {"operation": "*", "kind": "error", "status": 429, "retry_after": 0},
    {"operation": "*", "kind": "error", "status": 429, "retry_after": 0.4},
    {"operation": "*", "kind": "error", "status": 429, "retry_after": "soon"},
    {"operation": "*", "kind": "error", "status": 408},
    {"operation": "add_image", "kind": "error", "status": 409, "effect": True},
    {"operation": "add_image", "kind": "error", "status": 500, "effect": True},
    {"operation": "put", "kind": "error", "status": 403},
    {"operation": "put", "kind": "error", "status": 503},
    {"operation": "*", "kind": "slow", "delay_s": [0.1, 0.5]},
    {"operation": "*", "kind": "slow", "delay_s": [TIMEOUT_S * 0.8, TIMEOUT_S * 1.3]},
    {"operation": "*", "kind": "cut_before"},
    {"operation": "*", "kind": "cut_after"},
    {"operation": "add_image", "kind": "cut_after"},
    {"operation": "*", "kind": "cut_json"},
    {"operation": "add_image", "kind": "cut_json"},
    {"operation": "*", "kind": "html", "status": 502},
    {"operation": "*", "kind": "html", "status": 403},
    {"operation": "*", "kind": "html", "status": 404},
    {"operation": "*", "kind": "html", "status": 200, "effect": True},
    {"operation": "*", "kind": "hang"},
    {"operation": "*", "kind": "hang", "effect": True},
    {"operation": "add_image", "kind": "hang", "effect": True},
    {"operation": "add_image", "kind": "late", "delay_s": LAG_S},
    {"operation": "add_image", "kind": "late", "delay_s": LAG_S, "status": 500},
    {"operation": "upload_file", "kind": "late", "delay_s": LAG_S},
    {"operation": "put", "kind": "late", "delay_s": LAG_S, "status": 503},
    {"operation": "delete_image", "kind": "late", "delay_s": LAG_S, "status": 500},
    {"operation": "get_pack", "kind": "stale_read", "within_s": SETTLE_S / 3},
)

EVERY_REQUEST: Final = {"operation": "*", "kind": "slow", "delay_s": [0.0, 0.06]}
"""Without it a run is over before anything can happen to it."""


def storm(dice: random.Random) -> dict[str, Any]:
    """One plan: a few faults of the menu, at most a quarter of all requests, and sometimes a limit."""
    chosen = dice.sample(MENU, dice.randint(3, 9))
    share = dice.uniform(0.03, 0.25) / len(chosen)
    rules = [{**fault, "probability": min(0.5, round(share * _weight(fault), 4))} for fault in chosen]
    return {"seed": dice.randrange(2**32), "rule": [*rules, EVERY_REQUEST], "limit": _limits(dice)}


def straggler(dice: random.Random) -> dict[str, Any]:
    """An add that lands after the lookup that missed it, and before the audit of the second one.

    Once in a run that nobody disturbs: were the second add of that url as late, it would be later than the last read.
    """
    delay_s = [SETTLE_S * 1.1, SETTLE_S * 1.5]
    return {"operation": "add_image", "kind": "late", "delay_s": delay_s, "after": dice.randrange(2), "times": 1}


def _weight(fault: dict[str, Any]) -> float:
    """What ties a request up for long is rarer; what strikes one operation alone is dealt to that one more often."""
    if fault["kind"] == "hang" or (fault["kind"] == "slow" and fault["delay_s"][0] > 1):
        return 0.3
    # There are three requests for each image, and a read or a delete only now and then.
    return {"*": 1.0, "get_pack": 20.0, "delete_image": 20.0}.get(fault["operation"], 3.0)


def _limits(dice: random.Random) -> list[dict[str, Any]]:
    told = {"retry_after": dice.random() < 0.5, "headers": dice.random() < 0.5}
    match dice.randrange(6):
        case 0 | 1:
            return [{"lane": "api", "kind": "token_bucket", "rate": dice.randint(15, 60), "burst": 20, **told}]
        case 2:
            return [{"lane": "storage", "kind": "concurrency", "n": dice.randint(2, 4), **told}]
        case 3:
            return [{"lane": "api", "kind": "fixed_window", "requests": 60, "window_s": 2, **told}]
        case _:
            return []
