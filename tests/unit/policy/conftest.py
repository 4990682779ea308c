"""The simulation that `test_policy_flow` runs a part of is a program of its own, under `tests/benchmarks`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))
