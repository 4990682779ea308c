"""The best constant there is: what a client gets that knows a limit from the start and never has to learn it.

For limits under which nobody gets everything: requests whose ways vary meet a bucket without burst too closely, and
whoever may do 16 at once at the server can't know from afar when one of them has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.flow.figures import figures
from tests.benchmarks.flow.rivals import Constant
from tests.benchmarks.flow.scenarios import BUSY_S, PLACES

if TYPE_CHECKING:
    from tests.benchmarks.flow.scenarios import Scenario

TOLERATED = 0.01
SHARES = tuple(share / 100 for share in (*range(4, 40, 4), *range(40, 102, 2)))
DURATION_S = 80.0


def oracle(scenario: Scenario) -> tuple[float, float]:
    """Goodput and refused share of the best constant pace or concurrency that is refused no more than tolerated."""
    best = (0.0, 0.0)
    server = scenario.run(lambda _: Constant(limit=0), duration_s=1.0).server
    rate = server.allowed(0.0, 1.0) / scenario.workers
    constants = [{"rate": share * rate} for share in SHARES]
    if scenario.model.name.endswith("at once"):
        most = int(2 * PLACES * (1.0 + scenario.round_trip_s / BUSY_S))
        constants = [{"limit": limit} for limit in range(1, most // scenario.workers + 1)]
    for constant in constants:
        found = figures(scenario.run(lambda _, constant=constant: Constant(**constant), duration_s=DURATION_S))
        if found.refused <= TOLERATED and found.goodput > best[0]:
            best = (found.goodput, found.refused)
    return best
