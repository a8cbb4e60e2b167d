"""``dlq``: the events that agents gave up: looking at them, bringing them back, throwing them away."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spine.cli.exits import FAILED
from spine.cli.options import Correlation, Format, Key, Namespace, Output, Types, Url, moment, split
from spine.cli.output import chosen, fail, printable, say, write_rows
from spine.cli.running import execute, opened

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.delivery.records import DeadLetter

app = typer.Typer(no_args_is_help=True, help="List, show, redrive and discard the events that agents gave up.")
COLUMNS = ("seq", "agent", "type", "key", "attempts", "given_up", "parked", "error")

Agent = Annotated[str | None, typer.Option("--agent", "-a", help="Only those of this agent.")]
Error = Annotated[str | None, typer.Option("--error", "-e", help="Only where the error contains this.")]
Since = Annotated[str | None, typer.Option("--since", help='Given up since: -2h, or "2026-11-20 14:00".')]
Until = Annotated[str | None, typer.Option("--until", help="Given up until.")]
Seqs = Annotated[list[int] | None, typer.Argument(metavar="SEQ", help="Only these; all that the options name if none.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show which ones are meant.")]
All = Annotated[bool, typer.Option("--all", help="Needed to mean every dead letter there is.")]


@app.command("list")
def list_letters(
    agent: Agent = None,
    types: Types = None,
    key: Key = None,
    correlation: Correlation = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """List the events that were given up, by seq."""
    wanted = _wanted(types, key, correlation, error, since, until)

    async def run() -> None:
        async with opened(url, namespace) as spine:
            await _check_agent(spine, agent)
            _write(await spine.dead_letters(agent, **wanted), chosen(output))

    execute(run())


@app.command()
def show(
    seq: Annotated[int, typer.Argument(help="Seq of the event.")],
    agent: Agent = None,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show one with its error and traceback."""

    async def run() -> None:
        async with opened(url, namespace) as spine:
            await _check_agent(spine, agent)
            found = await spine.dead_letters(agent, seq=seq)
        if not found:
            fail(f"no dead letter of seq {seq}", FAILED)
        if chosen(output) is not Format.TABLE:
            write_rows((letter.to_dict() for letter in found), (), chosen(output))
            return
        for letter in found:
            _show(letter)

    execute(run())


@app.command()
def redrive(
    seqs: Seqs = None,
    agent: Agent = None,
    types: Types = None,
    key: Key = None,
    correlation: Correlation = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    every: All = False,
    dry_run: DryRun = False,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Have them handled again, in order; what is parked takes its old place."""
    wanted = _wanted(types, key, correlation, error, since, until)
    _check_meant(seqs, agent, wanted, every)
    execute(_act("redrive", seqs, agent, wanted, dry_run, chosen(output), url, namespace))


@app.command()
def discard(
    seqs: Seqs = None,
    agent: Agent = None,
    types: Types = None,
    key: Key = None,
    correlation: Correlation = None,
    error: Error = None,
    since: Since = None,
    until: Until = None,
    every: All = False,
    dry_run: DryRun = False,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Delete them for good; keys that were parked for them go on."""
    wanted = _wanted(types, key, correlation, error, since, until)
    _check_meant(seqs, agent, wanted, every)
    execute(_act("discard", seqs, agent, wanted, dry_run, chosen(output), url, namespace))


async def _act(
    what: str,
    seqs: list[int] | None,
    agent: str | None,
    wanted: dict[str, Any],
    dry_run: bool,
    output: Format,
    url: str | None,
    namespace: str | None,
) -> None:
    async with opened(url, namespace) as spine:
        await _check_agent(spine, agent)
        act = spine.dead_letters if dry_run else getattr(spine, what)
        done: list[DeadLetter] = await act(agent, **wanted, seq=seqs or None)
    _write(done, output)
    verb = {"redrive": "redriven", "discard": "discarded"}[what]
    say(f"{len(done):,} {'would be ' if dry_run else ''}{verb}")
    if missing := sorted({*(seqs or ())} - {letter.seq for letter in done}):
        fail(f"no such dead letter: {', '.join(map(str, missing))}", FAILED)


async def _check_agent(spine: Spine, agent: str | None) -> None:
    """Tell a name that no agent ever had from an agent without dead letters."""
    if agent is not None:
        await spine.overview.known(agent)


def _check_meant(seqs: list[int] | None, agent: str | None, wanted: dict[str, Any], every: bool) -> None:
    if not seqs and agent is None and not wanted and not every:
        raise typer.BadParameter("say which ones: a SEQ, a filter, or --all")


def _wanted(
    types: list[str] | None,
    key: str | None,
    correlation: str | None,
    error: str | None,
    since: str | None,
    until: str | None,
) -> dict[str, Any]:
    given: dict[str, Any] = {
        "types": split(types),
        "key": key,
        "correlation": correlation,
        "error": error,
        "since": _time(since),
        "until": _time(until),
    }
    return {name: value for name, value in given.items() if value not in (None, ())}


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = moment(text)
    if not isinstance(found, datetime):
        raise typer.BadParameter(f"{text!r} is a seq; a time is needed")
    return found


def _write(letters: Iterable[DeadLetter], output: Format) -> None:
    from spine.events import from_ms

    rows = (
        {**letter.to_dict(), "given_up": from_ms(letter.ts_ms), "error": f"{letter.error_type}: {letter.error}"}
        for letter in letters
    )
    records = (letter.to_dict() for letter in letters)
    write_rows(rows if output is Format.TABLE else records, COLUMNS, output, nothing="no dead letters")


def _show(letter: DeadLetter) -> None:
    from spine.cli.output import local_time
    from spine.events import from_ms

    print(f"event {letter.seq}  {letter.type or 'not an event'}  key {printable(letter.key)}  in {letter.topic}")
    print(f"given up by {letter.agent} ({letter.worker}) at {local_time(from_ms(letter.ts_ms))}", end="")
    print(f" after {letter.attempts} attempts{', its key parked' if letter.parked else ''}")
    print(f"correlation {printable(letter.correlation)}\n")
    print("\n".join(printable(line) for line in (letter.traceback or letter.error).rstrip().splitlines()))
