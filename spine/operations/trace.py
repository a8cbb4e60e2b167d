"""What followed from one request: the events of a correlation as a tree of causes, who handled them, and when."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

import msgspec

from spine.client import Spine
from spine.delivery.records import Done
from spine.events import Event
from spine.keys import partition_of
from spine.log.reader import Selection
from spine.log.streams import REPLIES
from spine.names import check_key

LOG = "log"
CHUNK = 500


class Handled(msgspec.Struct, frozen=True, kw_only=True):
    """How one agent dealt with an event.

    Attributes:
        agent: which one.
        worker: which of its workers.
        outcome: see `spine.delivery.records.Done`.
        waited_ms: from when the event was stored to when its last attempt began.
        worked_ms: how long that attempt took.
        attempts: how many there were.
    """

    agent: str
    worker: str
    outcome: str
    waited_ms: int
    worked_ms: float
    attempts: int


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a trace.

    Attributes:
        event: the event.
        depth: how many causes of it are in the trace.
        offset_ms: time since the first event of the trace.
        children: what it caused, in the order of the numbers.
        handled: which agents are done with it.
    """

    event: Event[Any]
    depth: int
    offset_ms: int
    children: list[Node] = []
    handled: list[Handled] = []

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON-ready values, with its place in the trace."""
        return {
            **self.event.to_dict(),
            "causation": self.event.context.causation,
            "depth": self.depth,
            "offset_ms": self.offset_ms,
            "handled": msgspec.to_builtins(self.handled),
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


class Tracer:
    """Gives each event of a correlation its place, as they come in the order of their numbers."""

    def __init__(self) -> None:
        self._began: datetime | None = None
        self.nodes: dict[int, Node] = {}
        self.roots: list[Node] = []

    def add(self, event: Event[Any]) -> Node:
        """Return the place of `event`."""
        self._began = self._began or event.ts
        cause = self.nodes.get(event.context.causation or 0)
        offset_ms = round((event.ts - self._began).total_seconds() * 1000)
        depth = 0 if cause is None else cause.depth + 1
        node = Node(event=event, depth=depth, offset_ms=offset_ms, children=[], handled=[])
        (self.roots if cause is None else cause.children).append(node)
        self.nodes[event.seq] = node
        return node


def build(correlation: str, events: Iterable[Event[Any]]) -> Trace:
    """Return the trace that `events`, given in the order of their numbers, make up."""
    tracer = Tracer()
    for event in events:
        tracer.add(event)
    return Trace(correlation=correlation, nodes=list(tracer.nodes.values()), roots=tracer.roots)


async def read(spine: Spine, correlation: str) -> Trace:
    """Return the trace of `correlation` as the log has it now, with what became of each event."""
    selection = Selection(correlation=check_key(correlation, "correlation"))  # what is left of it, however old it is
    async with aclosing(spine.reader.forward(selection, 0, await spine.reader.head())) as events:
        trace = build(correlation, [event async for event in events])
    for start in range(0, len(trace.nodes), CHUNK):
        await add_handled(spine, trace.nodes[start : start + CHUNK])
    return trace


async def add_handled(spine: Spine, nodes: Sequence[Node]) -> None:
    """Say of each of `nodes` which agents are done with it, and how that went."""
    keys, partitions = spine.server.keys, spine.server.partitions
    names: list[bytes] = await spine.server.command("HKEYS", keys.agents)
    agents = sorted(name.decode() for name in names)
    wanted = [(node, agent) for node in nodes for agent in agents]
    commands = []
    for node, agent in wanted:
        seq = node.event.seq
        commands.append(("HGET", keys.done(agent, partition_of(node.event.key, partitions), seq), seq))
    for node in nodes:
        node.handled.clear()
    for (node, agent), raw in zip(wanted, await spine.server.commands(*commands), strict=True):
        if raw is not None:
            node.handled.append(_handled(node.event, agent, Done.decode(raw)))


def _handled(event: Event[Any], agent: str, done: Done) -> Handled:
    return Handled(
        agent=agent,
        worker=done.worker,
        outcome=done.outcome,
        waited_ms=max(0, done.start_ms - event.ts_ms),
        worked_ms=done.duration_ms,
        attempts=done.attempt,
    )


class Arrow(msgspec.Struct, frozen=True):
    """One line of a sequence diagram.

    Attributes:
        source: who published the event.
        receiver: who handled it, published something because of it, is to have it, or the log.
        node: the event.
        handled: what the receiver did with it, where it is done.
    """

    source: str
    receiver: str
    node: Node
    handled: Handled | None

    @property
    def is_answer(self) -> bool:
        """Tell whether it goes back to who asked."""
        return self.node.event.topic == REPLIES

    def says(self, type: str) -> str:
        """Return what stands beside it."""
        return f"{self.node.event.seq} {type} (+{self.node.offset_ms} ms{_told(self.handled)})"


def arrows(trace: Trace) -> list[Arrow]:
    """Return what happened as arrows between participants, in the order of the numbers.

    An arrow goes from the source of an event to each that handled it or published something because of it, to the
    owner of the inbox it went to, to the asker when it is an answer, or to the log where nobody acted on it yet.
    """
    sources = {node.event.seq: node.event.source for node in trace.nodes}
    found = []
    for node in trace.nodes:
        handled = {one.agent: one for one in node.handled if one.outcome != "folded"}
        for receiver in _receivers(node, handled, sources):
            found.append(Arrow(node.event.source, receiver, node, handled.get(receiver)))
    return found


def participants(found: Iterable[Arrow]) -> list[str]:
    """Return who is at the ends of arrows, in the order of their appearance."""
    return list(dict.fromkeys(name for arrow in found for name in (arrow.source, arrow.receiver)))


def mermaid(trace: Trace) -> str:
    """Return `trace` as a mermaid sequence diagram; see `arrows`."""
    found = arrows(trace)
    names = {name: f"p{place}" for place, name in enumerate(participants(found))}
    lines = ["sequenceDiagram", *(f"    participant {short} as {_safe(name)}" for name, short in names.items())]
    for arrow in found:
        line = "-)" if arrow.receiver == LOG else "-->>" if arrow.is_answer else "->>"
        lines.append(
            f"    {names[arrow.source]}{line}{names[arrow.receiver]}: {arrow.says(_safe(arrow.node.event.type))}"
        )
    return "\n".join(lines) + "\n"


def sequence(trace: Trace) -> str:
    """Return `trace` as a sequence diagram of plain characters, a column for each participant; see `arrows`."""
    found = arrows(trace)
    names = participants(found)
    width = max((len(name) + 2 for name in names), default=0)
    places = {name: place * width + width // 2 for place, name in enumerate(names)}
    lines = ["".join(name.center(width) for name in names).rstrip()]
    for arrow in found:
        begin, end = places[arrow.source], places[arrow.receiver]
        row = [" "] * (width * len(names))
        for place in places.values():
            row[place] = "│"
        for place in range(min(begin, end) + 1, max(begin, end)):
            row[place] = "╌" if arrow.is_answer else "─"
        if begin == end:
            row[begin] = "↻"
        else:
            row[begin], row[end] = ("├", "▶") if begin < end else ("┤", "◀")
        lines.append(f"{''.join(row)}  {arrow.says(arrow.node.event.type)}")
    return "\n".join(lines) + "\n" if found else ""


def _told(handled: Handled | None) -> str:
    if handled is None:
        return ""
    tries = f", attempt {handled.attempts}" if handled.attempts > 1 else ""
    outcome = "" if handled.outcome == "done" else f", {handled.outcome}"
    return f", waited {handled.waited_ms} ms, worked {handled.worked_ms:.3g} ms{tries}{outcome}"


def _receivers(node: Node, handled: Mapping[str, Handled], sources: Mapping[int, str]) -> list[str]:
    event = node.event
    found: dict[str, Handled | None] = dict.fromkeys(handled)
    found |= dict.fromkeys(child.event.source for child in node.children)
    if event.topic.startswith("@"):
        found.setdefault(event.topic.removeprefix("@"), None)
    asker = sources.get(event.context.causation or 0)
    if event.topic == REPLIES and asker is not None:
        found.setdefault(asker, None)
    return list(found) or [LOG]


def _safe(name: str) -> str:
    """Names that are not of ours may hold what mermaid takes for syntax."""
    return re.sub(r"[^\w.@-]", "_", name)
