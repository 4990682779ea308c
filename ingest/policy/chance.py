"""Whether refusals tell of a limit, or come by chance, at any pace.

Knows no pauses and no clock, and sets no pace. A limit that is passed refuses more the further it is passed, and
nothing at a pace below; chance refuses the same share of the requests at any pace. So there are two questions:

- **Are refusals denser than chance?** While chance is assumed with a share q, a cumulative sum (Page, "Continuous
  inspection schemes", Biometrika 41, 1954) goes up by one with each refusal and down by `DENSER * q` with each request
  that is accepted, never below zero. At `FEW` it is no chance, and a limit is searched for. What comes thinner is
  excused. Before anything is known q is `TOLERATED`: a lone refusal does not cap a lane that starts cold, and a limit,
  which such a lane passes by far, shows itself in the same burst or the next.
- **Does a lower pace help?** Once a limit is searched for, each onset lowers the pace. Where that has come down to
  `FALLEN` of what it was, and what was accepted a second with it (`LESS`), while the later half of the onsets came no
  further apart than `APART` times the earlier half, and no more than `MOST` of the requests were refused, it was
  lowered in vain: that share is q, measured, and the pace is given back. A limit gives the same a second however far
  it is passed; one that has become lower is passed by far at first, and refuses more; and close to it refusals become
  rare.

What was measured holds until refusals come denser, or none in `FORGOTTEN / q` requests; then every refusal counts
again. So a wrong guess, as among others who share a limit, costs at most `DENSER` times what was seen before.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

__all__ = ["Chance"]

TOLERATED: Final = 0.01
DENSER: Final = 2.0
# A limit that an unbounded lane passes by less than a fiftieth stays unnoticed; rarely does one lie so close.

FEW: Final = 3.5
# Four refusals close together. At one in a hundred by chance, that happens once in some 7000 requests.

FEW_KNOWN: Final = 7.0
# Less hasty, for a measured share is wrong by a third, and it is dear to begin anew.

FALLEN: Final = 0.4
LESS: Final = 0.6
RUN: Final = 8
# So far and so often: of eight who share a limit, one that gives way to the others sees refusals that don't get rarer.
# At 0.6 and four onsets, such rows of the benchmark were refused 12 % instead of 2.

APART: Final = 2.0
MOST: Final = 0.1
# A limit that is passed by a ninth refuses a tenth.

FORGOTTEN: Final = 10.0
# Chance is silent for so long once in e^10 times; half of that where the share is thought to be twice what it is.


class Stretch(NamedTuple):
    """What came from one reopening to the next."""

    accepted: int
    refused: int
    span_s: float


class Chance:
    """What is assumed of one lane's refusals."""

    def __init__(self) -> None:
        self._share: float | None = TOLERATED
        self._is_known = False  # the share was measured
        self._excess = 0.0
        self._silent = 0  # requests accepted since the last refusal
        self._accepted = 0  # since the last onset that was taken seriously
        self._refused = 0  # the same
        self._top = 0.0  # the pace from which it falls
        self._run: list[Stretch] = []
        self._since = 0.0

    def accepted(self) -> None:
        """A request was not refused."""
        self._accepted += 1
        if self._share is None:
            return
        self._excess = max(0.0, self._excess - DENSER * self._share)
        self._silent += 1
        if self._is_known and self._silent * self._share > FORGOTTEN:
            self._share = None

    def refused(self) -> bool:
        """A request was refused; whether it is to be taken seriously."""
        self._refused += 1
        self._silent = 0
        if self._share is None:
            return True
        self._excess += 1.0
        return self._excess >= (FEW_KNOWN if self._is_known else FEW)

    def learned(self, now: float, pace: float, *, is_limit: bool) -> float | None:
        """The lane goes on after an onset that was taken seriously, and came at that pace; the one to go back to.

        `now` may leave pauses out. `is_limit`: the lane was seen shut for a while, or the server told of its limit.
        """
        stretch = Stretch(self._accepted, self._refused, now - self._since)
        self._since = now
        self._accepted = self._refused = 0
        self._excess = 0.0
        self._share = None
        if is_limit or pace >= self._top:
            self._top = pace
            self._run = []
            return None
        self._run.append(stretch)
        if len(self._run) < RUN or pace > FALLEN * self._top:
            return None
        half = len(self._run) // 2
        first, last, run = _sum(self._run[:half]), _sum(self._run[-half:]), _sum(self._run)
        requests = run.accepted + run.refused
        is_chance = (
            run.refused <= MOST * requests
            and last.accepted <= APART * first.accepted
            and last.accepted * first.span_s <= LESS * first.accepted * last.span_s
        )
        if not is_chance:
            return None
        self._share = (run.refused + math.sqrt(run.refused)) / requests
        self._is_known = True
        self._run = []
        return self._top


def _sum(stretches: list[Stretch]) -> Stretch:
    accepted, refused, spans_s = zip(*stretches, strict=True)
    return Stretch(sum(accepted), sum(refused), sum(spans_s))
