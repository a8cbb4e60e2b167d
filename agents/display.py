"""What a run looks like: progress while it lasts (stderr), the table at its end (stdout)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from agents.progress import Progress, percentile
from agents.verification import Verdict

LINE_EVERY_SECONDS = 1.0
FRAMES_PER_SECOND = 12
BAR_WIDTH = 24  # with the figures beside it, a line of 80 columns
PLACES_SHOWN = 5

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """Report something beside the progress."""
    err.print(line, markup=False, soft_wrap=True)


@asynccontextmanager
async def shown(progress: Progress) -> AsyncIterator[None]:
    """Show `progress` as long as the block runs: a bar on a terminal, a line a second elsewhere."""
    if err.is_terminal:
        with Live(_Bar(progress), console=err, refresh_per_second=FRAMES_PER_SECOND, transient=True):
            yield
        return
    lines = asyncio.create_task(_lines(progress), name="progress lines")
    try:
        yield
    finally:
        lines.cancel()
        await asyncio.gather(lines, return_exceptions=True)
        say(_line(progress))


class _Bar:
    """Drawn anew at every frame, so that it always shows the present."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._spinner = Spinner("dots")

    def __rich__(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._progress.conversations, completed=self._progress.gathered, width=BAR_WIDTH)
        grid.add_row(self._spinner, bar, _line(self._progress))
        return grid


async def _lines(progress: Progress) -> None:
    while True:
        await asyncio.sleep(LINE_EVERY_SECONDS)
        say(_line(progress))


def _line(progress: Progress) -> str:
    return (
        f"{progress.gathered}/{progress.conversations} conversations  {progress.events:,} events  "
        f"{progress.requested} bookings"
    )


def show_result(progress: Progress, verdict: Verdict) -> None:
    """Print the table, and below it every fault by name."""
    table = Table(show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in result(progress, verdict):
        table.add_row(name, value)
    out.print(table)
    for name, places in verdict.faults.items():
        shown_places = ", ".join(f"{of} turn {turn} {intent}" for of, turn, _, intent in places[:PLACES_SHOWN])
        more = f" and {len(places) - PLACES_SHOWN} more" if len(places) > PLACES_SHOWN else ""
        say(f"{name}: {shown_places}{more}")


def result(progress: Progress, verdict: Verdict) -> list[tuple[str, str]]:
    """The figures of a run, in the order of the table."""
    faults = [
        (f"bookings {text}", str(len(getattr(verdict, name))))
        for name, text in (
            ("wrong", "with wrong parameters"),
            ("contrary", "with a wrong outcome"),
            ("undocumented", "without their document"),
            ("unanswered", "whose end the customer was not told once"),
            ("regretted", "taken back, and not cancelled once"),
        )
        if getattr(verdict, name)
    ]
    cancelled = [
        ("cancelled before they were booked", f"{progress.cancelled - progress.undone:,}"),
        ("cancelled afterwards", f"{progress.undone:,}"),
    ]
    return [
        ("conversations", f"{progress.gathered:,}"),
        ("events", f"{progress.events:,}"),
        ("agreed", f"{progress.routed.total():,}"),
        ("  and booked at once", f"{progress.routed['scheduling']:,}"),
        ("  and reviewed first", f"{progress.routed['review']:,}"),
        ("  and shown to a person first", f"{progress.routed['desk']:,}"),
        ("bookings", f"{verdict.requested:,}"),
        ("  confirmed", f"{progress.confirmed:,}"),
        ("  failed", f"{progress.failed:,}"),
        *(cancelled if progress.cancelled else ()),
        ("bookings made too early", str(len(verdict.early))),
        ("bookings missing", str(len(verdict.missing))),
        ("bookings made twice", str(len(verdict.double))),
        *faults,
        ("end-to-end latency p50", _milliseconds(percentile(progress.latencies_s, 50))),
        ("end-to-end latency p99", _milliseconds(percentile(progress.latencies_s, 99))),
        ("events/s", f"{progress.events_per_second:,.0f}"),
    ]


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:,.0f} ms"
