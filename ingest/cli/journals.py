"""`failures`, `retry` and `forget`: what is not added and why, and changing that by hand.

Asks the API nothing, so packs are named by id. Whatever `GENVIRAL_BASE_URL` says, all of the journal is meant.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ingest.cli import configuration, options, output, standing, values
from ingest.cli.origins import told
from ingest.errors import UsageError
from ingest.model import PackId
from ingest.observe.text import without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingest.journal.base import JournalReader
    from ingest.journal.records import Record, Refusal

__all__ = ["failures", "forget", "retry"]

PackOption: TypeAlias = Annotated[str | None, typer.Option("--pack", metavar="ID", help="Only this pack's, by its id.")]
Reason: TypeAlias = Annotated[
    str | None, typer.Option("--reason", metavar="REASON", help="Only these: see `ingest failures`.")
]


def failures(
    ctx: typer.Context,
    *,
    pack: PackOption = None,
    reason: Reason = None,
    outcome: Annotated[
        list[str] | None,
        typer.Option("--outcome", metavar="rejected|failed|pending", help="Only these; repeatable."),
    ] = None,
    journal: options.Journal = None,
    json: options.JsonLines = None,
    config: options.Config = None,
) -> None:
    """List what is not added, and why: rejected and failed images, rows that name none, and what is pending."""
    from ingest.journal.records import Selection  # noqa: PLC0415 - loaded when a command runs
    from ingest.journal.tending import SqliteReader  # noqa: PLC0415
    from ingest.policy.lifecycle import State  # noqa: PLC0415

    origins = told(ctx)
    choices = ("rejected", "failed", "pending")
    wanted = {_choice("--outcome", word, *choices) for word in outcome or choices}
    states = frozenset(state for state in State if standing.outcome(state) in wanted)
    is_json = origins.one("json", values.truth, False)
    with SqliteReader.open(configuration.journal_path(origins), None) as reader:
        selection = Selection(states=states, reason=reason, pack_id=_known_pack(reader, pack))
        records: Iterator[dict[str, Any]] = map(_failure, reader.records(selection))
        if pack is None and "rejected" in wanted:  # what is no job is for no pack
            records = itertools.chain(records, map(_refused, reader.refusals(reason)))
        if is_json:
            for record in records:
                output.json_line(record)
            return
        rows = [
            (
                "pending (parked)" if found["parked"] else found["outcome"],
                found["reason"],
                found["attempts"],
                found["image"] or f"{found['source']}:{found['place']}",
                found["pack_id"] or "",
                found["detail"],
            )
            for found in records
        ]
    if rows:
        output.table(("OUTCOME", "REASON", "ATTEMPTS", "IMAGE", "PACK", "DETAIL"), rows)
    else:
        output.line("There is nothing of that kind in this journal.")


def retry(
    ctx: typer.Context,
    *,
    outcome: Annotated[
        str | None,
        typer.Option("--outcome", metavar="failed|rejected", show_default="failed", help="Which outcome to take back."),
    ] = None,
    reason: Reason = None,
    pack: PackOption = None,
    journal: options.Journal = None,
    json: options.JsonLines = None,
    config: options.Config = None,
) -> None:
    """Make failed (or rejected) images pending again, with all their attempts; the next run takes them."""
    from ingest.journal.records import Selection  # noqa: PLC0415 - loaded when a command runs
    from ingest.journal.tending import SqliteEditor, SqliteReader  # noqa: PLC0415
    from ingest.policy.lifecycle import State  # noqa: PLC0415

    origins = told(ctx)
    path = configuration.journal_path(origins)
    state = State(_choice("--outcome", outcome or "failed", "failed", "rejected"))
    with SqliteReader.open(path, None) as reader:
        selection = Selection(states=frozenset({state}), reason=reason, pack_id=_known_pack(reader, pack))
    with SqliteEditor.open(path, None) as editor:
        count = editor.retry(selection)
    if origins.one("json", values.truth, False):
        output.json_line({"retried": count})
    elif count:
        output.line(f"{_images(count)} pending again; `ingest run` continues with them.")
    else:
        output.line(f"There is nothing {state.value} of that kind.")


def forget(
    ctx: typer.Context,
    *,
    pack: PackOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    journal: options.Journal = None,
    json: options.JsonLines = None,
    config: options.Config = None,
) -> None:
    """Drop pending images from the journal; those whose add may have been sent stay until a run has looked."""
    from ingest.journal.records import Selection  # noqa: PLC0415 - loaded when a command runs
    from ingest.journal.tending import SqliteEditor, SqliteReader  # noqa: PLC0415

    origins = told(ctx)
    path = configuration.journal_path(origins)
    with SqliteReader.open(path, None) as reader:
        selection = Selection(pack_id=_known_pack(reader, pack))
    output.confirm("Forget the pending images of this journal?", is_confirmed=yes)
    with SqliteEditor.open(path, None) as editor:
        gone, kept = editor.forget(selection)
    if origins.one("json", values.truth, False):
        output.json_line({"forgotten": gone, "kept": kept})
        return
    output.line(f"Forgot {gone} pending images.")
    if kept:
        output.line(f"{kept} stay, because an add of theirs may have been sent: `ingest run` looks, and settles them.")


def _known_pack(reader: JournalReader, pack: str | None) -> PackId | None:
    """The pack's id; `UsageError` for one that the journal doesn't know: names are the API's, and it isn't asked."""
    if pack is None:
        return None
    known = {found.pack_id for found in reader.packs()}
    if pack not in known:
        raise UsageError(
            f"The journal has no pack with the id {pack!r}.",
            code="unknown_pack",
            hint="Packs are named by id here, not by name: `ingest status` lists them.",
        )
    return PackId(pack)


def _choice(option: str, word: str, *choices: str) -> str:
    try:
        return values.one_of(*choices)(word)
    except ValueError as error:
        raise UsageError(f"{option}: {word!r} can't be used; expected is {error}.", code="bad_value") from error


def _failure(record: Record) -> dict[str, Any]:
    return {
        "image": without_secrets(record.locator),
        "source": None,
        "place": None,
        "pack_id": record.pack_id,
        "outcome": standing.outcome(record.state),
        "parked": record.state.value in {"parked", "stored"},  # what was stored is looked up by the next run
        "reason": record.reason,
        "detail": record.detail,
        "attempts": record.attempts,
        "admitted_at": record.admitted_at,
        "refused_at": None,
        "run_id": record.run_id,
    }


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {
        "image": None,
        "source": refusal.source,
        "place": refusal.place,
        "pack_id": None,
        "outcome": "rejected",
        "parked": False,
        "reason": refusal.reason,
        "detail": refusal.detail,
        "attempts": 0,
        "admitted_at": None,
        "refused_at": refusal.refused_at,
        "run_id": refusal.run_id,
    }


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count} images are"
