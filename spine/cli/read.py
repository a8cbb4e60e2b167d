"""Reading the log: ``tail`` and ``history``."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spine.cli.exits import DONE
from spine.cli.options import (
    MOMENT,
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
)
from spine.cli.output import Events, chosen, say
from spine.cli.running import execute, following, opened

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.client.reading import Moment


def tail(
    types: Types = None,
    key: Key = None,
    correlation: Correlation = None,
    after: Annotated[str | None, typer.Option(help=f"Start after this point: {MOMENT} (default: now).")] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="Show the newest N first.")] = 0,
    count: Annotated[int | None, typer.Option(min=1, help="End after N events.")] = None,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show events as they are appended, until Ctrl-C.

    spine tail -t 'order.*' -n 20
    """
    if last and after is not None:
        raise typer.BadParameter("--last and --after exclude each other")
    start = optional_moment(after)

    async def run() -> None:
        async with following(url, namespace) as spine:
            await _tail(spine, selection(types, key, correlation), start, last, count, chosen(output))

    execute(run(), interrupted=DONE)


async def _tail(
    spine: Spine,
    selected: dict[str, Any],
    after: Moment | None,
    last: int,
    count: int | None,
    output: Format,
) -> None:
    from spine.errors import Unavailable

    written = 0
    with Events(output, live=True) as events:
        if last:
            newest = await spine.history(**selected, limit=last)
            for event in reversed(newest):
                events.write(event)
                written += 1
                if written == count:
                    return
            after = newest[0].seq if newest else 0
        seq = None
        try:
            async with aclosing(spine.tail(**selected, after=after)) as news:
                async for event in news:
                    events.write(event)
                    seq = event.seq
                    written += 1
                    if written == count:
                        return
        except Unavailable:
            if seq is not None:
                say(f"stopped after seq {seq}; go on with --after {seq}")
            raise


def history(
    types: Types = None,
    key: Key = None,
    correlation: Correlation = None,
    since: Annotated[str, typer.Option(help=f"After this point: {MOMENT}.")] = "0",
    until: Annotated[str | None, typer.Option(help=f"Up to this point: {MOMENT} (default: now).")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most N events.")] = 50,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show the newest events, newest first.

    spine history -t 'booking.*' --since -2h
    """
    start, end = moment(since), optional_moment(until)

    async def run() -> None:
        async with opened(url, namespace) as spine:
            selected = selection(types, key, correlation)
            found = await spine.history(**selected, since=start, until=end, limit=limit + 1)
        with Events(chosen(output)) as events:
            for event in found[:limit]:
                events.write(event)
        if not found:
            say("no events")
        elif len(found) > limit:
            say(f"there are older ones: --until {found[limit].seq}")

    execute(run())
