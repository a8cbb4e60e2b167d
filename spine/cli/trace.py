"""``trace``: what followed from one request."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spine.cli.exits import DONE, FAILED, INTERRUPTED
from spine.cli.options import Format, Namespace, Output, Url
from spine.cli.output import Records, chosen, destination, fail, printable, stdout, to_json
from spine.cli.running import execute, following, opened

if TYPE_CHECKING:
    from rich.text import Text

    from spine.client import Spine
    from spine.past.trace import Handled, Node, Trace, Tracer

GOOD = frozenset({"done", "folded"})
FOLLOWED = 500
SHOWN_ALIKE = 10
DEEPEST = 30  # a tree moves no further to the right
LOOK_EVERY_S = 0.3


def trace(
    correlation: Annotated[str, typer.Argument(help="The correlation id, as events carry it.")],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A sequence diagram in mermaid's language.")] = False,
    diagram: Annotated[bool, typer.Option("--sequence", help="A sequence diagram.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every event, where many of a kind would be one line.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until Ctrl-C.")] = False,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show what followed from one request: which event caused which, who handled it, how long it waited.

    spine trace c-1 --mermaid > c-1.mmd
    """
    from rich.text import Text

    from spine.cli import diagrams

    if diagram and mermaid:
        raise typer.BadParameter("--sequence and --mermaid exclude each other")
    if follow and (diagram or mermaid or output is Format.JSON):
        raise typer.BadParameter("--follow goes with a table or ndjson")

    async def run() -> None:
        if follow:
            async with following(url, namespace) as spine:
                await _follow(spine, correlation, chosen(output))
                return
        async with opened(url, namespace) as spine:
            found = await spine.trace(correlation)
        if not found.nodes:
            fail(f"no event has the correlation {correlation!r}", FAILED)
        if mermaid:
            sys.stdout.write(diagrams.mermaid(found))
        elif diagram:
            for line in diagrams.sequence(found).splitlines():
                stdout().print(Text(printable(line)), no_wrap=True, overflow="ellipsis", crop=True)
        else:
            _write(found, chosen(output), every=every)

    execute(run(), interrupted=DONE if follow else INTERRUPTED)


async def _follow(spine: Spine, correlation: str, output: Format) -> None:
    """Show events as they come, and what became of them as soon as that is written down."""
    from spine.past.trace import Tracer

    tracer, console = Tracer(), stdout()
    with Records(output, live=True) as records:

        def tell(record: dict[str, Any], line: Text, depth: int) -> None:
            if output is Format.NDJSON:
                records.write(record)
            else:
                line.pad_left(2 * depth)
                console.print(line, no_wrap=True, overflow="ellipsis", crop=True)

        async def events() -> None:
            async for event in spine.tail(correlation=correlation, after=0):
                node = tracer.add(event)
                tell(node.to_dict(), _label(node), node.depth)

        tasks = [asyncio.create_task(events()), asyncio.create_task(_outcomes(spine, tracer, tell))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _outcomes(spine: Spine, tracer: Tracer, tell: Callable[[dict[str, Any], Text, int], None]) -> None:
    """Tell of every handling of the latest events, once each."""
    import msgspec
    from rich.text import Text

    from spine.past.trace import add_handled

    told: set[tuple[int, str]] = set()
    while True:
        nodes = list(tracer.nodes.values())[-FOLLOWED:]
        await add_handled(spine.server, nodes)
        for node in nodes:
            for handled in node.handled:
                if (node.event.seq, handled.agent) not in told:
                    told.add((node.event.seq, handled.agent))
                    record = {"seq": node.event.seq, **msgspec.structs.asdict(handled)}
                    style = "" if handled.outcome in GOOD else "bold red"
                    tell(record, Text(f"{node.event.seq}  {_outcome(handled)}", style=style), node.depth + 1)
        await asyncio.sleep(LOOK_EVERY_S)


def _write(trace: Trace, output: Format, *, every: bool) -> None:
    if output is Format.JSON:
        sys.stdout.write(to_json(trace.to_dict()).decode() + "\n")
    elif output is Format.NDJSON:
        with Records(output) as records:
            for node in trace.nodes:
                records.write(node.to_dict())
    else:
        _draw(trace, every=every)


def _draw(trace: Trace, *, every: bool) -> None:
    from rich.text import Text
    from rich.tree import Tree

    title = Text(printable(trace.correlation), style="bold")
    title.append(f"  {len(trace.nodes):,} events in {trace.duration_ms:,} ms", style="not bold")
    root = Tree(title, guide_style="dim")
    under: dict[int, Tree] = {0: root}  # where what an event caused is drawn
    folded: list[tuple[Tree, list[Node]]] = []
    hidden: set[int] = set()

    def fold(place: Tree, children: list[Node]) -> None:
        for alike in [] if every else many_alike(children):
            folded.append((place, alike))
            hidden.update(node.event.seq for node in alike)

    fold(root, trace.roots)
    for node in trace.walk():
        if node.event.seq in hidden:
            continue
        parent = under.get(node.event.context.causation or 0, root) if node.depth else root
        deep = node.depth >= DEEPEST
        label = _label(node)
        branch = parent.add(Text(f"depth {node.depth:,}  ", style="dim").append(label) if deep else label)
        under[node.event.seq] = parent if deep else branch
        fold(under[node.event.seq], node.children)
    for place, alike in folded:
        first, last = alike[0].event, alike[-1].event
        place.add(Text(f"… {len(alike):,} more {printable(first.type)}, seq {first.seq} to {last.seq} (--all)", "dim"))
    stdout().print(root, no_wrap=True, overflow="ellipsis", crop=True)


def many_alike(children: list[Node]) -> list[list[Node]]:
    """Return the events that need not be seen one by one: of many of a type that the same agents all did well with."""
    kinds: dict[tuple[str, ...], list[Node]] = {}
    for node in children:
        if not node.children and all(one.outcome in GOOD and one.attempts == 1 for one in node.handled):
            kind = (node.event.type, *sorted(one.agent for one in node.handled))
            kinds.setdefault(kind, []).append(node)
    return [alike[SHOWN_ALIKE:] for alike in kinds.values() if len(alike) > 2 * SHOWN_ALIKE]


def _label(node: Node) -> Text:
    from rich.text import Text

    event = node.event
    label = Text.assemble(
        (f"{event.seq}", "cyan"),
        "  ",
        (destination(event), "green"),
        f"  {printable(event.source)}",
        (f"  +{node.offset_ms:,} ms", "yellow"),
    )
    for handled in node.handled:
        label.append(f"  {_outcome(handled)}", style="" if handled.outcome in GOOD else "bold red")
    label.append(f"  {printable(to_json(event.to_dict()['payload']).decode())}", style="dim")
    return label


def _outcome(handled: Handled) -> str:
    """Return in words what an agent did with an event."""
    tries = f", attempt {handled.attempts}" if handled.attempts > 1 else ""
    mark = "✓" if handled.outcome in GOOD else f"✗ {handled.outcome}:"
    return f"{mark} {handled.agent} {handled.worked_ms:,.3g} ms, waited {handled.waited_ms:,} ms{tries}"
