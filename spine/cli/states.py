"""What ``replay module:Agent`` shows: a state, what changed in it and by which events, whether its fold is pure."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from spine.cli.exits import CHECK_FAILED
from spine.cli.options import Format, moment, optional_moment
from spine.cli.output import Records, event_line, printable, say, stdout, to_json, write_rows
from spine.cli.progress import Progress
from spine.cli.running import execute, opened
from spine.cli.targets import loaded

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.operations.targets import Kind
    from spine.past.diff import Difference
    from spine.past.timetravel import Step


class Looking(NamedTuple):
    """What of a state is to be shown, as it was typed."""

    key: str | None
    after: str
    until: str | None
    diff: tuple[str, str] | None
    watch: tuple[str, ...]
    verify: bool


def show(target: str, app_dir: Path, looking: Looking, output: Format, url: str | None, namespace: str | None) -> None:
    """Run the command; it ends with 3 where `target` cannot be imported, with 5 where a check failed."""
    from spine.state.projection import is_global

    if sum(map(bool, (looking.diff, looking.watch, looking.verify))) > 1:
        raise typer.BadParameter("--diff, --watch and --verify exclude each other")
    if looking.diff and (looking.after != "0" or looking.until is not None):
        raise typer.BadParameter("--diff has both its points: leave --after, --at and --until out")
    if looking.after != "0" and not looking.watch:
        raise typer.BadParameter("--after goes with --watch: a state is folded from the beginning")
    (kind,) = loaded([target], app_dir)
    if looking.key is None and not looking.verify and not is_global(kind):
        raise typer.BadParameter(f"{kind.name} has a state for each key: say whose with --key")

    async def run() -> bool:
        async with opened(url, namespace) as spine:
            if looking.verify:
                return await _verify(spine, kind, target, app_dir, looking, output)
            if looking.diff:
                await _diff(spine, kind, looking.key, looking.diff, output)
            elif looking.watch:
                await _watch(spine, kind, looking, output)
            else:
                await _state(spine, kind, looking, output)
        return True

    if not execute(run()):
        raise typer.Exit(CHECK_FAILED)


async def _state(spine: Spine, kind: Kind, looking: Looking, output: Format) -> None:
    from spine.past.timetravel import TimeTravel
    from spine.state.dumped import shown

    until = await spine.head(optional_moment(looking.until))
    travel = TimeTravel(spine.reader, kind)
    with Progress("folding", "numbers", total=until) as progress:
        cell = await travel.cell(travel.checked(looking.key), until, told=progress.advance)
    if output is Format.TABLE:
        say(f"{kind.name}, version {kind.version}, {_whose(looking.key)}, at seq {until}: {cell.events:,} events")
        stdout().print_json(cell.body.decode())
        return
    about = {"name": kind.name, "version": kind.version, "key": looking.key, "at": until, "events": cell.events}
    with Records(output) as records:
        records.write({**about, "state": shown(cell.body)})


def _whose(key: str | None) -> str:
    return "all keys" if key is None else f"key {printable(key)}"


async def _diff(spine: Spine, kind: Kind, key: str | None, between: tuple[str, str], output: Format) -> None:
    from spine.past.diff import differences

    first, last = [await spine.seq_at(moment(text), inclusive=True) for text in between]
    if first > last:
        raise typer.BadParameter(f"--diff goes forward: {between[1]} is before {between[0]}")
    steps: list[tuple[Step[Any], list[Difference]]] = []
    async with aclosing(spine.steps(kind, key=key, after=first, until=last)) as found:
        async for step in found:
            if not steps:
                begin = step.before
            end = step.after
            steps.append((step, differences(step.before, step.after)))
    whole = differences(begin, end) if steps else []
    rows = []
    for one in whole:
        made = [step.event for step, changes in steps if any(change.touches(one) for change in changes)]
        rows.append({**one.to_dict(), "by": [{"seq": event.seq, "type": event.type} for event in made]})
    if output is Format.TABLE:
        rows = [{**row, "by": ", ".join(f"{by['seq']} {by['type']}" for by in row["by"])} for row in rows]
    write_rows(rows, ("path", "before", "after", "by"), output, nothing=f"nothing changed in {len(steps)} events")


async def _watch(spine: Spine, kind: Kind, looking: Looking, output: Format) -> None:
    from spine.names import check_pattern, matcher
    from spine.past.diff import differences

    for pattern in looking.watch:
        check_pattern(pattern)
    matches = matcher(looking.watch)
    seen = 0
    start, until = await spine.seq_at(moment(looking.after)), optional_moment(looking.until)
    with ExitStack() as stack:
        records = None if output is Format.TABLE else stack.enter_context(Records(output))
        steps = spine.steps(kind, key=looking.key, after=start, until=until)
        async with aclosing(steps):
            async for step in steps:
                if not matches(step.event.type):
                    continue
                seen += 1
                changes = [change.to_dict() for change in differences(step.before, step.after)]
                if records is not None:
                    records.write({**step.event.to_dict(), "changes": changes})
                else:
                    _print_step(step, changes)
    if not seen:
        say(f"{kind.name} folded no event of {', '.join(looking.watch)}")


def _print_step(step: Step[Any], changes: list[dict[str, Any]]) -> None:
    console = stdout()
    console.print(event_line(step.event, console.width), no_wrap=True, overflow="ellipsis", crop=True)
    for change in changes:
        sides = [printable(to_json(change[side]).decode()) if side in change else "-" for side in ("before", "after")]
        line = f"{'':>9}  {printable(change['path'])}: {sides[0]} → {sides[1]}"
        console.print(line, markup=False, no_wrap=True, overflow="ellipsis", crop=True)


async def _verify(spine: Spine, kind: Kind, target: str, app_dir: Path, looking: Looking, output: Format) -> bool:
    """Write the faults; return whether there is none."""
    import msgspec

    from spine.operations.verification.elsewhere import Elsewhere, Order, differences
    from spine.operations.verification.verify import verify

    until = await spine.head(optional_moment(looking.until))
    order = Order(
        target=target,
        app_dir=str(app_dir),
        url=spine.server.url,
        namespace=spine.namespace,
        key=looking.key,
        until=until,
    )
    pure, faults = {}, []
    keys = events = 0
    with Progress("verifying", "events") as progress:
        async with Elsewhere(order) as elsewhere:
            found = verify(spine.reader, kind, key=looking.key, until=until)
            async with aclosing(found) as verified:
                async for one in verified:
                    keys += 1
                    events += one.events
                    faults += one.faults
                    faults += [one.stored] if one.stored is not None else []
                    if not one.faults:
                        pure[one.key] = one.digests
                    progress.advance(events)
            faults += await differences(spine, kind, pure, await elsewhere.digests(), until)
    rows = [msgspec.structs.asdict(fault) for fault in faults]
    what = f"{keys:,} keys, {events:,} events folded twice, and in another process"
    write_rows(rows, ("reducer", "what", "type", "seq", "key"), output, nothing=f"pure: {what}")
    if faults or output is not Format.TABLE:
        say(f"{'NOT pure' if faults else 'pure'}: {what}")
    return not faults
