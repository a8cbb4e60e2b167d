"""Who needs which events of the log still: what is not handled, and what folds a state of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from spine.connection import Argument, Server
from spine.delivery.holds import Listed
from spine.delivery.leases import survey
from spine.delivery.records import decode_dead
from spine.log.streams import Stream, Streams
from spine.names import matcher
from spine.state.fold import Reducing

PROJECTIONS = "projections"


class Blocker(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Something that still needs an event.

    Attributes:
        seq: the first event that it needs.
        partition: where that stands.
        agent: who needs it.
        why: for what.
    """

    seq: int
    partition: int
    agent: str
    why: str


class Folding(msgspec.Struct, frozen=True, kw_only=True):
    """One version of something that keeps states.

    Attributes:
        name: of the agent or projection.
        version: of it.
        patterns: the types that it folds.
        kind: its class, where the caller brought it.
        position: a projection's: everything up to here is in its stored states.
        is_global: it has a single state.
    """

    name: str
    version: str
    patterns: tuple[str, ...]
    kind: type[Reducing[Any]] | None = None
    position: int | None = None
    is_global: bool = False

    def folds(self, topic: str, event_type: str) -> bool:
        """Tell whether an event is part of its states."""
        return topic in (event_type, f"@{self.name}") and matcher(self.patterns)(event_type)


class Stakes:
    """Looks up who needs what in one namespace.

    Args:
        server: the way to the server.
        streams: of the namespace.
        kinds: classes at hand, by name: their states can be folded here.
    """

    def __init__(self, server: Server, streams: Streams, kinds: Mapping[str, type[Reducing[Any]]]) -> None:
        self._server = server
        self._streams = streams
        self._kinds = kinds

    async def folding(self) -> list[Folding]:
        """Return what keeps states: of each agent and projection the newest version and those at work."""
        found = []
        for name, declared in (await self._declared(self._server.keys.agents)).items():
            if declared.get("reduces"):
                known = await survey(self._server, name)
                versions = {*known.versions[-1:], *(info.version for info in known.workers.values())}
                found += [self._folding(name, version, declared) for version in sorted(versions)]
        for name, declared in (await self._declared(self._server.keys.own(PROJECTIONS))).items():
            is_global = declared["scope"] == "global"
            for version, position in (await self._positions(name, declared["version"])).items():
                folding = self._folding(name, version, declared)
                found.append(msgspec.structs.replace(folding, position=position, is_global=is_global))
        return found

    async def _positions(self, name: str, newest: str) -> dict[str, int]:
        """Return how far versions of a projection are stored: the one that began last, and those that are served."""
        keys = self._server.keys
        stored = await self._server.hash(keys.own("position", name))
        others = [version for version in stored if version != newest]
        until = await self._server.commands(
            *(("HGET", keys.lease(f"{name}:{version}", 0), "until") for version in others)
        )
        served = [version for version, at in zip(others, until, strict=True) if int(at or 0) > self._server.now_ms()]
        return {version: int(stored.get(version, 0)) for version in (newest, *served)}

    def _folding(self, name: str, version: str, declared: Mapping[str, Any]) -> Folding:
        kind = self._kinds.get(name)
        return Folding(
            name=name,
            version=version,
            patterns=tuple(declared["reduces"]),
            kind=kind if kind is not None and kind.version == version else None,
        )

    async def not_handled(self) -> list[Blocker]:
        """Return for each partition and agent the first event that is not handled, and why."""
        await self._streams.refresh()
        found: list[Blocker] = []
        for name, declared in (await self._declared(self._server.keys.agents)).items():
            for partition in range(self._server.partitions):
                found += await self._not_delivered(name, declared, partition)
                found += await self._waiting(name, partition)
            found += await self._dead(name)
        return found

    async def _declared(self, key: str) -> dict[str, dict[str, Any]]:
        return {name: json.loads(raw) for name, raw in (await self._server.hash(key)).items()}

    async def _not_delivered(self, name: str, declared: Mapping[str, Any], partition: int) -> list[Blocker]:
        streams = read_by(name, declared, self._streams.all())
        if not streams:
            return []
        starts = await read_starts(self._server, name)
        args: list[Argument] = [name, 1, *(f"{start_of(starts, stream.topic)}-0" for stream in streams)]
        answers = await self._server.run("lag", [self._streams.key(partition, stream) for stream in streams], args)
        return [
            Blocker(
                seq=int(first.partition(b"-")[0]),
                partition=partition,
                agent=name,
                why=f"{stream.topic} is {'taken, but not handled' if pending else 'not taken yet'}",
            )
            for stream, (_, pending, first) in zip(streams, answers, strict=True)
            if first
        ]

    async def _waiting(self, name: str, partition: int) -> list[Blocker]:
        keys = self._server.keys
        held = [key.decode() for key in await self._server.command("HKEYS", keys.holds(name, partition))]
        lists = await self._server.commands(*(("LRANGE", keys.waiting(name, partition, key), 0, -1) for key in held))
        return [
            Blocker(
                seq=min(Listed.parse(raw).seq for raw in listed),
                partition=partition,
                agent=name,
                why=f"key {key!r} is held",
            )
            for key, listed in zip(held, lists, strict=True)
            if listed
        ]

    async def _dead(self, name: str) -> list[Blocker]:
        raw = await self._server.command("HVALS", self._server.keys.dead(name))
        letters = [letter for letter in map(decode_dead, raw) if not letter.entry_id]
        return [
            Blocker(seq=letter.seq, partition=letter.partition, agent=name, why="a dead letter: redrive or discard it")
            for letter in letters
        ]


def read_by(name: str, declared: Mapping[str, Any], streams: Iterable[Stream]) -> list[Stream]:
    """Return which of `streams` an agent reads, by its declaration."""
    patterns = (*declared.get("handles", ()), *declared.get("reduces", ()))
    matches = matcher(patterns) if patterns else lambda topic: False
    return [
        stream
        for stream in streams
        if stream.topic == f"@{name}" or (not stream.topic.startswith(("@", "spine.")) and matches(stream.topic))
    ]


async def read_starts(server: Server, agent: str) -> dict[str, int]:
    """Return, for each pattern that an agent ever declared, the seq after which it is read."""
    fields = await server.hash(server.keys.agent(agent))
    return {field.removeprefix("from:"): int(seq) for field, seq in fields.items() if field.startswith("from:")}


def start_of(starts: Mapping[str, int], topic: str) -> int:
    """Return the seq after which an agent reads a topic."""
    return min((seq for pattern, seq in starts.items() if matcher((pattern,))(topic)), default=0)
