"""What is no job: refused, counted and acknowledged once that is durable, and listed until it is mended."""

from __future__ import annotations

import json

import pytest
from pipeline_model import ListSource, Tracked, named, pictures

from ingest.model import Job, Operation
from ingest.policy.lifecycle import State
from ingest.settings import RunSettings
from ingest.sources.base import NoJob
from ingest.sources.manifest import ManifestSource

LIST = Operation.LIST_PACKS


def no_job(place: str, reason: str = "bad_row") -> Tracked:
    return Tracked(job=NoJob(place=place, reason=reason, detail="it is not JSON"), place=place)


class Listed(ListSource):
    """Tells again what it told; `retold` says of which places."""

    origin = "/lists/a.csv"

    def retells(self, place: str) -> bool:
        return True


class Once(Listed):
    """As a queue does."""

    def retells(self, place: str) -> bool:
        return False


def refusals(system) -> list[tuple[str, str, str]]:
    return sorted((found.source, found.place, found.reason) for found in system.journal._refusals.values())


async def test_it_is_rejected_and_the_rest_goes_on(system, model, tmp_path):
    good = named(*pictures(tmp_path, 5))
    bad = [no_job("2"), no_job("4", "no_image")]
    source = Listed([good[0], bad[0], *good[1:], bad[1]])
    summary = await system.run(source)
    assert (summary.discovered, summary.added, summary.rejected, summary.exit_code) == (7, 5, 2, 1)
    assert [delivery.told for delivery in bad] == [["rejected"], ["rejected"]]
    assert refusals(system) == [("/lists/a.csv", "2", "bad_row"), ("/lists/a.csv", "4", "no_image")]
    assert len(system.journal.records()) == 5


async def test_nothing_is_sent_for_it_and_a_list_of_nothing_else_is_no_empty_one(system, model):
    summary = await system.run(Listed([no_job(str(number)) for number in range(600)]))
    assert (summary.discovered, summary.rejected, summary.exit_code) == (600, 600, 1)
    assert set(model.log) <= {LIST, Operation.GET_PACK}
    assert system.journal.records() == []


async def test_a_mended_row_is_listed_no_more(system):
    await system.run(Listed([no_job("1"), no_job("2")]))
    await system.run(Listed([no_job("2"), no_job("3")]))
    assert [place for _, place, _ in refusals(system)] == ["2", "3"]


async def test_a_message_that_comes_once_stays_listed(system):
    await system.run(Once([no_job("1")]))
    await system.run(Once([no_job("2")]))
    assert [place for _, place, _ in refusals(system)] == ["1", "2"]


async def test_a_pass_that_was_not_complete_mends_nothing(system, tmp_path):
    await system.run(Listed([no_job("1")]))
    good = named(*pictures(tmp_path, 9))
    await system.run(Listed(good, batch_size=2), run=RunSettings(limit=3))
    assert [place for _, place, _ in refusals(system)] == ["1"]
    source = Listed(good)
    source.report.unreadable_count = 1
    await system.run(source)
    assert [place for _, place, _ in refusals(system)] == ["1"]
    await system.run(Listed(good))
    assert refusals(system) == []


async def test_a_source_without_an_origin_goes_by_its_kind(system):
    await system.run(ListSource([no_job("1")]))
    assert [source for source, _, _ in refusals(system)] == [ListSource.name]


async def test_the_limit_of_rejected_ones_counts_news_alone(system, tmp_path):
    bad = [str(number) for number in range(4)]
    good = named(*pictures(tmp_path, 3))
    first = await system.run(Listed([*map(no_job, bad), *good], batch_size=1), run=RunSettings(max_rejected=3))
    assert (first.rejected, first.error.code, first.added) == (3, "max_rejected", 0)
    again = await system.run(Listed([*map(no_job, bad), *good], batch_size=1), run=RunSettings(max_rejected=3))
    assert (again.rejected, again.added, again.error) == (4, 3, None)


