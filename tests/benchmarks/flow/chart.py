"""Charts to look at: accepted requests a second over time, ours and the rivals', one SVG a scenario."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.benchmarks.flow.simulation import Run

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 960, 360, 60, 40, 170, 40
POINTS = 150
COLOURS = ("#0072b2", "#999999", "#e69f00", "#d55e00", "#009e73")
# Okabe and Ito's palette: told apart by the colour-blind too.


def chart(path: Path, title: str, runs: dict[str, Run]) -> None:
    """Draw the runs of one scenario."""
    any_run = next(iter(runs.values()))
    end, server = any_run.duration_s, any_run.server
    step = end / POINTS
    allowed = [server.allowed(nth * step, (nth + 1) * step) / step for nth in range(POINTS)]
    lines = {name: _rates(run, step) for name, run in runs.items()}
    top = 1.6 * max(allowed)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{title}: accepted a second</text>',
    ]
    for nth in range(5):
        value = top * nth / 4
        y = _y(value, top)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        at = end * nth / 4
        parts.append(f'<text x="{_x(at, end):.1f}" y="{HEIGHT - 18}" text-anchor="middle">{at:.0f} s</text>')
    parts.append(_line(allowed, end, top, "#000000", 'stroke-dasharray="5 4"'))
    parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 6}">- - allowed</text>')
    for nth, (name, rates) in reversed(list(enumerate(lines.items()))):
        parts.append(_line(rates, end, top, COLOURS[nth], f'stroke-width="{1 if nth else 2}"'))
        y = TOP + 26 + 20 * nth
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{y}" fill="{COLOURS[nth]}">{name}</text>')
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def _rates(run: Run, step: float) -> list[float]:
    edges = [bisect_left(run.taken, nth * step) for nth in range(POINTS + 1)]
    return [(after - before) / step for before, after in itertools.pairwise(edges)]


def _line(rates: list[float], end: float, top: float, colour: str, style: str) -> str:
    step = end / POINTS
    points = " ".join(f"{_x((nth + 0.5) * step, end):.1f},{_y(rate, top):.1f}" for nth, rate in enumerate(rates))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" {style}/>'


def _x(at: float, end: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at / end


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - min(value, top) / top)
