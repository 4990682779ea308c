"""The event loop of a command, and the signals that end it.

uvloop where there is one (not on Windows). Knows no command.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING, TypeVar

import anyio

from ingest.cli.ending import Signalled, ending_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

__all__ = ["die_of", "handling_signals", "run", "until_signalled"]

T = TypeVar("T")


def run(main: Coroutine[None, None, T]) -> T:
    """Run a command's coroutine to its end."""
    # A signal may come before it is begun, or the loop made: nobody is told of a coroutine that was never awaited.
    with contextlib.closing(main), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


@contextlib.contextmanager
def handling_signals(handle: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `handle` in the event loop for the signals that end a command, while inside; then they are as they were."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in ending_signals()}
    for number in before:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def die_of(number: signal.Signals) -> None:
    """End this process by the signal, there and then, as if nobody had handled it.

    Not by taking the handlers away beforehand: a signal that has come and was not looked at yet would count again.
    """
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


async def until_signalled(main: Coroutine[None, None, T]) -> T:
    """What `main` gives; at a signal it is cancelled, and `Signalled` raised once it has cleaned up."""
    came: list[signal.Signals] = []
    with anyio.CancelScope() as scope:

        def handle(number: signal.Signals) -> None:
            came.append(number)
            scope.cancel()

        with handling_signals(handle):
            return await main
    raise Signalled(came[0])  # nothing else cancels the scope


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - there is none on Windows

    return uvloop.new_event_loop
