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
EVENT_HEADER = f"{'SEQ':>9}  {'TIME':<18}  {'TYPE':<28}  {'KEY':<18}  {'SOURCE':<14}  PAYLOAD"
LANE_STYLES = ("bold red", "", "dim")


def chosen(output: Format | None) -> Format:
    """Return the wanted format: a table for people, ndjson for programs."""
    return output or (Format.TABLE if sys.stdout.isatty() else Format.NDJSON)


def stdout() -> Console:
    """Return the console for data; lines are cut at the width of a terminal only."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


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
            self._console.print(EVENT_HEADER, style="bold", soft_wrap=True)
        self._console.print(event_line(event), no_wrap=True, overflow="ellipsis", crop=True)


def event_line(event: Event[Any]) -> Text:
    """Return `event` as one line of a table."""
    from rich.text import Text

    payload = printable(to_json(event.to_dict()["payload"]).decode())
    return Text.assemble(
        (f"{event.seq:>9}", "cyan"),
        f"  {local_time(event.ts)}  ",
        (f"{destination(event):<28}", LANE_STYLES[event.context.priority] or "green"),
        f"  {printable(event.key):<18}  {printable(event.source):<14}  ",
        (payload, "dim"),
    )


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
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.upper().replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    if table.row_count:
        stdout().print(table)
    else:
        say(nothing)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, datetime):
        return local_time(value)
    return printable(value) if isinstance(value, str) else printable(to_json(value).decode())
