"""A few rows of the flow benchmark: the policies together, against whole servers. Time is virtual."""

from __future__ import annotations

import pytest

from tests.benchmarks.flow.figures import figures
from tests.benchmarks.flow.lanes import Adaptive
from tests.benchmarks.flow.scenarios import SCENARIOS

# Each kind of limit once or twice; the whole table is `python -m tests.benchmarks.flow`.
NAMES = (
    "bucket 10        -          20 ms 1",
    "bucket 10        -         300 ms 1",
    "bucket 10        headers   300 ms 1",
    "bucket 100       headers    20 ms 8",
    "fixed 60/min     -         300 ms 1",
    "fixed 600/min    headers    20 ms 1",
    "sliding 600/min  -          20 ms 1",
    "16 at once       -          20 ms 1",
    "latency knee     -         300 ms 1",
    "moving bucket    -         300 ms 1",
)
ROWS = {scenario.name: scenario for scenario in SCENARIOS}
AT_ONCE = 0.95
# Of one that knows the limit.


@pytest.mark.parametrize("name", NAMES)
def test_the_limit_is_used_and_seldom_passed(name: str) -> None:
    scenario = ROWS[name]
    found = figures(scenario.run(Adaptive))
    assert found.goodput >= (scenario.goodput or AT_ONCE)
    assert found.refused <= 0.01
    assert found.cold_goodput >= 0.9
