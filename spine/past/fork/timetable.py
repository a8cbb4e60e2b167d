"""The timetable of a fork: what was scheduled at its moment, whether or not it has been appended since."""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import aclosing
from typing import Any

from spine.codec import encode_event
from spine.connection import Argument
from spine.delivery.records import Done
from spine.events import Event
from spine.faults import fault
from spine.keys import Keys, partition_of
from spine.log.reader import Reader, Selection
from spine.timers import encode_scheduled, read_scheduled

_GATHERED = frozenset({"answers", "missing", "partial"})


class ForkedTimetable:
    """Copies what was scheduled at a seq.

    What a handler scheduled is known by its commit, what a client did by the time. An event that was due since stands
    in the log, and is due at once in the fork. Not known is what a client scheduled that was due since, and what was
    cancelled since. A gather is not continued: its questions were put to the agents of the original.

    Args:
        reader: of the log of the original namespace.
        to: keys of the fork.
        at: the last number of the fork's history.
        again: (agent, seq) of what is handled again, and schedules what it schedules again.
    """

    def __init__(self, reader: Reader, to: Keys, at: int, again: Container[tuple[str, int]]) -> None:
        self._server = reader.server
        self._reader = reader
        self._from = reader.server.keys
        self._to = to
        self._at = at
        self._again = again

    async def copy(self) -> None:
        """Copy it; what is there already is written once more."""
        await self._copy_waiting()
        fault("fork.timetable")
        async with aclosing(self._reader.batches(Selection(), self._at, await self._reader.head())) as batches:
            async for events in batches:
                await self._copy_appended(events)

    async def _copy_waiting(self) -> None:
        moment_ms = await self._time_of_next()
        due = await self._server.command("ZRANGE", self._from.due, 0, -1, "WITHSCORES")
        for i in range(0, len(due), 2):
            raw = await self._server.command("HGET", self._from.scheduled, due[i])
            stored = None if raw is None else read_scheduled(raw)
            if stored is None:
                continue
            envelope, since_ms = stored
            cause = envelope.context.causation
            if since_ms > moment_ms if cause is None else not await self._was_committed(envelope.source, cause):
                continue
            await self._keep(due[i], raw, float(due[i + 1]))

    async def _time_of_next(self) -> float:
        """Return the time of the first event that is not in the fork: what was scheduled later is not, either."""
        async with aclosing(self._reader.batches(Selection(), self._at, await self._reader.head())) as batches:
            async for events in batches:
                for event in events:
                    return event.ts_ms
        return float("inf")

    async def _copy_appended(self, events: Iterable[Event[Any]]) -> None:
        for event in events:
            cause = event.context.causation
            if cause is None or cause > self._at or event.payload.keys() >= _GATHERED:
                continue
            if await self._was_committed(event.source, cause):
                await self._keep(event.id, _stored(event, self._server.partitions), event.ts_ms)

    async def _was_committed(self, agent: str, seq: int) -> bool:
        """Tell whether an agent's handling of an event was committed by then, and stays so in the fork."""
        if (agent, seq) in self._again:
            return False
        places = [self._from.done(agent, partition, seq) for partition in range(self._server.partitions)]
        commands: list[tuple[Argument, ...]] = [("HGET", place, seq) for place in places]
        found = [Done.decode(raw) for raw in await self._server.commands(*commands) if raw is not None]
        return bool(found) and found[0].position <= self._at

    async def _keep(self, name: bytes | str, raw: bytes, due_ms: float) -> None:
        await self._server.commands(("HSET", self._to.scheduled, name, raw), ("ZADD", self._to.due, due_ms, name))


def _stored(event: Event[Any], partitions: int) -> bytes:
    lane, partition = int(event.context.priority), partition_of(event.key, partitions)
    return encode_scheduled(event.topic, lane, partition, encode_event(event))
