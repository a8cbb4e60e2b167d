"""What followed from one request: the events of a correlation as a tree of causes, and who spoke to whom."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from spine.events import Event

LOG = "log"


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a trace.

    Attributes:
        event: the event.
        depth: how many causes of it are in the trace.
        offset_ms: time since the first event of the trace.
        children: what it caused, in the order of the numbers.
    """

    event: Event[Any]
    depth: int
    offset_ms: int
    children: list[Node] = []

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON-ready values, with its place in the trace."""
        return {
            **self.event.to_dict(),
            "causation": self.event.context.causation,
            "depth": self.depth,
            "offset_ms": self.offset_ms,
        }


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one correlation.

    Attributes:
        correlation: the correlation id.
        nodes: all events, in the order of the numbers.
        roots: those whose cause is not in the trace.
    """

    correlation: str
    nodes: list[Node]
    roots: list[Node]

    @property
    def duration_ms(self) -> int:
        """Time from the first event to the last one."""
        return self.nodes[-1].offset_ms if self.nodes else 0

    def walk(self) -> Iterator[Node]:
        """Yield the nodes in the order of a tree: each one before what it caused."""
        waiting = self.roots[::-1]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.children[::-1]

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as JSON-ready values; the events stand in a flat list, each with its depth."""
        return {
            "correlation": self.correlation,
            "duration_ms": self.duration_ms,
            "events": [node.to_dict() for node in self.nodes],
        }


def build(correlation: str, events: Iterable[Event[Any]]) -> Trace:
    """Return the trace that `events`, given in the order of their numbers, make up."""
    nodes: dict[int, Node] = {}
    roots: list[Node] = []
    began = None
    for event in events:
        began = began or event.ts
        cause = nodes.get(event.context.causation or 0)
        offset_ms = round((event.ts - began).total_seconds() * 1000)
        node = Node(event=event, depth=0 if cause is None else cause.depth + 1, offset_ms=offset_ms, children=[])
        (roots if cause is None else cause.children).append(node)
        nodes[event.seq] = node
    return Trace(correlation=correlation, nodes=list(nodes.values()), roots=roots)


def mermaid(trace: Trace) -> str:
    """Return `trace` as a mermaid sequence diagram.

    An arrow goes from the source of an event to each that published something because of it, to the owner of the inbox
    it went to, or to the log where nobody acted on it yet.
    """
    arrows = [(node, receiver) for node in trace.nodes for receiver in _receivers(node)]
    names: dict[str, str] = {}
    for node, receiver in arrows:
        for name in (node.event.source, receiver):
            names.setdefault(name, f"p{len(names)}")
    lines = ["sequenceDiagram", *(f"    participant {short} as {_safe(name)}" for name, short in names.items())]
    for node, receiver in arrows:
        event = node.event
        arrow = "-)" if receiver == LOG else "->>"
        text = f"{event.seq} {_safe(event.type)} (+{node.offset_ms} ms)"
        lines.append(f"    {names[event.source]}{arrow}{names[receiver]}: {text}")
    return "\n".join(lines) + "\n"


def _receivers(node: Node) -> list[str]:
    found = dict.fromkeys(child.event.source for child in node.children)
    if node.event.topic.startswith("@"):
        found.setdefault(node.event.topic.removeprefix("@"), None)
    return list(found) or [LOG]


def _safe(name: str) -> str:
    """Names that are not of ours may hold what mermaid takes for syntax."""
    return re.sub(r"[^\w.@-]", "_", name)
