"""The `verify` command: what journal and packs disagree about, told, and mended where that is asked for.

Compares and mends nothing itself: `operations` does, put together by `assemble`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingest.cli import configuration, options, output, standing, values
from ingest.cli.origins import told
from ingest.model import PackId
from ingest.observe.text import without_secrets

if TYPE_CHECKING:
    from ingest.operations.differences import Difference
    from ingest.operations.verify import Report
    from ingest.settings import Settings

__all__ = ["verify"]


def verify(
    ctx: typer.Context,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is found; takes two settle delays.")] = False,
    pack: Annotated[str | None, typer.Option("--pack", metavar="ID", help="Only this pack, by its id.")] = None,
    timeout: options.Timeout = None,
    settle_delay: options.SettleDelay = None,
    journal: options.Journal = None,
    json: options.JsonLines = None,
    config: options.Config = None,
) -> int:
    """Compare the journal with its packs: missing, doubled and stray images.

    Missing: added, and not there. Doubled: there more than once. Stray: there, though not added by the journal's word.
    --repair adds again what is missing, learns of strays, and deletes copies as far as this journal's own adds account
    for them: nothing else is ever deleted.
    """
    from ingest.cli import looping  # noqa: PLC0415 - loads the network and the pipeline

    origins = told(ctx)
    settings = configuration.run_settings(origins)
    is_json = origins.one("json", values.truth, False)
    only = None if pack is None else PackId(pack)
    report = looping.run(looping.until_signalled(_report(settings, only, is_repairing=repair)))
    if is_json:
        _print_json(report)
    else:
        _print(report, is_repairing=repair)
    if report.error is not None:
        output.message(report.error.message, report.error.hint)
    return report.exit_code


async def _report(settings: Settings, only: PackId | None, *, is_repairing: bool) -> Report:
    from ingest.assemble import verification  # noqa: PLC0415 - loads the network and the pipeline

    def begin(count: int) -> None:
        delay = standing.span(settings.flow.settle_delay_s)
        what = {0: "what earlier runs left open", 1: "1 difference"}.get(count, f"{count} differences")
        output.message(f"Mending {what}: each look, and each check after an add, waits {delay}.")

    async with verification(settings) as comparison:
        return await (comparison.repair(only, on_begin=begin) if is_repairing else comparison.compare(only))


def _print_json(report: Report) -> None:
    for difference in report.differences:
        output.json_line(_line(difference))
    output.json_line(
        {
            "kind": "summary",
            "checked": report.checked,
            "packs": report.packs,
            **_counts(report),
            "mended": len(report.differences) - report.left,
        }
    )


def _line(difference: Difference) -> dict[str, Any]:
    record = difference.record
    return {
        "kind": "difference",
        "what": difference.what.value,
        "pack_id": record.pack_id,
        "url": record.add_url and without_secrets(record.add_url),
        "image": without_secrets(record.locator),
        "job_id": record.job_id,
        "copies": difference.copies,
        "is_mended": difference.is_mended,
    }


def _counts(report: Report) -> dict[str, int]:
    from ingest.operations.differences import What  # noqa: PLC0415 - loaded when a command runs

    return {what.value: report.count(what) for what in What}


def _print(report: Report, *, is_repairing: bool) -> None:
    shown = [difference for difference in report.differences if difference.record.pack_id not in report.gone]
    if shown:
        output.table(
            ("WHAT", "PACK", "COPIES", "MENDED", "IMAGE") if is_repairing else ("WHAT", "PACK", "COPIES", "IMAGE"),
            [_row(difference, is_repairing=is_repairing) for difference in shown],
        )
    for pack_id in sorted(report.gone):
        count = sum(difference.record.pack_id == pack_id for difference in report.differences)
        output.line(f"Pack {pack_id} is gone, or this key may not see it: {_images(count)} of it missing.")
    counts = ", ".join(f"{count} {what}" for what, count in _counts(report).items())
    packs = "1 pack" if report.packs == 1 else f"{report.packs} packs"
    output.line(f"Checked {_images(report.checked)} in {packs}: {counts}.")
    if is_repairing and report.differences:
        output.line(f"Mended {len(report.differences) - report.left} of {len(report.differences)}.")
    for hint in _hints(report, is_repairing=is_repairing):
        output.line(hint)


def _row(difference: Difference, *, is_repairing: bool) -> tuple[object, ...]:
    record = difference.record
    mended = ("yes" if difference.is_mended else "no",) if is_repairing else ()
    return (difference.what.value, record.pack_id, difference.copies, *mended, without_secrets(record.locator))


def _hints(report: Report, *, is_repairing: bool) -> list[str]:
    """What to do about what is left."""
    from ingest.operations.differences import What  # noqa: PLC0415 - loaded when a command runs

    left = {
        difference.what
        for difference in report.differences
        if not difference.is_mended and difference.record.pack_id not in report.gone
    }
    hints = []
    if left and not is_repairing:
        hints.append("`ingest verify --repair` mends what this journal's own adds account for.")
    if left and is_repairing and What.DOUBLED in left:
        hints.append("A copy that this journal's adds don't account for stays: see `ingest packs delete-image`.")
    if left - {What.DOUBLED} and is_repairing:
        hints.append("See `ingest failures` for what could not be added, or repair again.")
    if report.gone:
        hints.append("What was in a pack that is gone has to be added to another one; no repair brings a pack back.")
    return hints


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
