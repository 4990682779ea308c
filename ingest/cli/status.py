"""The `status` command: how the packs of a journal stand, its last runs, and whether one is going on.

Takes no lock and asks the API nothing.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import typer  # noqa: TC002 - typer reads the annotations at run time

from ingest.cli import configuration, options, output, standing, values
from ingest.cli.origins import told
from ingest.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.journal.records import RunRecord
    from ingest.policy.lifecycle import State

__all__ = ["status"]

RUNS_SHOWN: Final = 5

NO_PACK: Final = "(rows that are no jobs)"


def status(
    ctx: typer.Context,
    *,
    journal: options.Journal = None,
    json: options.JsonLines = None,
    config: options.Config = None,
) -> None:
    """Show how the packs stand, the last runs, and whether one is going on."""
    from ingest.journal.tending import SqliteReader  # noqa: PLC0415 - loaded when a command runs

    origins = told(ctx)
    path = configuration.journal_path(origins)
    with SqliteReader.open(path, None) as reader:
        packs, runs, oldest = reader.packs(), reader.runs(RUNS_SHOWN), reader.oldest_pending()
        refused = sum(1 for _ in reader.refusals(None))
    going_on = next((run for run in runs if _is_going_on(run)), None)
    counts: dict[str | None, dict[str, int]] = {
        pack.pack_id: _counts(pack.states, is_at_rest=going_on is None) for pack in packs
    }
    if refused:  # what is no job is for no pack
        counts[None] = {**_counts({}, is_at_rest=True), "rejected": refused}
    if origins.one("json", values.truth, False):
        output.json_line(
            {
                "kind": "journal",
                "journal": str(path),
                "running": None if going_on is None else {"run_id": going_on.run_id, "pid": going_on.pid},
                "oldest_pending": oldest,
            }
        )
        for pack_id, by_state in counts.items():
            output.json_line({"kind": "pack", "pack_id": pack_id, **by_state})
        for run in runs:
            output.json_line(_run_line(run))
        return
    output.line(f"Journal {path}")
    if going_on is None:
        output.line("No run is going on.")
    else:
        output.line(f"Run {going_on.run_id} is going on: pid {going_on.pid} since {output.when(going_on.started_at)}.")
    if oldest is not None:
        output.line(f"The oldest pending image is from {output.when(oldest)}; `ingest run` continues.")
    if going_on is None and runs and _ended_early(runs[0]):
        output.line("The last run ended early, and may not have seen all of its sources: run the same command again.")
    output.line()
    names = ("added", "duplicate", "rejected", "failed", "pending", "parked")
    output.table(
        ("PACK", *(name.upper() for name in names)),
        [(pack_id or NO_PACK, *(by_state[name] for name in names)) for pack_id, by_state in counts.items()],
    )
    output.line()
    output.table(("RUN", "STARTED", "ENDED", "EXIT", "ADDED", "PENDING"), [_run_row(run) for run in runs])


def _counts(states: Mapping[State, int], *, is_at_rest: bool) -> dict[str, int]:
    """Jobs by outcome; `pending` are all without one, `parked` those of them that wait for a lookup.

    In a journal `is_at_rest` that is also what was stored: its add may have been sent when the last run ended.
    """
    counts = dict.fromkeys((*Outcome, "pending", "parked"), 0)
    for state, count in states.items():
        counts[standing.outcome(state)] += count
        if state.value == "parked" or (state.value == "stored" and is_at_rest):
            counts["parked"] += count
    return {str(name): count for name, count in counts.items()}


def _ended_early(run: RunRecord) -> bool:
    """Whether it was stopped, refused or killed: of a long source it had then looked at a part."""
    return run.summary is None or run.summary.exit_code not in {0, 1}


def _is_going_on(run: RunRecord) -> bool:
    """Whether the run has not ended and its process is there. A run that was killed has no end either."""
    if run.ended_at is not None:
        return False
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _run_line(run: RunRecord) -> dict[str, Any]:
    return {
        "kind": "run",
        "run_id": run.run_id,
        "pid": run.pid,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "summary": None if run.summary is None else asdict(run.summary),
    }


def _run_row(run: RunRecord) -> tuple[object, ...]:
    started = output.when(run.started_at)
    if run.summary is None or run.ended_at is None:
        return (run.run_id, started, "going on" if _is_going_on(run) else "killed", "", "", "")
    summary = run.summary
    return (run.run_id, started, output.when(run.ended_at), summary.exit_code, summary.added, summary.pending)
