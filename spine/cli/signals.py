"""SIGINT, SIGTERM and SIGHUP of a command that runs for long: the first one ends it in order, a second one at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any

from spine.cli.exits import INTERRUPTED

LOOK_EVERY_S = 0.5
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending(
    on_first: Callable[[], None], on_second: Callable[[], None] = lambda: None, *, parent: int | None = None
) -> Iterator[None]:
    """Call `on_first` in the event loop at the first signal; at a second one call `on_second` and end with 130.

    The second one works even while the event loop is blocked. Where `parent` is given, the death of that process, which
    must have started this one, is as good as a first signal.
    """
    loop = asyncio.get_running_loop()
    seen = 0

    def caught(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            loop.call_soon_threadsafe(on_first)
            return
        on_second()
        os.write(2, b"ended at once\n")
        os._exit(INTERRUPTED)

    watch = None if parent is None else loop.create_task(_orphaned(parent, on_first), name="spine-parent")
    try:
        with handled(caught, SIGNALS):
            yield
    finally:
        if watch is not None:
            watch.cancel()


async def _orphaned(parent: int, tell: Callable[[], None]) -> None:
    """Call `tell` once this process has been left to another parent."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(LOOK_EVERY_S)
    tell()


@contextlib.contextmanager
def handled(caught: Callable[[int, FrameType | None], None], numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Have `caught` called at these signals; ``nohup`` stays what it is."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    wanted = [number for number in numbers if not (ignored and number is signal.SIGHUP)]
    before = {number: signal.signal(number, caught) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def before(stop: asyncio.Event, work: Coroutine[Any, Any, Any]) -> bool:
    """Do `work` unless `stop` is set first: tell whether it was done. What is broken off is cancelled."""
    doing = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            return False
        await doing
        return True
    finally:
        for task in (doing, stopping):
            task.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)
