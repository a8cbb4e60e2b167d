"""Gates of a fork: the arrivals that waited at its moment are handled again there, which opens the same rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from spine.connection import Argument, Server
from spine.coordination.gate import TIME_OUT
from spine.delivery.records import Done
from spine.events import Event
from spine.keys import partition_of
from spine.log.reader import Reader, Selection


class Arrival(msgspec.Struct, frozen=True, order=True, gc=False):
    """An event that a gate has handled, in the order in which that happened.

    Attributes:
        position: the place in the log's history of its commit.
        start_ms: when it was handled.
        seq: of the event.
        gate: name of the gate.
        key: of the event.
        type: of the event; empty for a time-out.
        ts_ms: of the event.
        began: of a time-out: the seq of the arrival that began its round.
    """

    position: int
    start_ms: int
    seq: int
    gate: str
    key: str
    type: str
    ts_ms: int
    began: int = 0


class _Round(msgspec.Struct):
    began: int
    until_ms: float
    arrived: dict[str, int]


def still_waiting(
    conditions: Mapping[str, frozenset[str]], within_s: Mapping[str, float | None], handled: Iterable[Arrival]
) -> set[int]:
    """Return the seqs of the arrivals that wait in a round still, once all of `handled` were.

    What a gate waits for, and for how long, goes by its name. It decides as `spine.coordination.gate.decide` does.
    """
    rounds: dict[tuple[str, str], _Round] = {}
    for one in sorted(handled):
        place = (one.gate, one.key)
        found = rounds.get(place)
        if not one.type:
            if found is not None and found.began == one.began:
                del rounds[place]
        elif found is None or one.ts_ms > found.until_ms:
            limit_s = within_s[one.gate]
            until_ms = float("inf") if limit_s is None else one.ts_ms + round(limit_s * 1000)
            rounds[place] = _Round(one.seq, until_ms, {one.type: one.seq})
        elif conditions[one.gate] <= {*found.arrived, one.type}:
            del rounds[place]
        else:
            found.arrived[one.type] = max(one.seq, found.arrived.get(one.type, 0))
    return {seq for found in rounds.values() for seq in {found.began, *found.arrived.values()}}


async def waiting_at(reader: Reader, name: str, declared: Mapping[str, Any], at: int) -> set[int]:
    """Return the seqs of the arrivals that waited in a gate of agent `name` at seq `at`."""
    gates: dict[str, tuple[list[str], float | None]] = declared.get("gates", {})
    if not gates:
        return set()
    gate_of = {condition: gate for gate, (conditions, _) in gates.items() for condition in conditions}
    types = (*gate_of, *(TIME_OUT + gate for gate in gates))
    handled: list[Arrival] = []
    async with aclosing(reader.batches(Selection(types=types), 0, at)) as batches:
        async for events in batches:
            mine = [event for event in events if event.topic in (event.type, f"@{name}")]
            handled += await _handled(reader.server, name, gate_of, mine, at)
    conditions = {gate: frozenset(declared_types) for gate, (declared_types, _) in gates.items()}
    return still_waiting(conditions, {gate: within_s for gate, (_, within_s) in gates.items()}, handled)


async def _handled(
    server: Server, name: str, gate_of: Mapping[str, str], events: list[Event[Any]], at: int
) -> list[Arrival]:
    commands: list[tuple[Argument, ...]] = [
        ("HGET", server.keys.done(name, partition_of(event.key, server.partitions), event.seq), event.seq)
        for event in events
    ]
    found = []
    for event, raw in zip(events, await server.commands(*commands), strict=True):
        done = None if raw is None else Done.decode(raw)
        if done is None or done.outcome != "done" or done.position > at:
            continue
        is_arrival = event.type in gate_of
        found.append(
            Arrival(
                done.position,
                done.start_ms,
                event.seq,
                gate_of[event.type] if is_arrival else event.type.removeprefix(TIME_OUT),
                event.key,
                event.type if is_arrival else "",
                event.ts_ms,
                0 if is_arrival else int(event.payload["seq"]),
            )
        )
    return found
