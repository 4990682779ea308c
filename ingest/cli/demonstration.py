"""The `demo` command: a sandbox, pictures and a run in one process and one temporary folder.

The one place where the program and the sandbox meet; everything it makes is gone at the end.
"""

from __future__ import annotations

import colorsys
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw

from ingest.assemble import source_of
from ingest.cli import looping, output, progress, standing
from ingest.cli.running import Running
from ingest.observe.logging import configure
from ingest.sandbox import ApiKey, CutAfter, ErrorAnswer, FaultPlan, Sandbox, SandboxSettings
from ingest.settings import ApiSettings, FlowSettings, RunSettings, Settings

if TYPE_CHECKING:
    from ingest.model import Summary
    from ingest.sandbox import LedgerView
    from ingest.sources.base import Source

__all__ = ["demo"]

PICTURES: Final = 240
COPIES: Final = 12
PACK: Final = "Demo"
SETTLE_DELAY_S: Final = 1.0
# The sandbox shows every effect at once, and nobody wants to wait.

FAULTS: Final = FaultPlan(
    seed=1,
    rules=(
        ErrorAnswer(operation="upload_file", probability=0.03, status=500),
        ErrorAnswer(operation="put", probability=0.03, status=500),
        ErrorAnswer(operation="add_image", probability=0.02, status=500),
        ErrorAnswer(operation="upload_file", after=60, times=3, status=429, retry_after=1),
        CutAfter(operation="add_image", probability=0.02),
    ),
)


def demo() -> int:
    """Run the demonstration; the exit code is the run's."""
    with tempfile.TemporaryDirectory(prefix="ingest-demo-") as folder:
        pictures = Path(folder) / "pictures"
        output.message(f"Drawing {PICTURES} pictures and {COPIES} copies ...")
        draw(pictures)
        display = progress.chosen()
        source = source_of(str(pictures))
        with configure("console", "warning", display.log_stream):
            summary, ledger = looping.run(_run(Path(folder), source, display))
    _print(summary, source, ledger)
    if summary.error is not None:
        output.message(summary.error.message, summary.error.hint)
    return summary.exit_code


async def _run(folder: Path, source: Source, display: progress.Display) -> tuple[Summary, LedgerView]:
    key = ApiKey.generate()
    async with Sandbox(SandboxSettings(keys=(key,), faults=FAULTS)).serve() as sandbox:
        settings = Settings(
            api=ApiSettings(key=key.key, base_url=sandbox.base_url),
            flow=FlowSettings(settle_delay_s=SETTLE_DELAY_S),
            run=RunSettings(pack=PACK, create_pack=True),
            journal=str(folder / "journal.db"),
        )
        summary = await Running(settings, [source]).run(display)
        return summary, sandbox.ledger()


def draw(folder: Path) -> None:
    """Small pictures of every kind that is common, some of them copies, and two files that are none."""
    chance = random.Random(0)  # noqa: S311 - pictures, not secrets
    kinds = ((".jpg", "JPEG"), (".jpg", "JPEG"), (".png", "PNG"), (".gif", "GIF"), (".webp", "WEBP"))
    folder.mkdir()
    made: list[Path] = []
    for number in range(PICTURES):
        album = folder / f"album {number // 60 + 1}"
        album.mkdir(exist_ok=True)
        ending, kind = kinds[number % len(kinds)]
        path = album / f"picture {number + 1:03}{ending}"
        _picture(chance).save(path, kind)
        made.append(path)
    for number, original in enumerate(chance.sample(made, COPIES)):
        (folder / f"copy {number + 1:02}{original.suffix}").write_bytes(original.read_bytes())
    for name in ("notes.txt", "clip.mov"):
        (folder / name).write_bytes(b"not a picture")


def _picture(chance: random.Random) -> Image.Image:
    width, height = chance.randrange(120, 480), chance.randrange(90, 360)
    hue = chance.random()
    image = Image.new("RGB", (width, height), _color(hue, 0.25, 0.95))
    pen = ImageDraw.Draw(image)
    for _ in range(chance.randrange(3, 9)):
        x, y, size = chance.randrange(width), chance.randrange(height), chance.randrange(15, 120)
        color = _color(hue + chance.uniform(-0.2, 0.2), 0.7, chance.uniform(0.5, 1.0))
        shape = chance.choice((pen.ellipse, pen.rectangle))
        shape((x - size, y - size, x + size, y + size), fill=color)
    return image


def _color(hue: float, saturation: float, brightness: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, brightness)
    return int(red * 255), int(green * 255), int(blue * 255)


def _print(summary: Summary, source: Source, ledger: LedgerView) -> None:
    for text in standing.summary_lines(summary):
        output.line(text)
    if (told := standing.ignored(source.report.ignored)) is not None:
        output.line(told)
    faults = sum(count for kinds in ledger.faults.values() for count in kinds.values())
    urls = [image.url for pack in ledger.packs if pack.name == PACK for image in pack.images]
    twice = len(urls) - len(set(urls))
    unanswered = sum(kinds.get("cut_after", 0) for kinds in ledger.faults.values())
    output.line(
        f"The sandbox did {faults} things wrong on purpose ({unanswered} adds took effect without an answer), "
        f"and its pack {PACK!r} holds {len(urls)} images, {twice or 'none'} twice."
    )
    output.line("Nothing of it is left. To look around yourself:")
    output.line("  ingest sandbox                              # a local API, with the two lines to paste")
    output.line("  ingest run ~/Pictures --pack Demo --create-pack")
    output.line("  ingest packs list                           # then: status, failures")