async def test_a_row_with_an_unusable_pack_is_refused_and_asked_about_once(system, model, tmp_path):
    model.add_pack("Twice")
    model.add_pack("Twice")
    first, *rest = pictures(tmp_path, 4)
    rows = [{"image": str(first)}]
    rows += [{"image": str(path), "pack": "No body's"} for path in rest] * 50
    rows += [{"image": str(rest[0]), "pack": "Twice"}, {"image": str(rest[1]), "pack": "x" * 120}]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    summary = await system.run(ManifestSource(str(path)), run=RunSettings(pack="Motivation"))
    assert (summary.added, summary.rejected, summary.exit_code) == (1, 152, 1), summary
    reasons = [reason for _, _, reason in refusals(system)]
    assert (reasons.count("unknown_pack"), reasons.count("ambiguous_pack")) == (151, 1)
    assert model.count(LIST) < 12


async def test_rows_may_name_their_packs_and_need_not_be_alike(system, model, tmp_path):
    other = model.add_pack("Other")
    one, two, three = pictures(tmp_path, 3)
    rows = [{"image": str(one)}, {"image": str(two), "pack": "Other"}, {"image": str(three), "pack": other.pack_id}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert (await system.run(ManifestSource(str(tmp_path / "list.jsonl")))).added == 3
    assert (len(model.packs["pack-1"].images), len(other.images)) == (1, 2)


async def test_the_runs_own_pack_is_the_commands_mistake(system, tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\n")
    summary = await system.run(ManifestSource(str(tmp_path / "list.txt")), run=RunSettings(pack="Nobody's"))
    assert (summary.exit_code, summary.error.code, summary.discovered) == (2, "unknown_pack", 0)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["{image}"], (2, 0, 0)),
        (["{image}", '{image}, "pack": "P"'], (2, 0, 0)),
        (['{image}, "pack": "P"', "{image}"], (1, 1, 1)),
    ],
)
async def test_a_row_without_any_pack(system, model, tmp_path, lines, found):
    """Where no row had one yet, `--pack` was forgotten; else that row is refused."""
    images = [f'"image": "{path}"' for path in pictures(tmp_path, len(lines))]
    rows = ["{" + line.replace("{image}", image) + "}" for line, image in zip(lines, images, strict=True)]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    model.add_pack("P")
    async with system.assembled() as pipeline:
        pipeline._feed._settings = RunSettings()  # the run's own is found all the same
        summary = await pipeline.run([ManifestSource(str(tmp_path / "list.jsonl"))])
    assert (summary.exit_code, summary.added, summary.rejected) == found
    if summary.exit_code == 2:
        assert summary.error.code == "no_pack"


async def test_a_job_without_a_place_ends_the_run_as_ever(system, model, tmp_path):
    (path,) = pictures(tmp_path, 1)
    source = ListSource([Tracked(job=Job(image=str(path), pack="Nobody's"))])
    summary = await system.run(source)
    assert (summary.exit_code, summary.error.code) == (2, "unknown_pack")
    assert source.deliveries[0].told == ["released"]


async def test_a_second_run_of_a_manifest_opens_nothing(system, tmp_path, monkeypatch):
    paths = pictures(tmp_path, 20)
    (tmp_path / "list.csv").write_text("image,id\n" + "".join(f"{path},{path.name}\n" for path in paths))
    assert (await system.run(ManifestSource(str(tmp_path / "list.csv")))).added == 20
    monkeypatch.setattr("ingest.pipeline.deliver.inspect", None)
    summary = await system.run(ManifestSource(str(tmp_path / "list.csv")))
    assert (summary.duplicate, summary.unchanged, summary.exit_code) == (20, 20, 0)


async def test_what_a_row_names_is_judged_by_inspection(system, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no image")
    (tmp_path / "list.txt").write_text("folder\ntext\nnowhere\n")
    summary = await system.run(ManifestSource(str(tmp_path / "list.txt")))
    assert (summary.rejected, summary.failed) == (2, 1)
    found = {record.file_name: (record.state, record.reason) for record in system.journal.records()}
    assert found == {
        "folder": (State.REJECTED, "not_a_file"),
        "text": (State.REJECTED, "not_an_image"),
        "nowhere": (State.FAILED, "missing"),
    }
