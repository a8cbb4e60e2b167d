"""``snapshots``: the states of earlier moments that are kept, so that a look at the past begins near it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from spine.cli.options import MOMENT, AppDir, Key, Namespace, Output, Url, optional_moment
from spine.cli.output import chosen, say, write_rows
from spine.cli.running import execute, opened
from spine.cli.targets import loaded

app = typer.Typer(no_args_is_help=True, help="List, keep and remove snapshots of states.")
COLUMNS = ("key", "seq", "events", "ts", "size", "needed", "damaged")

Name = Annotated[str, typer.Argument(metavar="AGENT", help="Name of the agent or projection.")]


@app.command("list")
def list_snapshots(
    name: Name, key: Key = None, output: Output = None, url: Url = None, namespace: Namespace = None
) -> None:
    """List the snapshots of the newest version of an agent or projection, by key and seq."""

    async def run() -> None:
        async with opened(url, namespace) as spine:
            found = await spine.snapshots(name, key=key)
        write_rows(map(msgspec.structs.asdict, found), COLUMNS, chosen(output), nothing="no snapshots")

    execute(run())


@app.command()
def keep(
    target: Annotated[str, typer.Argument(metavar="MODULE:AGENT", help="The agent or projection.")],
    key: Key = None,
    at: Annotated[str | None, typer.Option(help=f"The state at this point: {MOMENT} (default: now).")] = None,
    app_dir: AppDir = Path(),
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Keep the state of a moment."""
    point = optional_moment(at)
    (kind,) = loaded([target], app_dir)

    async def run() -> None:
        async with opened(url, namespace) as spine:
            kept = await spine.snapshot(kind, key=key, at=point)
        write_rows([msgspec.structs.asdict(kept)], COLUMNS, chosen(output))

    execute(run())


@app.command()
def remove(
    name: Name,
    key: Key = None,
    before: Annotated[int | None, typer.Option(metavar="SEQ", help="Only those of before this seq.")] = None,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Remove snapshots. Nothing is lost: one whose events were trimmed away stays."""

    async def run() -> None:
        async with opened(url, namespace) as spine:
            count = await spine.remove_snapshots(name, key=key, before=before)
            left = await spine.snapshots(name, key=key)
        write_rows([{"name": name, "removed": count, "left": len(left)}], ("name", "removed", "left"), chosen(output))
        if needed := sum(one.needed for one in left):
            say(f"{needed:,} stay because the events before them were trimmed away")

    execute(run())
