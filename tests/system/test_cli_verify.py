"""`ingest verify`: what it finds in packs that were changed behind the journal's back, and what `--repair` does there.

Judged by the server's ledger: what is missing comes back once, and nothing is deleted that the journal did not add.
"""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import CommandLine, Finished, Served

SETTLE = ("--settle-delay", "0.2s")
RUN = ("--pack", "P", "--create-pack", *SETTLE)
REPAIR = ("verify", "--repair", "--json", *SETTLE)


def call(sandbox: Served, method: str, path: str, body: Any = None) -> None:
    """Somebody else uses the API."""
    request = urllib.request.Request(
        f"{sandbox.base_url}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {sandbox.key}", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()


def take_out(sandbox: Served, *numbers: int, name: str = "P") -> None:
    """Somebody deletes these images of a pack."""
    pack = sandbox.pack(name)
    for image in [pack["images"][number] for number in numbers]:
        call(sandbox, "DELETE", f"packs/{pack['id']}/images/{image['id']}")


def copy(sandbox: Served, url: str, name: str = "P") -> None:
    """Somebody adds a url of ours again."""
    call(sandbox, "POST", f"packs/{sandbox.pack(name)['id']}/images", {"image_url": url})


def wait_for_images(sandbox: Served, count: int) -> None:
    """Until the pack holds so many; the test's own timeout bounds it."""
    while len(sandbox.urls("P")) < count:
        time.sleep(0.01)


def summary(done: Finished) -> dict[str, int]:
    """The last line, which is the only one of its kind."""
    *others, last = done.lines
    assert last.pop("kind") == "summary", done
    assert {line["kind"] for line in others} <= {"difference"}
    return last


def found(done: Finished) -> list[tuple[str, int, bool]]:
    """What each difference is, with its copies, and whether it is mended."""
    return [(line["what"], line["copies"], line["is_mended"]) for line in done.lines[:-1]]


def holds_each_once(sandbox: Served, count: int) -> None:
    held = Counter(image["sha256"] for image in sandbox.pack("P")["images"])
    assert len(held) == count
    assert set(held.values()) == {1}


@pytest.fixture
def filled(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> Path:
    """Three pictures that are in the pack."""
    folder = pictures(3)
    assert ingest("run", folder, *RUN).code == 0
    return folder


def test_nothing_differs(ingest: CommandLine, sandbox: Served, filled: Path) -> None:
    before = sandbox.ledger()["requests"]

    told = ingest("verify", *SETTLE)
    assert told.code == 0, told
    assert told.out == "Checked 3 images in 1 pack: 0 missing, 0 doubled, 0 stray.\n"
    done = ingest(*REPAIR)
    assert done.code == 0, done
    counts = {"checked": 3, "packs": 1, "missing": 0, "doubled": 0, "stray": 0, "mended": 0}
    assert done.json == {"kind": "summary", **counts}

    after = sandbox.ledger()["requests"]
    assert after.pop("get_pack")["200"] == before.pop("get_pack", {}).get("200", 0) + 2
    assert after == before
    assert len(ingest("status", "--json").lines) == 3  # the journal, its pack, and the one run


def test_what_somebody_deleted_comes_back_once(ingest: CommandLine, sandbox: Served, filled: Path) -> None:
    take_out(sandbox, 0, 2)
    gone = set(sandbox.ledger()["adds"]) - set(sandbox.urls("P"))

    told = ingest("verify", *SETTLE)
    assert told.code == 1, told
    assert told.out.splitlines()[0].split() == ["WHAT", "PACK", "COPIES", "IMAGE"]
    assert "Checked 3 images in 1 pack: 2 missing, 0 doubled, 0 stray." in told.out
    assert "ingest verify --repair" in told.out
    listed = ingest("verify", "--json", *SETTLE)
    assert listed.code == 1, listed
    assert {line["url"] for line in listed.lines[:-1]} == gone
    difference = listed.lines[0]
    assert list(difference) == ["kind", "what", "pack_id", "url", "image", "job_id", "copies", "is_mended"]
    assert difference["pack_id"] == sandbox.pack("P")["id"]
    assert difference["image"] in {str(file) for file in filled.iterdir()}
    assert len(sandbox.urls("P")) == 1  # nothing is done without --repair

    done = ingest(*REPAIR)
    assert done.code == 0, done
    assert found(done) == [("missing", 0, True)] * 2
    assert summary(done)["mended"] == 2
    assert set(sandbox.urls("P")) >= gone
    holds_each_once(sandbox, 3)
    again = ingest(*REPAIR)
    assert (again.code, found(again)) == (0, []), again
    assert ingest("run", filled, *RUN, "--json").json["unchanged"] == 3


def test_a_copy_that_somebody_made_is_told_and_left(ingest: CommandLine, sandbox: Served, filled: Path) -> None:
    copy(sandbox, sandbox.urls("P")[1])

    done = ingest(*REPAIR)
    assert done.code == 1, done
    assert found(done) == [("doubled", 2, False)]
    assert len(sandbox.urls("P")) == 4
    assert "delete_image" not in sandbox.ledger()["requests"]
    told = ingest("verify", "--repair", *SETTLE)
    assert told.code == 1, told
    assert "Mended 0 of 1." in told.out
    assert "ingest packs delete-image" in told.out


def test_a_copy_of_our_own_is_deleted_and_no_other_after_it(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    """An add whose effect came after its audit: two adds account for two images, and for no third one."""
    sandbox.fail({"operation": "add_image", "kind": "cut_before", "times": 1})
    assert ingest("run", pictures(2), *RUN).code == 0
    holds_each_once(sandbox, 2)
    (sent_twice,) = (url for url, adds in sandbox.ledger()["adds"].items() if adds["received"] == 2)
    copy(sandbox, sent_twice)  # as the first add would, if it took effect so late
    copy(sandbox, sent_twice)

    done = ingest(*REPAIR)
    assert (done.code, found(done)) == (1, [("doubled", 2, False)]), done
    again = ingest(*REPAIR)
    assert (again.code, found(again)) == (1, [("doubled", 2, False)]), again
    assert sandbox.ledger()["effects"]["delete_image"] == 1

    take_out(sandbox, *(number for number, url in enumerate(sandbox.urls("P")) if url == sent_twice))
    back = ingest(*REPAIR)
    assert (back.code, found(back)) == (0, [("missing", 0, True)]), back
    holds_each_once(sandbox, 2)


def test_strays_become_added(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    """One that was refused and one that failed, whose adds took effect all the same."""
    sandbox.fail(
        {"operation": "add_image", "kind": "error", "status": 422, "effect": True, "times": 1},
        {"operation": "add_image", "kind": "error", "status": 500, "after": 1, "times": 1},
    )
    done = ingest("run", pictures(3), *RUN, "--max-attempts", "1", "--concurrency", "1", "--json")
    assert (done.code, done.json["rejected"], done.json["failed"], done.json["added"]) == (1, 1, 1, 1), done
    (failed,) = sandbox.ledger()["adds"].keys() - set(sandbox.urls("P"))
    copy(sandbox, failed)  # as its add would, if it took effect so late

    told = ingest("verify", "--json", *SETTLE)
    assert (told.code, found(told)) == (1, [("stray", 1, False)] * 2), told
    mended = ingest(*REPAIR)
    assert (mended.code, found(mended)) == (0, [("stray", 1, True)] * 2), mended
    holds_each_once(sandbox, 3)
    assert ingest("failures", "--json").lines == []


def test_what_a_killed_run_left(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    """An add that took effect is a stray; one that may still be on its way is no difference, but is looked up."""
    sandbox.fail(
        {"operation": "add_image", "kind": "slow", "delay_s": 30, "times": 1},
        {"operation": "add_image", "kind": "hang", "times": 1},
    )
    with ingest.start("run", pictures(2), *RUN) as run:
        while sandbox.ledger()["faults"].get("add_image", {}) != {"slow": 1, "hang": 1}:
            time.sleep(0.01)
        run.signal(signal.SIGKILL)
        run.finish()

    told = ingest("verify", "--json", *SETTLE)
    assert (told.code, found(told), summary(told)["checked"]) == (1, [("stray", 1, False)], 2), told
    done = ingest(*REPAIR)
    assert (done.code, found(done)) == (0, [("stray", 1, True)]), done
    holds_each_once(sandbox, 2)


def test_a_repair_that_is_killed_is_finished_by_the_next(ingest: CommandLine, sandbox: Served, filled: Path) -> None:
    take_out(sandbox, 0, 1, 2)
    sandbox.fail({"operation": "add_image", "kind": "slow", "delay_s": 30, "after": 1})
    for has_begun in (
        lambda repair: repair.wait_for_line("Mending 3 differences"),
        lambda _: wait_for_images(sandbox, 3),
    ):
        with ingest.start(*REPAIR) as repair:
            has_begun(repair)
            repair.signal(signal.SIGKILL)
            assert repair.finish().code == -signal.SIGKILL
    sandbox.fail()

    done = ingest(*REPAIR)

    assert done.code == 0, done
    assert all(is_mended for _, _, is_mended in found(done))
    holds_each_once(sandbox, 3)
    last = ingest("verify", "--json", *SETTLE)
    assert (last.code, found(last)) == (0, []), last


def test_a_pack_that_is_gone_is_told_in_a_line_and_others_are_mended(
    ingest: CommandLine, sandbox: Served, filled: Path, pictures: Callable[..., Path]
) -> None:
    assert ingest("run", pictures(2, "others"), "--pack", "Q", "--create-pack", *SETTLE).code == 0
    gone = sandbox.pack("P")["id"]
    call(sandbox, "DELETE", f"packs/{gone}")
    take_out(sandbox, 0, name="Q")

    told = ingest("verify", *SETTLE)
    assert told.code == 1, told
    (line,) = [line for line in told.out.splitlines() if gone in line]
    assert "3 images" in line
    done = ingest(*REPAIR)
    assert done.code == 1, done
    assert found(done) == [("missing", 0, True), *[("missing", 0, False)] * 3]
    assert len(sandbox.urls("Q")) == 2
    assert [pack["name"] for pack in sandbox.ledger()["packs"]] == ["Q"]
    only = ingest(*REPAIR, "--pack", sandbox.pack("Q")["id"])
    assert (only.code, summary(only)["packs"], summary(only)["checked"]) == (0, 1, 2), only


def test_keys_that_do_not_see_the_packs(ingest: CommandLine, sandbox: Served, filled: Path) -> None:
    take_out(sandbox, 0)
    sandbox.change_key(key="third.of-another", workspace_id="99999999-9999-4999-8999-999999999999")
    for command in (["verify", *SETTLE], ["verify", "--repair", *SETTLE]):
        other = ingest(*command, env={"GENVIRAL_API_KEY": "third.of-another"})
        assert other.code == 3, other
        assert "another workspace" in other.err
        assert other.out == ""
    sandbox.change_key(key=sandbox.key, revoked=True)
    revoked = ingest("verify", "--json", *SETTLE)
    assert revoked.code == 3, revoked
    assert "GENVIRAL_API_KEY" in revoked.err
    assert len(sandbox.urls("P")) == 2


def test_a_key_that_is_revoked_during_the_repair(ingest: CommandLine, sandbox: Served, filled: Path) -> None:
    take_out(sandbox, 0)
    with ingest.start(*REPAIR) as repair:
        repair.wait_for_line("Mending 1 difference")
        sandbox.change_key(key=sandbox.key, revoked=True)
        done = repair.finish()
    assert (done.code, found(done)) == (3, [("missing", 0, False)]), done
    assert "GENVIRAL_API_KEY" in done.err

    sandbox.change_key(key=sandbox.key, revoked=False)
    again = ingest(*REPAIR)
    assert again.code == 0, again
    holds_each_once(sandbox, 3)


def test_no_answer_is_exit_75_and_says_nothing_of_the_packs(ingest: CommandLine, sandbox: Served, filled: Path) -> None:
    sandbox.fail({"operation": "*", "kind": "cut_before"})
    done = ingest("verify", "--json", *SETTLE)
    assert (done.code, done.out) == (75, ""), done
    assert "Run the same command again" in done.err


def test_beside_a_run(ingest: CommandLine, sandbox: Served, filled: Path, pictures: Callable[..., Path]) -> None:
    sandbox.fail({"operation": "add_image", "kind": "hang", "effect": True})
    with ingest.start("run", pictures(1, "more"), *RUN) as run:
        wait_for_images(sandbox, 4)
        for command in (["verify"], ["verify", "--repair"]):
            done = ingest(*command)
            assert done.code == 75, done
            assert f"Journal in use by pid {run.process.pid}" in done.err


def test_what_can_not_be_compared(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    nowhere = ingest("verify")
    assert nowhere.code == 2, nowhere
    assert "There is no journal at" in nowhere.err
    assert not list(ingest.home.rglob("*.db"))
    assert ingest("run", pictures(1), *RUN).code == 0
    by_name = ingest("verify", "--pack", "P")
    assert by_name.code == 2, by_name
    assert "ingest status" in by_name.err
    elsewhere = ingest("verify", "--json", env={"GENVIRAL_BASE_URL": f"{sandbox.url}/other"})
    assert (elsewhere.code, summary(elsewhere)["packs"]) == (0, 0), elsewhere
