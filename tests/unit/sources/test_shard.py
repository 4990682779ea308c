"""Shards: every job in exactly one of them, by its key alone."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.sources.base import NoJob
from ingest.sources.directory import DirectorySource
from ingest.sources.manifest import ManifestSource
from ingest.sources.shard import Shard, sharded

if TYPE_CHECKING:
    from ingest.sources.base import Source


@given(st.binary(), st.integers(1, 50))
def test_a_key_is_in_exactly_one_shard(key, count):
    assert sum(Shard(index, count).has(os.fsdecode(key)) for index in range(count)) == 1


def test_it_is_the_same_one_on_every_machine_and_in_every_version():
    found = [next(index for index in range(4) if Shard(index, 4).has(key)) for key in ("/a/1.jpg", "id:7", "\udcff")]
    assert found == [2, 3, 1]


def test_they_share_evenly():
    shares = Counter(next(i for i in range(8) if Shard(i, 8).has(f"/photos/{n}.jpg")) for n in range(8000))
    assert all(900 < share < 1100 for share in shares.values())


@pytest.mark.parametrize(("index", "count"), [(1, 1), (4, 4), (-1, 4), (0, 0), (0, -1)])
def test_there_is_no_such_shard(index, count):
    with pytest.raises(ValueError, match="no shard"):
        Shard(index, count)


async def told(source: Source) -> list[str]:
    async with source.open() as batches:
        deliveries = [delivery async for batch in batches for delivery in batch]
    return [f"no {d.place}" if isinstance(d.job, NoJob) else f"{d.job.image} {d.job.id}" for d in deliveries]


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_together_they_are_the_whole_manifest(tmp_path, count):
    path = tmp_path / "list.jsonl"
    rows = [json.dumps({"image": f"{n}.jpg", "id": f"i{n}" if n % 9 == 0 else None}) for n in range(300)]
    rows[5::7] = ["nothing"] * len(rows[5::7])
    path.write_text("\n".join(rows))
    whole = await told(ManifestSource(str(path)))
    parts = [sharded(ManifestSource(str(path)), Shard(index, count)) for index in range(count)]
    found = [await told(part) for part in parts]
    assert sorted([*chain(*found)]) == sorted(whole)
    assert all(len(part) > 20 for part in found)
    for part, own in zip(parts, found, strict=True):
        assert part.report.elsewhere == len(whole) - len(own)
        mine = {place.removeprefix("no ") for place in own if place.startswith("no ")}
        assert {str(n) for n in range(1, 301) if part.retells(str(n))} >= mine
    assert all(sum(part.retells(str(n)) for part in parts) == 1 for n in range(1, 301))


async def test_together_they_are_the_whole_directory_skimmed_or_not(tmp_path):
    for number in range(200):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    (tmp_path / "doubtful").write_bytes(b"x")

    def part(index: int) -> Source:
        return sharded(DirectorySource(str(tmp_path), sniff=lambda _: True), Shard(index, 3))

    opened = [await told(part(index)) for index in range(3)]
    assert len([*chain(*opened)]) == len(set(chain(*opened))) == 201
    skimmed, asked = [], []

    async def every_second(stretches, _occasion):
        asked.extend(name for stretch in stretches for name in stretch.stamps)
        return [set(list(stretch.stamps)[::2]) for stretch in stretches]

    for index in range(3):
        source = part(index)
        async with source.skim(every_second) as batches:
            skimmed += [delivery.job.image async for batch in batches for delivery in batch]
        assert source.report.elsewhere == 201 - len(opened[index])
        assert await source.count() == 67
    assert len(asked) == len(set(asked)) == 201  # and nobody is asked about another shard's
    assert len(skimmed) == len(set(skimmed)) < 201
    assert {f"{image} None" for image in skimmed} < set(chain(*opened))


async def test_jobs_of_one_id_are_in_one_shard(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("image,id\n" + "".join(f"{n}.jpg,same\n" for n in range(10)))
    with_jobs = [
        index
        for index in range(4)
        if any(not line.startswith("no ") for line in await told(sharded(ManifestSource(str(path)), Shard(index, 4))))
    ]
    assert len(with_jobs) == 1
