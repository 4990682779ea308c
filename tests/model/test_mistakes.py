"""The test of the test: each classic mistake, put in, makes the model fail within what CI can afford."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from mistakes import MISTAKES
from test_promise_model import Promise

MOST_EXAMPLES = 1000
# The one that is hardest to find took some 300.

SEED = 5
# Any will do; with this one most are found soon.


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    budget = settings(
        max_examples=MOST_EXAMPLES,
        stateful_step_count=40,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # the first violation is enough: nobody reads a small example of a known mistake
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with MISTAKES[mistake](), pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(seed(SEED)(Promise), settings=budget)
