"""``agents``: who runs what where; pausing, resuming, removing. ``lag``: how far behind each is. ``cancel``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from spine.cli.exits import CHECK_FAILED
from spine.cli.options import Format, Namespace, Output, Url
from spine.cli.output import chosen, fail, say, write_rows
from spine.cli.running import execute, opened

app = typer.Typer(
    invoke_without_command=True, help="Show who runs what where, and which keys wait; pause, resume and remove agents."
)
Name = Annotated[str, typer.Argument(help="The agent.")]
HELD = ("agent", "key", "reason", "seq", "waiting", "until", "error")
COLUMNS = ("agent", "version", "state", "worker", "host", "pid", "since", "partitions", "dead", "held")


@app.callback()
def agents(context: typer.Context, output: Output = None, url: Url = None, namespace: Namespace = None) -> None:
    """Show every agent with its living workers: what they hold, and since when they run."""
    if context.invoked_subcommand is not None:
        return

    async def run() -> None:
        async with opened(url, namespace) as spine:
            found = await spine.agents()
        wanted = chosen(output)
        rows: Iterable[dict[str, Any]] = _table(found) if wanted is Format.TABLE else _records(found)
        write_rows(rows, COLUMNS, wanted, nothing="no agent ever ran here")

    execute(run())


@app.command()
def held(
    name: Annotated[str | None, typer.Argument(help="Only this agent.")] = None,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show the keys whose events wait, and why: a retry, a dead letter that parks it, a reducer that raised."""
    import msgspec

    async def run() -> None:
        async with opened(url, namespace) as spine:
            found = await spine.held_keys(name)
        write_rows(map(msgspec.structs.asdict, found), HELD, chosen(output), nothing="no key is held")

    execute(run())


@app.command()
def pause(name: Name, url: Url = None, namespace: Namespace = None) -> None:
    """Let the workers of an agent take nothing more, until `resume`; what runs is finished."""

    async def run() -> None:
        async with opened(url, namespace) as spine:
            await spine.pause(name)
        say(f"{name} is paused")

    execute(run())


@app.command()
def resume(name: Name, url: Url = None, namespace: Namespace = None) -> None:
    """Let a paused agent go on."""

    async def run() -> None:
        async with opened(url, namespace) as spine:
            await spine.resume(name)
        say(f"{name} goes on")

    execute(run())


@app.command()
def remove(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Even while workers of it are alive.")] = False,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Forget a retired agent, and free what it pins: its states, holds, dead letters and unread events."""

    async def run() -> None:
        async with opened(url, namespace) as spine:
            deleted = await spine.remove_agent(name, force=force)
        say(f"{name} is removed ({deleted:,} keys)")

    execute(run())


def lag(
    agent: Annotated[str | None, typer.Argument(help="Only this agent.")] = None,
    most: Annotated[
        int | None, typer.Option("--max", min=0, help="End with 5 when an agent has more before it.")
    ] = None,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show what each agent has before it: not taken, in hand, of held keys."""

    async def run() -> None:
        async with opened(url, namespace) as spine:
            found = await spine.lag(agent)
        rows: dict[str, dict[str, Any]] = {}
        for one in found:
            row = rows.setdefault(
                one.agent, {"agent": one.agent, "lag": 0, "not_taken": 0, "pending": 0, "waiting": 0, "first": None}
            )
            row["lag"] += one.total
            row["not_taken"] += one.not_taken
            row["pending"] += one.pending
            row["waiting"] += one.waiting
            row["first"] = min((seq for seq in (row["first"], one.first) if seq is not None), default=None)
        columns = ("agent", "lag", "not_taken", "pending", "waiting", "first")
        write_rows(rows.values(), columns, chosen(output), nothing="no agent ever ran here")
        behind = [name for name, row in rows.items() if most is not None and row["lag"] > most]
        if behind:
            fail(f"more than {most:,} events before: {', '.join(behind)}", CHECK_FAILED)

    execute(run())


def cancel(
    correlation: Annotated[str, typer.Option("--correlation", "-C", help="What to cancel.")],
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Cancel a correlation: what is not yet handled or due never will be, running handlers are cancelled."""

    async def run() -> None:
        async with opened(url, namespace) as spine:
            head = await spine.cancel(correlation)
            stored = await spine.history(correlation=correlation, limit=1)
        known = "" if stored else ", of which no event is stored: is it spelled right?"
        say(f"{correlation} is cancelled up to seq {head}{known}")

    execute(run())


def _table(found: list[Any]) -> Iterable[dict[str, Any]]:
    from spine.events import from_ms

    for one in found:
        base = {
            "agent": one.name,
            "version": one.version,
            "state": "paused" if one.paused else "running" if one.workers else "stopped",
            "dead": one.dead,
            "held": one.held,
        }
        if not one.workers:
            yield {**base, "partitions": "none held"}
        for worker in one.workers:
            yield {
                **base,
                "version": worker.version,
                "worker": worker.worker,
                "host": worker.host,
                "pid": worker.pid,
                "since": from_ms(worker.started_ms).astimezone().strftime("%m-%d %H:%M:%S"),
                "partitions": " ".join(map(str, worker.partitions)) or "standing by",
            }


def _records(found: list[Any]) -> Iterable[dict[str, Any]]:
    import msgspec

    for one in found:
        yield msgspec.to_builtins(one)
