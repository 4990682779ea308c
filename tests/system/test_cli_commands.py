"""The commands beside `run`: packs, files, subscription, and what is done to a journal."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import CommandLine, Served

URL = "https://cdn.example.com/one.jpg"


def test_the_seven_pack_endpoints(ingest: CommandLine, sandbox: Served) -> None:
    made = ingest("packs", "create", "Gym", "--json")
    assert made.code == 0, made
    pack_id = made.json["id"]
    assert made.json["is_public"] is False

    renamed = ingest("packs", "update", pack_id, "--name", "Gym 2", "--public", "--json")
    assert (renamed.json["name"], renamed.json["is_public"]) == ("Gym 2", True)

    added = ingest("packs", "add-image", pack_id, URL, "--file-name", "one.jpg", "--json")
    assert added.json["file_name"] == "one.jpg"

    got = ingest("packs", "get", pack_id, "--json")
    assert [image["url"] for image in got.json["images"]] == [URL]
    assert URL in ingest("packs", "get", pack_id).out

    (listed,) = ingest("packs", "list", "--json").lines
    assert (listed["id"], listed["name"], listed["image_count"]) == (pack_id, "Gym 2", 1)
    table = ingest("packs", "list", "--search", "gym")
    assert table.out.splitlines()[0].split() == ["ID", "NAME", "IMAGES", "PUBLIC", "CREATED"]
    assert pack_id in table.out

    unknown = ingest("packs", "delete-image", pack_id, "no-such-image", "--yes")
    assert unknown.code == 2
    assert "ingest packs get PACK" in unknown.err
    assert ingest("packs", "delete-image", pack_id, added.json["id"], "--yes").code == 0
    assert sandbox.urls("Gym 2") == []
    assert ingest("packs", "delete", pack_id, "--yes", "--json").json == {"id": pack_id, "deleted": True}
    assert sandbox.ledger()["packs"] == []


def test_packs_list_reads_every_page(ingest: CommandLine, sandbox: Served) -> None:
    for number in range(130):  # asked directly: 130 processes would take a minute
        request = urllib.request.Request(
            f"{sandbox.base_url}/packs",
            data=json.dumps({"name": f"Pack {number:03}"}).encode(),
            headers={"Authorization": f"Bearer {sandbox.key}", "Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    assert len(ingest("packs", "list", "--json").lines) == 130
    assert len(ingest("packs", "list", "--json", "--limit", "101").lines) == 101


def test_what_the_api_rejects_is_exit_2(ingest: CommandLine) -> None:
    for command in (
        ["packs", "get", "22222222-2222-2222-2222-222222222222"],
        ["packs", "delete", "22222222-2222-2222-2222-222222222222", "--yes"],
        ["packs", "create", "x" * 121],
    ):
        done = ingest(*command)
        assert done.code == 2, done
        assert "Traceback" not in done.err
        assert "404" in done.err or "422" in done.err


def test_nothing_is_deleted_where_nobody_can_be_asked(ingest: CommandLine, sandbox: Served) -> None:
    pack_id = ingest("packs", "create", "Gym", "--json").json["id"]

    done = ingest("packs", "delete", pack_id)

    assert done.code == 2, done
    assert "--yes" in done.err
    assert len(sandbox.ledger()["packs"]) == 1


def test_files(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    folder = pictures(2)

    sent = ingest("files", "upload", folder / "000.jpg", folder / "001.png", "--json")
    assert sent.code == 0, sent
    assert [line["contentType"] for line in sent.lines] == ["image/jpeg", "image/png"]
    listed = ingest("files", "list", "--json")
    assert {line["url"] for line in listed.lines} == {line["url"] for line in sent.lines}
    assert "001.png" in ingest("files", "list").out

    (folder / "bad.jpg").write_text("no image")
    refused = ingest("files", "upload", folder / "bad.jpg")
    assert refused.code == 2, refused
    assert "Traceback" not in refused.err


def test_subscription(ingest: CommandLine) -> None:
    told = ingest("subscription", "--json")
    assert told.code == 0, told
    assert told.json["scope"] == "workspace"
    assert told.json["subscription"]["status"] == "active"
    assert "workspace" in ingest("subscription").out


def test_status_failures_retry_and_forget(ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]) -> None:
    folder = pictures(3)
    (folder / "bad.jpg").write_bytes(b"no image")
    assert ingest("run", folder, "--pack", "P", "--create-pack").code == 1
    pack_id = sandbox.pack("P")["id"]

    first, pack, run = ingest("status", "--json").lines
    assert first["running"] is None
    assert first["oldest_pending"] is None
    assert (pack["pack_id"], pack["added"], pack["rejected"], pack["pending"]) == (pack_id, 3, 1, 0)
    assert run["summary"]["exit_code"] == 1
    told = ingest("status")
    assert pack_id in told.out
    assert "No run is going on." in told.out

    (failure,) = ingest("failures", "--json", "--outcome", "rejected", "--pack", pack_id).lines
    assert failure["image"] == str(folder / "bad.jpg")
    assert failure["outcome"] == "rejected"
    assert failure["reason"]
    assert str(folder / "bad.jpg") in ingest("failures").out
    assert ingest("failures", "--json", "--reason", "other").lines == []
    assert ingest("failures", "--json", "--outcome", "failed").lines == []

    by_name = ingest("failures", "--pack", "P")
    assert by_name.code == 2, by_name
    assert "ingest status" in by_name.err

    assert ingest("retry", "--json").json == {"retried": 0}
    assert ingest("retry", "--outcome", "rejected", "--json").json == {"retried": 1}
    (pending,) = ingest("failures", "--json").lines
    assert (pending["outcome"], pending["parked"]) == ("pending", False)
    assert ingest("status", "--json").lines[0]["oldest_pending"] is not None

    refused = ingest("forget")
    assert refused.code == 2, refused
    assert "--yes" in refused.err
    assert ingest("forget", "--yes", "--json").json == {"forgotten": 1, "kept": 0}
    assert ingest("failures").out.startswith("There is nothing of that kind")


def test_forget_keeps_what_may_have_been_sent(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    assert ingest("packs", "create", "P").code == 0
    sandbox.fail({"operation": "add_image", "kind": "cut_after"}, {"operation": "get_pack", "kind": "error"})
    run = ("run", pictures(2), "--pack", "P", "--settle-delay", "0.2s", "--give-up-after", "1s")
    assert ingest(*run).code == 75

    listed = ingest("failures", "--json")
    assert [line["parked"] for line in listed.lines] == [True, True]
    assert "pending (parked)" in ingest("failures").out
    done = ingest("forget", "--yes")
    assert done.code == 0, done
    assert "Forgot 0 pending images." in done.out
    assert "2 stay" in done.out

    sandbox.fail()
    assert ingest("run", "--settle-delay", "0.2s").code == 0
    assert len(sandbox.urls("P")) == 2


def test_all_of_the_journal_is_told_wherever_the_api_is(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    assert ingest("run", pictures(1), "--pack", "P", "--create-pack").code == 0
    elsewhere = {"GENVIRAL_BASE_URL": "http://elsewhere.example/api"}

    assert ingest("status", "--json", env=elsewhere).lines == ingest("status", "--json").lines


def test_a_base_url_without_its_path_is_told(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    bare = {"GENVIRAL_BASE_URL": sandbox.url}
    for command in (["packs", "list"], ["subscription"], ["run", pictures(1), "--pack", "P", "--create-pack"]):
        done = ingest(*command, env=bare)
        assert done.code == 2, done
        assert "/api/partner/v1" in done.err
        assert "Traceback" not in done.err


def test_commands_on_a_journal_that_is_not_there(ingest: CommandLine) -> None:
    for command in (["status"], ["failures"], ["retry"], ["forget", "--yes"]):
        done = ingest(*command)
        assert done.code == 2, done
        assert "There is no journal at" in done.err
    assert not list(ingest.home.rglob("*.db"))
