"""Rate-limit headers, in every way that servers say them, and none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.api.quota import quota_of
from ingest.policy.quota import Quota

NOW = 1_770_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"RateLimit": '"default";r=50;t=30'}, Quota(remaining=50, reset_s=30.0)),
        ({"RateLimit": '"burst";r=9;t=1, "daily";r=4;t=3600'}, Quota(remaining=4, reset_s=3600.0)),
        ({"RateLimit": "limit=100, remaining=50, reset=30"}, Quota(remaining=50, reset_s=30.0, limit=100)),
        ({"RateLimit": "remaining=50"}, None),
        ({"RateLimit": '"default";r=50'}, None),
        (
            {"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "7", "RateLimit-Reset": "12"},
            Quota(remaining=7, reset_s=12.0, limit=100),
        ),
        (
            {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"},
            Quota(remaining=0, reset_s=30.0, limit=60),
        ),
        ({"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "0.5"}, Quota(remaining=3, reset_s=0.5)),
        ({"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1770000045"}, Quota(remaining=3, reset_s=45.0)),
        ({"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1770000045000"}, Quota(remaining=3, reset_s=45.0)),
        ({"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1769999000"}, Quota(remaining=3, reset_s=0.0)),
        ({"X-RateLimit-Remaining": "3"}, None),
        ({"X-RateLimit-Remaining": "plenty", "X-RateLimit-Reset": "30"}, None),
        ({"X-RateLimit-Remaining": "-1", "X-RateLimit-Reset": "30"}, None),
    ],
)
def test_what_is_left(headers: dict[str, str], expected: Quota | None) -> None:
    assert quota_of(headers, NOW) == expected


@given(
    st.dictionaries(
        st.sampled_from(
            ["RateLimit", *(f"{x}RateLimit-{what}" for x in ("", "X-") for what in ("Limit", "Remaining", "Reset"))]
        ),
        st.text(max_size=40) | st.from_regex(r"[0-9;,=rt \"]{1,40}"),
    )
)
def test_no_header_breaks_it(headers: dict[str, str]) -> None:
    found = quota_of(headers, NOW)
    assert found is None or (found.remaining >= 0 and found.reset_s >= 0.0)
