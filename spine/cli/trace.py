"""``trace``: what followed from one request."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from spine.cli.exits import FAILED
from spine.cli.options import Format, Namespace, Output, Url
from spine.cli.output import Records, chosen, destination, fail, printable, stdout, to_json
from spine.cli.running import PATIENCE_S, execute

if TYPE_CHECKING:
    from rich.text import Text

    from spine.trace import Node, Trace


def trace(
    correlation: Annotated[str, typer.Argument(help="The correlation id, as events carry it.")],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A sequence diagram in mermaid's language.")] = False,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Show what followed from one request: which event caused which, who published it, when.

    spine trace c-1 --mermaid > c-1.mmd
    """
    from spine.client import Spine
    from spine.trace import build
    from spine.trace import mermaid as diagram

    async def run() -> Trace:
        async with Spine(url, namespace=namespace, name="cli", patience_s=PATIENCE_S) as spine:
            return build(correlation, [event async for event in spine.replay(correlation=correlation)])

    found = execute(run())
    if not found.nodes:
        fail(f"no event has the correlation {correlation!r}", FAILED)
    if mermaid:
        sys.stdout.write(diagram(found))
    else:
        _write(found, chosen(output))


def _write(trace: Trace, output: Format) -> None:
    if output is Format.JSON:
        sys.stdout.write(to_json(trace.to_dict()).decode() + "\n")
    elif output is Format.NDJSON:
        with Records(output) as records:
            for node in trace.nodes:
                records.write(node.to_dict())
    else:
        _draw(trace)


def _draw(trace: Trace) -> None:
    from rich.tree import Tree

    title = f"[bold]{printable(trace.correlation)}[/]  {len(trace.nodes):,} events in {trace.duration_ms:,} ms"
    root = Tree(title, guide_style="dim")
    branches: dict[int, Tree] = {}
    for node in trace.walk():
        parent = branches.get(node.event.context.causation or 0, root) if node.depth else root
        branches[node.event.seq] = parent.add(_label(node))
    stdout().print(root, no_wrap=True, overflow="ellipsis", crop=True)


def _label(node: Node) -> Text:
    from rich.text import Text

    event = node.event
    return Text.assemble(
        (f"{event.seq}", "cyan"),
        "  ",
        (destination(event), "green"),
        f"  {printable(event.source)}",
        (f"  +{node.offset_ms:,} ms  ", "yellow"),
        (printable(to_json(event.to_dict()["payload"]).decode()), "dim"),
    )
