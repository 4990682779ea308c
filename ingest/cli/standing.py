"""Where a run stands, in words for a person: a few lines made of one snapshot.

Pure: no clock, no terminal. `progress` decides where they are shown, and when.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ingest.model import Lane
from ingest.observe.status import Phase
from ingest.policy.lifecycle import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingest.model import Summary
    from ingest.observe.status import LaneStatus, Snapshot
    from ingest.policy.lifecycle import State

__all__ = ["Trouble", "amount", "done", "draining", "ignored", "limits", "outcome", "span", "summary_lines", "troubles"]

OFFLINE_AFTER_S: Final = 3.0
# A single request that failed is no outage yet.


def done(snapshot: Snapshot) -> int:
    """Jobs that have an outcome."""
    return sum(snapshot.outcomes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing that a run waits for: `event` is its constant name, `text` what a person is told."""

    event: str
    text: str


def troubles(snapshot: Snapshot, *, now: float) -> list[Trouble]:
    """What the run waits for; empty while all is well. `now` is Unix seconds."""
    if snapshot.phase is Phase.ENDED:
        return []
    found = [trouble for lane, status in snapshot.lanes.items() if (trouble := _of_lane(lane, status, now))]
    if waiting := snapshot.parked + snapshot.audits:
        adds = "1 add" if waiting == 1 else f"{waiting} adds"
        due_s = snapshot.next_check_in_s
        text = f"checking {adds} again in {span(due_s)}" if 0 < due_s < math.inf else f"checking {adds}"
        found.append(Trouble(event="adds.parked", text=text))
    return found


def _of_lane(lane: Lane, status: LaneStatus, now: float) -> Trouble | None:
    if status.refusal is not None:
        return Trouble(
            event=f"{lane}.refused",
            text=f"The API refuses this key ({status.refusal}); {_awaited(status.refusal)}; nothing is lost",
        )
    since = status.silent_since
    if since is not None and (status.next_probe_in_s > 0 or now - since >= OFFLINE_AFTER_S):
        place = "Offline" if lane is Lane.API else "Storage offline"
        is_timed = 0 < status.next_probe_in_s < math.inf
        next_try = f"next try in {span(status.next_probe_in_s)}" if is_timed else "trying again"
        at = f"{datetime.fromtimestamp(since).astimezone():%H:%M}"
        return Trouble(event=f"{lane}.silenced", text=f"{place} since {at}; {next_try}; nothing is lost")
    if status.paused_for_s > 0:
        place = "The API" if lane is Lane.API else "The storage"
        text = f"{place} takes no more for the moment; going on in {span(status.paused_for_s)}"
        return Trouble(event=f"{lane}.paused", text=text)
    return None


def _awaited(refusal: str) -> str:
    # 402 and 403 speak of the plan behind the key (API.md, Endpoints).
    return "waiting for another plan" if refusal.startswith(("402", "403")) else "waiting for a new one"


def draining(in_hand: int, timeout_s: float) -> str:
    """What the first signal starts."""
    what = {0: "what is in hand", 1: "1 upload"}.get(in_hand, f"{in_hand} uploads")
    return f"Finishing {what} ({span(timeout_s)}). Ctrl-C again stops now; both are safe"


def limits(snapshot: Snapshot) -> str:
    """The limits in force on the API's lane."""
    status = snapshot.lanes[Lane.API]
    rate = "" if math.isinf(status.rate) else f", {status.rate:.3g}/s"
    return f"{status.in_flight} of {status.concurrency} requests at once{rate}"


def outcome(state: State) -> str:
    """The outcome of a job in `state`; `pending` while it has none."""
    return state.value if state in OUTCOMES else "pending"


def summary_lines(summary: Summary) -> list[str]:
    """What a run did."""
    skipped = f"{summary.duplicate} duplicates"
    if summary.unchanged:
        skipped += f" ({summary.unchanged} unchanged)"
    parts = [f"{summary.added} added", skipped, f"{summary.rejected} rejected", f"{summary.failed} failed"]
    if summary.pending:
        parts.append(f"{summary.pending} pending")
    requests = "1 request" if summary.requests == 1 else f"{summary.requests} requests"
    traffic = f"{amount(summary.bytes_uploaded)} in {span(summary.duration_s)}; {requests}"
    notes = [
        f"{count} {what}" for count, what in ((summary.retries, "retried"), (summary.throttled, "throttled")) if count
    ]
    images = "1 image" if summary.discovered == 1 else f"{summary.discovered} images"
    return [
        f"{images}: {', '.join(parts)}",
        f"{traffic} ({', '.join(notes)})" if notes else traffic,
    ]


def ignored(by_ending: Mapping[str, int]) -> str | None:
    """Files that were passed over: `ignored 41: 38 .mov, 3 .txt`."""
    if not by_ending:
        return None
    most_first = sorted(by_ending.items(), key=lambda item: (-item[1], item[0]))
    told = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in most_first)
    return f"ignored {sum(by_ending.values())}: {told}"


def span(seconds: float) -> str:
    """A duration in words: `0.4 s`, `30 s`, `12 min`, `3 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds % 1 >= 0.05 else f"{seconds:.0f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def amount(size_bytes: float) -> str:
    """A size in words: `512 B`, `20.1 MB`."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.5:
            return f"{size_bytes:.3g} {unit}"
    return f"{size_bytes / 1000:.3g} TB"
