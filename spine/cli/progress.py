"""Progress of long work: on stderr, where that is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

REFRESH_S = 0.1


class Progress:
    """A line with count, rate and, where the total is known, the time left; a context manager.

    Args:
        doing: what is done, as in ``replaying``.
        unit: of what.
        total: how far it goes; ``None`` where that is not known.
        quiet: show nothing.
    """

    def __init__(self, doing: str, unit: str, *, total: int | None = None, quiet: bool = False) -> None:
        self._doing = doing
        self._unit = unit
        self._total = total
        self._shown = sys.stderr.isatty() and not quiet
        self._bar: Any = None
        self._task: Any = None
        self._next = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._shown:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            from spine.cli.output import stderr

            columns: list[Any] = [TextColumn("{task.description}"), TextColumn("{task.fields[done]}")]
            if self._total is not None:
                columns += [BarColumn(bar_width=30), TimeRemainingColumn()]
            self._bar = Bar(*columns, console=stderr(), transient=True)
            self._task = self._bar.add_task(self._doing, total=self._total, done="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, done: int) -> None:
        """Tell that `done` of it is done by now."""
        now = time.monotonic()
        if self._bar is None or now < self._next:
            return
        self._next = now + REFRESH_S
        rate = done / max(now - self._began, 0.001)
        self._bar.update(self._task, completed=done, done=f"{done:,} {self._unit}, {rate:,.0f}/s")
