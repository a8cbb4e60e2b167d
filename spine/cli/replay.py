"""``replay``: the log as it was, and the states that were folded from it."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spine.cli.options import (
    MOMENT,
    AppDir,
    Correlation,
    Format,
    Key,
    Namespace,
    Output,
    Types,
    Url,
    moment,
    optional_moment,
    selection,
    split,
)
from spine.cli.output import Events, chosen, say
from spine.cli.position import Position
from spine.cli.progress import Progress
from spine.cli.running import execute, opened
from spine.cli.states import Looking, show

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.client.reading import Moment

STATE = "State of an agent or projection"


def replay(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[MODULE:AGENT]", help="Show its state instead of the events.", show_default=False),
    ] = None,
    types: Types = None,
    key: Key = None,
    correlation: Correlation = None,
    after: Annotated[str, typer.Option(help=f"Start after this point: {MOMENT}.")] = "0",
    until: Annotated[str | None, typer.Option(help=f"Up to this point: {MOMENT} (default: now).")] = None,
    at: Annotated[str | None, typer.Option(help=f"As it was at this point: {MOMENT}.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go on where the replay that kept its place in FILE stopped; keep it there."),
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="FROM TO", help="What changed between two points, and by which events.", rich_help_panel=STATE
        ),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="What each event of this type changed.", rich_help_panel=STATE),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Find reducers that are not pure.", rich_help_panel=STATE)
    ] = False,
    app_dir: AppDir = Path(),
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Read the log from its beginning, in the order of the numbers; or show what an agent's state was.

    spine replay --key c-1 --at "2026-11-20 14:00"

    spine replay agents.inquiry:Inquiry --key c-1 --diff 1100 1200
    """
    if at is not None and until is not None:
        raise typer.BadParameter("--at and --until exclude each other")
    end = at if until is None else until
    if target is not None:
        _refuse({"--type (see --watch)": types, "--correlation": correlation, "--resume": resume})
        looking = Looking(key, after, end, diff, split(watch), verify)
        show(target, app_dir, looking, chosen(output), url, namespace)
        return
    _refuse({"--diff": diff, "--watch": watch, "--verify": verify}, "needs MODULE:AGENT")
    first, last = moment(after), optional_moment(end)
    named = [*sorted(split(types)), f"key={key}", f"correlation={correlation}"]
    position = None if resume is None else Position(resume, " ".join(named))

    async def run() -> None:
        async with opened(url, namespace) as spine:
            await _replay(spine, selection(types, key, correlation), first, last, position, chosen(output))

    execute(run())


def _refuse(given: dict[str, object], why: str = "is of a replay of events, not of states") -> None:
    for name, value in given.items():
        if value:
            raise typer.BadParameter(f"{name} {why}")


async def _replay(
    spine: Spine,
    selected: dict[str, Any],
    after: Moment,
    until: Moment | None,
    position: Position | None,
    output: Format,
) -> None:
    seq = first = await spine.seq_at(after) if position is None else position.read(await spine.seq_at(after))
    end = await spine.head(until)
    quiet = sys.stdout.isatty()
    with Events(output) as events, Progress("replaying", "events", total=end - first, quiet=quiet) as progress:
        try:
            stream = spine.replay(**selected, after=first, until=end)
            async with aclosing(stream):
                async for event in stream:
                    events.write(event)
                    seq = event.seq
                    progress.advance(seq - first)
                    if position is not None:
                        position.reached(seq)
            seq = max(seq, end)
            progress.advance(end - first)
        except BrokenPipeError:
            position = None
            raise
        except BaseException:
            if seq > first and position is None:
                say(f"stopped after seq {seq}; go on with --after {seq}")
            raise
        finally:
            if position is not None:
                position.write(seq)
