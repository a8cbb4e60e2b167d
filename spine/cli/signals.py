"""SIGINT, SIGTERM and SIGHUP of a command that runs for long: the first one ends it in order, a second one at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from spine.cli.exits import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending(on_first: Callable[[], None], on_second: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Call `on_first` in the event loop at the first signal; at a second one call `on_second` and end with 130.

    The second one works even while the event loop is blocked.
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

    before = {number: signal.signal(number, caught) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
