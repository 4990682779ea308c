"""Pictures that people made, into a sandbox and back byte for byte. Run by `.ci/real-pictures`, which fetches them."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import CommandLine, Served

PICTURES = os.environ.get("REAL_PICTURES", "")


@pytest.mark.skipif(not PICTURES, reason="run .ci/real-pictures: it fetches them")
@pytest.mark.timeout(300)
def test_real_pictures_go_in_and_come_back(ingest: CommandLine, sandbox: Served) -> None:
    done = ingest("run", PICTURES, "--pack", "Backgrounds", "--create-pack", "--json")

    told = done.json
    assert told["discovered"] == told["added"] + told["duplicate"] + told["rejected"]
    assert told["added"] > 0
    local = {
        hashlib.sha256(path.read_bytes()).hexdigest(): path for path in Path(PICTURES).rglob("*") if path.is_file()
    }
    taken = 0
    for url in sandbox.urls("Backgrounds"):
        with urllib.request.urlopen(url) as answer:
            content = answer.read()
        assert hashlib.sha256(content).hexdigest() in local
        taken += len(content)
    refused = ingest("failures", "--json").lines
    print(f"\nadded {told['added']}, duplicate {told['duplicate']}, rejected {told['rejected']}, bytes {taken}")
    for line in refused:
        print(f"  {line['reason']}: {Path(line['image']).name}")
    assert len(refused) == told["rejected"]
    assert all(line["reason"] for line in refused)
    assert {Path(line["image"]).suffix for line in refused} <= {".svg"}
    assert done.code == (1 if refused else 0)
