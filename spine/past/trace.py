"""What followed from one request: the events of a correlation as a tree of causes, who handled them, and when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

import msgspec

from spine.connection import Server
from spine.delivery.records import Done
from spine.events import Event
from spine.keys import partition_of
from spine.log.reader import Reader, Selection
from spine.names import check_key

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


async def read_trace(reader: Reader, correlation: str) -> Trace:
    """Return the trace of `correlation` as the log has it now, with what became of each event."""
    selection = Selection(correlation=check_key(correlation, "correlation"))  # what is left of it, however old it is
    async with aclosing(reader.forward(selection, 0, await reader.head())) as events:
        trace = build(correlation, [event async for event in events])
    for start in range(0, len(trace.nodes), CHUNK):
        await add_handled(reader.server, trace.nodes[start : start + CHUNK])
    return trace


async def add_handled(server: Server, nodes: Sequence[Node]) -> None:
    """Say of each of `nodes` which agents are done with it, and how that went."""
    keys, partitions = server.keys, server.partitions
    names: list[bytes] = await server.command("HKEYS", keys.agents)
    agents = sorted(name.decode() for name in names)
    wanted = [(node, agent) for node in nodes for agent in agents]
    commands = []
    for node, agent in wanted:
        seq = node.event.seq
        commands.append(("HGET", keys.done(agent, partition_of(node.event.key, partitions), seq), seq))
    for node in nodes:
        node.handled.clear()
    for (node, agent), raw in zip(wanted, await server.commands(*commands), strict=True):
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
