"""``trim``: old events leave the log, as far as nobody needs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spine.cli.options import MOMENT, AppDir, Format, Namespace, Output, Url, keep_of, optional_moment
from spine.cli.output import chosen, say, write_rows
from spine.cli.progress import Progress
from spine.cli.running import execute, opened
from spine.cli.targets import loaded

if TYPE_CHECKING:
    from spine.past.trimming.trimming import Trim

SHOWN_BLOCKERS = 20


def trim(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODULE:AGENT]...", help="Their states that are not stored are folded and stored."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help=f"Up to this point: {MOMENT} (default: by the retention of the namespace).")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="AGE|N|forever",
            help="Keep events of this age (30d, 12h) or the newest N, from now on: the retention.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Take out what is still needed as well, and say who did.")
    ] = False,
    app_dir: AppDir = Path(),
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Take old events out of the log: none that an agent has not handled, or whose state is not stored.

    spine trim --until -30d --dry-run

    spine trim --keep 30d
    """
    if keep is not None and (until is not None or dry_run):
        raise typer.BadParameter("--keep says what is kept from now on: leave --until and --dry-run out")
    point = optional_moment(until)
    kept = None if keep is None else keep_of(keep)
    kinds = loaded(targets or [], app_dir)

    async def run() -> None:
        async with opened(url, namespace) as spine:
            if kept is not None:
                await spine.retention(keep=kept)
                if kept == "forever":
                    say("the namespace keeps everything from now on")
                    return
            with Progress("trimming", "events") as progress:
                done = await spine.trim(until=point, kinds=kinds, dry_run=dry_run, force=force, told=progress.advance)
        _write(done, chosen(output))

    execute(run())


def _write(done: Trim, output: Format) -> None:
    import msgspec

    row = msgspec.to_builtins(done, str_keys=True)
    if output is not Format.TABLE:
        write_rows([row], (), output)
        return
    row["floor"] = max(done.floors.values(), default=0)
    write_rows([row], ("target", "floor", "events", "unreachable"), output)
    verb = "would go" if done.dry_run else "went"
    say(f"{done.events:,} events {verb}")
    if done.blockers:
        say(f"{len(done.blockers):,} {'needed what went' if done.forced else 'hold up the rest'}:")
        for one in done.blockers[:SHOWN_BLOCKERS]:
            say(f"  seq {one.seq}, partition {one.partition}: {one.agent}: {one.why}")
        if len(done.blockers) > SHOWN_BLOCKERS:
            say(f"  … and {len(done.blockers) - SHOWN_BLOCKERS:,} more (-o json)")
