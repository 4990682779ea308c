"""Fixtures that every test may use."""

import pytest
from hypothesis import settings

# Machines are shared and slow at times: how long an example takes is no verdict.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
