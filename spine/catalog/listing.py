"""Who publishes a type and who handles it: from what happened, what agents declare, and who is subscribed."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from typing import Any

import msgspec

from spine.bus.subscribers import Subscribers
from spine.catalog.stored import Known, load
from spine.client import Spine
from spine.codec import decode_entry
from spine.connection import Argument
from spine.delivery.records import Done
from spine.errors import DecodeError
from spine.events import Event
from spine.keys import partition_of
from spine.log.streams import Stream
from spine.names import RESERVED, matcher

SAMPLE = 100
DONE_SAMPLE = 20
HANDLED = frozenset({"done", "dead"})


class Field(msgspec.Struct, frozen=True):
    """A field of a payload.

    Attributes:
        name: its name.
        kind: its type, as a JSON schema names it.
        required: whether it is always there.
    """

    name: str
    kind: str
    required: bool

    def __str__(self) -> str:
        return f"{self.name}{'' if self.required else '?'}: {self.kind}"


class TypeListing(msgspec.Struct, frozen=True, kw_only=True):
    """A type, and who has to do with it.

    Attributes:
        type: its name.
        known: what the catalogue says of it; ``None`` when it is not in the catalogue.
        fields: of the payload; those seen, where there is no model.
        events: how many are in the log under the type's own topic.
        last: when the newest of them was stored.
        publishers: sources of the newest events.
        handlers: agents that declare a handler for it, and who is subscribed to it on the bus now.
        handled_by: agents that handled one of the newest events.
    """

    type: str
    known: Known | None
    fields: tuple[Field, ...]
    events: int
    last: datetime | None
    publishers: tuple[str, ...]
    handlers: tuple[str, ...]
    handled_by: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values."""
        known = None if self.known is None else msgspec.structs.asdict(self.known)
        value = {name: getattr(self, name) for name in self.__struct_fields__ if name != "known"}
        for name in ("version", "model", "description", "schema"):
            value[name] = None if known is None else known[name]
        builtins: dict[str, Any] = msgspec.to_builtins(value)
        return builtins


class _Seen(msgspec.Struct):
    """What the newest events of one type tell."""

    events: list[Event[Any]] = []
    stored: int = 0


async def list_types(spine: Spine, *, sample: int = SAMPLE) -> list[TypeListing]:
    """Return every type that is in the catalogue, was published, or is declared by an agent, by name.

    What happened is read off the newest `sample` events of each stream.
    """
    known = await load(spine.server)
    seen = await _newest(spine, sample)
    agents = await _declarations(spine)
    subscribers = await Subscribers(spine.server).all()
    declared = {name for handles in agents.values() for name in handles if "*" not in name}
    found = []
    for name in sorted({*known, *seen, *declared}):
        here = seen.get(name, _Seen())
        handlers = {agent for agent, handles in agents.items() if handles and matcher(handles)(name)}
        handlers |= {subscriber.name for subscriber in subscribers if subscriber.hears(name)}
        found.append(
            TypeListing(
                type=name,
                known=known.get(name),
                fields=_model_fields(known[name].schema) if name in known else _seen_fields(here.events),
                events=here.stored,
                last=max((event.ts for event in here.events), default=None),
                publishers=tuple(sorted({event.source for event in here.events})),
                handlers=tuple(sorted(handlers)),
                handled_by=await _handled_by(spine, list(agents), here.events),
            )
        )
    return found


async def _newest(spine: Spine, sample: int) -> dict[str, _Seen]:
    await spine.streams.refresh()
    places: list[tuple[Stream, str]] = []
    commands: list[tuple[Argument, ...]] = []
    for stream in spine.streams.all():
        if stream.topic.startswith(RESERVED):
            continue
        for partition in range(spine.server.partitions):
            key = spine.streams.key(partition, stream)
            places.append((stream, key))
            commands += (("XLEN", key), ("XREVRANGE", key, "+", "-", "COUNT", sample))
    replies = await spine.server.commands(*commands)
    found: dict[str, _Seen] = defaultdict(_Seen)
    for place, (stream, _) in enumerate(places):
        if not stream.is_inbox:
            found[stream.topic].stored += replies[2 * place]
        for entry in replies[2 * place + 1]:
            try:
                event = decode_entry(stream.topic, entry)
            except DecodeError:  # delivery and doctor report it
                continue
            found[event.type].events.append(event)
    return found


async def _declarations(spine: Spine) -> dict[str, list[str]]:
    declared = await spine.server.hash(spine.server.keys.agents)
    return {name: json.loads(raw)["handles"] for name, raw in declared.items()}


async def _handled_by(spine: Spine, agents: list[str], events: list[Event[Any]]) -> tuple[str, ...]:
    keys, partitions = spine.server.keys, spine.server.partitions
    newest = sorted(events, key=lambda event: -event.seq)[:DONE_SAMPLE]
    asked = [(agent, event) for agent in agents for event in newest]
    replies = await spine.server.commands(
        *(
            ("HGET", keys.done(agent, partition_of(event.key, partitions), event.seq), event.seq)
            for agent, event in asked
        )
    )
    handled = {
        agent
        for (agent, _), reply in zip(asked, replies, strict=True)
        if reply and Done.decode(reply).outcome in HANDLED
    }
    return tuple(sorted(handled))


def _model_fields(schema: dict[str, Any]) -> tuple[Field, ...]:
    required = schema.get("required", ())
    return tuple(Field(name, _kind(part), name in required) for name, part in schema.get("properties", {}).items())


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if choice := schema.get("anyOf") or schema.get("oneOf"):
        return " | ".join(dict.fromkeys(_kind(part) for part in choice))
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        places = schema.get("prefixItems") or [schema.get("items", {})]
        return f"[{', '.join(map(_kind, places))}]"
    return str(schema.get("format") or schema.get("type") or "any")


_JSON_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


def _seen_fields(events: list[Event[Any]]) -> tuple[Field, ...]:
    kinds: dict[str, dict[str, None]] = defaultdict(dict)
    counts: dict[str, int] = defaultdict(int)
    for event in events:
        for name, value in event.payload.items():
            kinds[name][_JSON_KINDS.get(type(value), "null" if value is None else type(value).__name__)] = None
            counts[name] += 1
    return tuple(Field(name, " | ".join(kinds[name]), counts[name] == len(events)) for name in kinds)
