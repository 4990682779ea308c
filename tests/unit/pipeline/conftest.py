"""A model server with one pack, and the recorders of a run."""

from __future__ import annotations

import pytest
from pipeline_model import Model, System

from ingest.observe.metrics import Metrics


@pytest.fixture
def model() -> Model:
    model = Model()
    model.add_pack()
    return model


@pytest.fixture
def system(model: Model) -> System:
    return System(model)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture(autouse=True)
def _short_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of a lane that fails come soon after one another."""
    monkeypatch.setattr("ingest.policy.breaker.PROBE_BASE_S", 0.01)
    monkeypatch.setattr("ingest.policy.breaker.PROBE_CAP_S", 0.02)
