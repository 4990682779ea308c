"""The package as a library: the example of its docstring, and a source of one's own."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import ingest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    import pytest

    from .conftest import Served


def test_the_example_in_the_docstring(
    sandbox: Served,
    pictures: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures(3, "photos")
    monkeypatch.chdir(tmp_path)
    lines = inspect.cleandoc(ingest.__doc__ or "").splitlines()
    example = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))
    example = example.replace('key="public_id.secret"', f'key="{sandbox.key}", base_url="{sandbox.base_url}"')

    exec(compile(example, "example", "exec"), {})

    assert capsys.readouterr().out == "3 None\n"
    assert len(sandbox.urls("Holiday")) == 3


class OwnSource:
    """Three jobs under one's own ids, and what became of them."""

    name = "own"

    def __init__(self, folder: Path) -> None:
        self.report = ingest.SourceReport()
        self.outcomes: dict[str, ingest.Outcome] = {}
        self._paths = sorted(folder.iterdir())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Sequence[ingest.Delivery]]]:
        yield self._batches()

    async def _batches(self) -> AsyncIterator[Sequence[ingest.Delivery]]:
        for path in self._paths:
            yield [OwnDelivery(self, ingest.Job(image=str(path), id=f"id of {path.name}"))]


class OwnDelivery(ingest.Delivery):
    def __init__(self, source: OwnSource, job: ingest.Job) -> None:
        super().__init__(job=job)
        self._source = source

    async def acknowledge(self, outcome: ingest.Outcome, reason: str | None) -> None:
        self._source.outcomes[self.job.id or ""] = outcome


def test_any_object_that_is_a_source(sandbox: Served, pictures: Callable[..., Path]) -> None:
    source = OwnSource(pictures(3))
    settled: list[ingest.Outcome] = []
    settings = ingest.Settings(
        api=ingest.ApiSettings(key=sandbox.key, base_url=sandbox.base_url),
        run=ingest.RunSettings(pack="Own", create_pack=True),
    )

    summary = asyncio.run(
        ingest.run(settings, sources=[source], on_settled=lambda settlement: settled.append(settlement.outcome))
    )

    assert (summary.exit_code, summary.added, summary.error) == (0, 3, None)
    assert settled == [ingest.Outcome.ADDED] * 3
    assert set(source.outcomes.values()) == {ingest.Outcome.ADDED}
    assert len(sandbox.urls("Own")) == 3
