"""What commands write: data on stdout as a table, JSON or ndjson; everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from spine.cli.options import Format

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from spine.events import Event

WIDE = 100_000
NARROW = 120
# Widths of seq, time, type, key and source; where there is little room, day and long names give way to the payload.
COLUMNS = (9, 18, 28, 18, 14)
NARROW_COLUMNS = (7, 12, 16, 10, 10)
# Numbers that are typed in again, and name something rather than count.
IDENTIFIERS = frozenset({"seq", "first", "first_seq", "last_seq", "at", "target", "floor", "pid"})
LANE_STYLES = ("bold red", "", "dim")


def chosen(output: Format | None) -> Format:
    """Return the wanted format: a table for people, ndjson for programs."""
    return output or (Format.TABLE if sys.stdout.isatty() else Format.NDJSON)


def stdout() -> Console:
    """Return the console for data; lines are cut at the width of a terminal only."""
    from rich.console import Console

    class Data(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich would end with 1: a reader that has seen enough is no failure

    return Data(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def stderr() -> Console:
    """Return the console for everything that is not data."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Write a line for the user, on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def fail(message: str, code: int) -> NoReturn:
    """End the command with `code`, and say why."""
    import typer

    say(f"error: {message}")
    raise typer.Exit(code)


def to_json(value: Any) -> bytes:
    """Return `value` as one line of JSON."""
    import msgspec

    return msgspec.json.encode(value)


def printable(text: str) -> str:
    """Return `text` without characters that could steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def local_time(moment: datetime) -> str:
    """Return day and time of `moment` in the user's time zone, to the millisecond."""
    return moment.astimezone().strftime("%m-%d %H:%M:%S.%f")[:-3]


class Records:
    """Writes records to stdout as they come, as JSON or ndjson: a context manager."""

    def __init__(self, output: Format, *, live: bool = False) -> None:
        self._json = output is Format.JSON
        self._live = live
        self._count = 0
        self._out = sys.stdout.buffer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._json and kind is not BrokenPipeError:
            self._out.write(b"\n]\n" if self._count else b"[]\n")
        if kind is not BrokenPipeError:
            self._out.flush()

    def write(self, record: Any) -> None:
        """Write one record; at once when live."""
        if self._json:
            self._out.write((b",\n" if self._count else b"[\n") + to_json(record))
        else:
            self._out.write(to_json(record) + b"\n")
        self._count += 1
        if self._live:
            self._out.flush()


class Events:
    """Writes events to stdout as they come: a context manager.

    Args:
        output: the wanted format.
        live: nothing waits in a buffer.
    """

    def __init__(self, output: Format, *, live: bool = False) -> None:
        self._records = None if output is Format.TABLE else Records(output, live=live)
        self._console: Console | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._records is not None:
            self._records.__exit__(kind, error, trace)

    def write(self, event: Event[Any]) -> None:
        """Write one event."""
        if self._records is not None:
            self._records.write(event.to_dict())
            return
        if self._console is None:
            self._console = stdout()
            self._console.print(event_header(self._console.width), no_wrap=True, overflow="ellipsis", crop=True)
        line = event_line(event, self._console.width)
        self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)


def event_header(width: int) -> Text:
    """Return what stands over lines of events, in a terminal of a width."""
    from rich.text import Text

    seq, *others = COLUMNS if width >= NARROW else NARROW_COLUMNS
    names = (f"{name:<{size}}" for name, size in zip(("TIME", "TYPE", "KEY", "SOURCE"), others, strict=True))
    return Text("  ".join((f"{'SEQ':>{seq}}", *names, "PAYLOAD")), style="bold")


def event_line(event: Event[Any], width: int = WIDE) -> Text:
    """Return `event` as one line of a table, in a terminal of a width."""
    from rich.text import Text

    narrow = width < NARROW
    seq, *others = NARROW_COLUMNS if narrow else COLUMNS
    moment = local_time(event.ts)
    texts = (
        (moment[-others[0] :], ""),
        (destination(event), LANE_STYLES[event.context.priority] or "green"),
        (printable(event.key), ""),
        (printable(event.source), ""),
    )
    line = Text(f"{event.seq:>{seq}}", style="cyan")
    for (text, style), size in zip(texts, others, strict=True):
        shown = f"{text[: size - 1]}…" if narrow and len(text) > size else text
        line.append("  ").append(f"{shown:<{size}}", style=style)
    return line.append("  ").append(printable(to_json(event.to_dict()["payload"]).decode()), style="dim")


def destination(event: Event[Any]) -> str:
    """Return the type of `event`, and whose inbox it went to when it went to one."""
    return printable(event.type if event.topic == event.type else f"{event.type} → {event.topic}")


def write_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], output: Format, *, nothing: str = "nothing"
) -> None:
    """Write `rows` of which a table shows `columns`; an empty table says `nothing`, on stderr."""
    if output is not Format.TABLE:
        with Records(output) as records:
            for row in rows:
                records.write(row)
        return
    shown = [[_cell(column, row.get(column)) for column in columns] for row in rows]
    if shown:
        _print_table([column.upper().replace("_", " ") for column in columns], shown)
    else:
        say(nothing)


def _print_table(names: list[str], rows: list[list[str]]) -> None:
    """Print a table; where words would be broken to fit a narrow terminal, a line for each value instead."""
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = stdout()
    if Measurement.get(console, console.options.update(width=WIDE), table).minimum <= console.width:
        console.print(table)
        return
    longest = max(map(len, names))
    for row in rows:
        for name, value in zip(names, row, strict=True):
            console.print(Text(f"{name:<{longest}}  {value}"), soft_wrap=True)
        console.print()


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if column in IDENTIFIERS else f"{value:,}"
    if isinstance(value, datetime):
        return local_time(value)
    return printable(value) if isinstance(value, str) else printable(to_json(value).decode())
