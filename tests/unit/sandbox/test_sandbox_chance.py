"""Which request meets which fault, and which one a limit refuses: decisions, without a server."""

from __future__ import annotations

import pytest

from ingest.sandbox import (
    Concurrency,
    CutAfter,
    CutBefore,
    ErrorAnswer,
    FaultPlan,
    FixedWindow,
    Late,
    SandboxFileError,
    Slow,
    TokenBucket,
    load_faults,
)
from ingest.sandbox.chance import Chance
from ingest.sandbox.limits import Limits


def struck(plan: FaultPlan, requests: int, *, operation="add_image", subject="") -> list[str | None]:
    chance = Chance(plan)
    faults = [chance.draw(operation, subject) for _ in range(requests)]
    return [None if fault is None else type(fault).__name__ for fault in faults]


def test_a_rule_strikes_its_own_operation_only():
    plan = FaultPlan(rules=(CutAfter(operation="add_image"),))
    assert struck(plan, 2) == ["CutAfter", "CutAfter"]
    assert struck(plan, 1, operation="put") == [None]


def test_a_star_strikes_every_operation():
    assert struck(FaultPlan(rules=(CutAfter(operation="*"),)), 1, operation="cdn") == ["CutAfter"]


def test_after_and_times_count_matching_requests():
    plan = FaultPlan(rules=(CutAfter(operation="add_image", after=2, times=1),))
    assert struck(plan, 5) == [None, None, "CutAfter", None, None]


def test_the_first_rule_that_strikes_wins():
    plan = FaultPlan(rules=(CutAfter(operation="add_image", times=1), CutBefore(operation="*")))
    assert struck(plan, 2) == ["CutAfter", "CutBefore"]


def test_match_looks_into_the_request():
    plan = FaultPlan(rules=(CutAfter(operation="*", match="a.jpg"),))
    assert struck(plan, 1, subject="POST /packs/1/images\n{...a.jpg...}") == ["CutAfter"]
    assert struck(plan, 1, subject="POST /packs/1/images\n{...b.jpg...}") == [None]


def test_the_same_seed_gives_the_same_faults():
    plan = FaultPlan(seed=7, rules=(CutAfter(operation="*", probability=0.5),))
    first = struck(plan, 200)
    assert first == struck(plan, 200)
    assert 60 < first.count("CutAfter") < 140
    assert first != struck(FaultPlan(seed=8, rules=plan.rules), 200)


def test_a_delay_is_fixed_or_drawn():
    chance = Chance(FaultPlan())
    assert chance.seconds(1.5) == 1.5
    assert all(1 <= chance.seconds((1, 2)) <= 2 for _ in range(50))


def test_a_token_bucket_fills_with_time():
    limits = Limits(FaultPlan(limits=(TokenBucket(lane="api", rate=2, burst=3),)))
    allowed = [limits.enter("api", "a", now)[0][1].is_allowed for now in (0, 0, 0, 0, 0.4, 0.5, 0.5)]
    assert allowed == [True, True, True, False, False, True, False]
    assert limits.enter("api", "a", 0.5)[0][1].reset_s == pytest.approx(0.5)


def test_a_fixed_window_forgets_at_its_end():
    limits = Limits(FaultPlan(limits=(FixedWindow(lane="api", requests=2, window_s=10),)))
    verdicts = [limits.enter("api", "a", now)[0][1] for now in (5, 6, 14, 15)]
    assert [verdict.is_allowed for verdict in verdicts] == [True, True, False, True]
    assert verdicts[2].reset_s == pytest.approx(1)
    assert [verdict.remaining for verdict in verdicts] == [1, 0, 0, 1]


def test_requests_at_once_are_counted_in_and_out():
    limits = Limits(FaultPlan(limits=(Concurrency(lane="storage", n=1),)))
    assert limits.enter("storage", "", 0)[0][1].is_allowed
    assert not limits.enter("storage", "", 0)[0][1].is_allowed
    limits.leave("storage", "")
    assert limits.enter("storage", "", 0)[0][1].is_allowed


def test_limits_count_each_holder_and_lane_apart():
    limits = Limits(FaultPlan(limits=(FixedWindow(lane="api", requests=1, window_s=10),)))
    assert limits.enter("api", "a", 0)[0][1].is_allowed
    assert limits.enter("api", "b", 0)[0][1].is_allowed
    assert not limits.enter("api", "a", 0)[0][1].is_allowed
    assert limits.enter("storage", "", 0) == []


def test_a_request_refused_by_one_limit_holds_no_other():
    plan = FaultPlan(limits=(Concurrency(lane="api", n=1), FixedWindow(lane="api", requests=1, window_s=10)))
    limits = Limits(plan)
    limits.enter("api", "a", 0)
    limits.leave("api", "a")
    assert [verdict.is_allowed for _, verdict in limits.enter("api", "a", 1)] == [True, False]
    assert [verdict.is_allowed for _, verdict in limits.enter("api", "a", 11)] == [True, True]


PLAN = """
seed = 3

[[rule]]
operation = "add_image"
kind = "error"
status = 503
retry_after = 2
probability = 0.1

[[rule]]
operation = "put"
kind = "slow"
delay_s = [0.1, 0.5]

[[rule]]
operation = "add_image"
kind = "late"
delay_s = 1
match = "a.jpg"

[[limit]]
lane = "api"
kind = "token_bucket"
rate = 10
burst = 20
retry_after = false
"""


def test_a_plan_comes_from_a_file(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text(PLAN)
    assert load_faults(path) == FaultPlan(
        seed=3,
        rules=(
            ErrorAnswer(operation="add_image", status=503, retry_after=2, probability=0.1),
            Slow(operation="put", delay_s=(0.1, 0.5)),
            Late(operation="add_image", delay_s=1, match="a.jpg"),
        ),
        limits=(TokenBucket(lane="api", rate=10, burst=20, retry_after=False),),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[rule]]\noperation = "add_imag"\nkind = "hang"', r"'add_imag' - at `\$.rule\[0\].operation`"),
        ('[[rule]]\noperation = "*"\nkind = "explode"', r"'explode' - at `\$.rule\[0\].kind`"),
        ('[[rule]]\noperation = "*"\nkind = "hang"\nprobability = 2', r"<= 1.0 - at `\$.rule\[0\].probability`"),
        ('[[rule]]\noperation = "*"\nkind = "slow"', r"`delay_s` - at `\$.rule\[0\]`"),
        ('[[rule]]\noperation = "*"\nkind = "slow"\ndelay_s = [2, 1]', r"delay_s .* smaller one first"),
        ('[[rule]]\noperation = "*"\nkind = "hang"\nevery = 2', r"unknown field `every`"),
        ('[[limit]]\nlane = "api"\nkind = "token_bucket"\nrate = 0\nburst = 1', r"> 0.0 - at `\$.limit\[0\].rate`"),
        ("[[rule]", r"faults.toml: "),
    ],
)
def test_a_wrong_plan_names_file_place_and_what_is_expected(tmp_path, text, says):
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(SandboxFileError, match=says) as caught:
        load_faults(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "cut_after" in message
    assert message.count("\n") <= 1


def test_a_missing_plan_is_named(tmp_path):
    with pytest.raises(SandboxFileError, match=r"absent.toml: No such file"):
        load_faults(tmp_path / "absent.toml")
