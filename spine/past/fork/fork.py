"""Forking: the history up to a moment in another namespace, to run on from there with other code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec

from spine.connection import FORMAT, INCOMPLETE, Argument
from spine.delivery.records import Done
from spine.errors import Misconfigured, ReplayGap, StateError
from spine.events import Event
from spine.faults import fault
from spine.keys import Keys, partition_of
from spine.log.floors import floors
from spine.log.reader import Reader, Selection
from spine.log.streams import SESSIONS
from spine.past.fork.agents import ForkedAgents
from spine.scan import scan
from spine.sessions import UPDATED, stored_changes

ENTRIES_A_CALL = 500
LISTS_A_CALL = 200


class Forked(msgspec.Struct, kw_only=True):
    """A fork that is complete.

    Attributes:
        namespace: where it is.
        at: the last number of the history in it; lower than asked for where that was in the middle of a commit.
        events: how many events the history has.
        open: agent → events that are delivered again.
        sessions: those whose state then could not be had: what made it was trimmed away.
    """

    namespace: str
    at: int
    events: int = 0
    open: dict[str, int] = {}
    sessions: list[str] = []


class Fork:
    """Copies the history of a namespace into another one on the same server.

    Nobody can open the other one until it is complete. Broken off at any moment, the same fork goes on.

    Args:
        reader: of the log of the namespace.
        namespace: the other one.
    """

    def __init__(self, reader: Reader, namespace: str) -> None:
        self._server = reader.server
        self._reader = reader
        self._streams = reader.streams
        self._from = reader.server.keys
        self._to = Keys(namespace)

    async def begun_at(self) -> int | None:
        """Return the moment of a fork that was begun and is not complete; ``None`` when there is none."""
        found_format, what = await self._server.command("HMGET", self._to.meta, "format", "fork_of")
        if found_format is None or what is None or found_format.decode() != INCOMPLETE:
            return None
        source, _, at = what.decode().rpartition(" ")
        return int(at) if source == self._from.namespace else None

    async def run(self, at: int, told: Callable[[int], None] = lambda events: None) -> Forked:
        """Copy everything up to seq `at`. Raises `Misconfigured` when the other namespace is another one's already."""
        at = await self._whole_commits(min(at, await self._reader.head()))
        gone = await floors(self._server)
        if at < max(gone.values(), default=0):
            raise ReplayGap(f"the events up to {max(gone.values())} were trimmed away: there is no history at {at}")
        await self._begin(at, gone)
        await self._streams.refresh()
        forked = Forked(namespace=self._to.namespace, at=at)
        forked.events = await self._copy_streams(at, told)
        fault("fork.streams")
        await self._copy_indexes(at)
        fault("fork.indexes")
        await self._copy_states(at)
        forked.sessions = await self._copy_sessions(at)
        fault("fork.states")
        forked.open = await ForkedAgents(self._reader, self._to, at).copy()
        fault("fork.agents")
        if (await floors(self._server), gone) != (gone, await self._floors_at_the_beginning()):
            raise StateError("the log was trimmed while it was copied: delete the fork, and make it anew")
        await self._end(at)
        return forked

    async def _whole_commits(self, at: int) -> int:
        """Return the last number at or before `at` that does not part what one commit stored."""
        event = await self._event(at + 1)
        cause = None if event is None else event.context.causation
        if event is None or cause is None:
            return at
        places = [self._from.done(event.source, n, cause) for n in range(self._server.partitions)]
        for raw in await self._server.commands(*(("HGET", place, cause) for place in places)):
            if raw is not None:
                done = Done.decode(raw)
                if done.position - done.events < at < done.position:
                    return done.position - done.events
        return at

    async def _event(self, seq: int) -> Event[Any] | None:
        """Return the event of a number as it was stored, ``None`` where there is none."""
        async with aclosing(self._reader.batches(Selection(), seq - 1, seq)) as batches:
            async for events in batches:
                return next(iter(events), None)
        return None

    async def _begin(self, at: int, gone: dict[int, int]) -> None:
        what = f"{self._from.namespace} {at}"
        known = await self._server.command("HMGET", self._to.meta, "format", "fork_of")
        if known[0] is None:
            fields: dict[str, Argument] = {**await self._server.hash(self._from.meta)}
            for name in ("retention", "importing"):
                fields.pop(name, None)
            fields |= {"format": INCOMPLETE, "fork_of": what, "fork_floors": msgspec.json.encode(gone)}
            await self._server.command("HSET", self._to.meta, *(item for pair in fields.items() for item in pair))
        elif known[0].decode() != INCOMPLETE or known[1] is None or known[1].decode() != what:
            raise Misconfigured(
                f"namespace {self._to.namespace!r} exists already, and is no unfinished fork of "
                f"{self._from.namespace!r} at {at}: choose another name"
            )
        fault("fork.begun")

    async def _floors_at_the_beginning(self) -> dict[int, int]:
        """Return what was trimmed of the log when the fork was begun, which may be long ago."""
        raw = await self._server.command("HGET", self._to.meta, "fork_floors")
        return msgspec.json.decode(raw, type=dict[int, int])

    # --- the log ---

    async def _copy_streams(self, at: int, told: Callable[[int], None]) -> int:
        count = 0
        for stream in self._streams.all():
            for partition in range(self._server.partitions):
                names = [keys.log(partition, stream.lane, stream.topic) for keys in (self._from, self._to)]
                while int(await self._server.run("fork_stream", names, [at, ENTRIES_A_CALL])) == ENTRIES_A_CALL:
                    fault("fork.stream")
                count += int(await self._server.command("XLEN", names[1]))
                told(count)
        return count

    async def _copy_indexes(self, at: int) -> None:
        for prefix in ("key:", "corr:"):
            async with aclosing(scan(self._server, self._from.prefix + prefix)) as pages:
                async for page in pages:
                    for start in range(0, len(page), LISTS_A_CALL):
                        names: list[str] = []
                        for name in page[start : start + LISTS_A_CALL]:
                            names += (self._from.prefix + prefix + name, self._to.prefix + prefix + name)
                        await self._server.run("fork_lists", names, [at])

    # --- what was kept of it ---

    async def _copy_states(self, at: int) -> None:
        """Copy states and snapshots of then and before, what is known of what was trimmed, and what is cancelled."""
        for prefix in ("state:", "snap:"):
            async with aclosing(scan(self._server, self._from.prefix + prefix)) as pages:
                async for page in pages:
                    for name in page:
                        await self._copy_hash(prefix + name, at)
        for partition in range(self._server.partitions):
            await self._copy_hash(self._from.gone(partition).removeprefix(self._from.prefix), at)
        for name in ("floors", "cancelled"):
            await self._copy_hash(name, at)
        await self._copy_whole(self._from.streams, self._to.streams)
        await self._copy_whole(self._from.catalog, self._to.catalog)

    async def _copy_hash(self, name: str, at: int) -> None:
        cursor: int | bytes = 0
        names = [self._from.prefix + name, self._to.prefix + name]
        while True:
            cursor = await self._server.run("fork_hash", names, [cursor, at])
            if int(cursor) == 0:
                return

    async def _copy_whole(self, source: str, copy: str) -> None:
        await self._server.command("COPY", source, copy, "REPLACE")

    async def _copy_sessions(self, at: int) -> list[str]:
        """Copy the sessions as they stood; return those of which that cannot be said."""
        unknown = []
        async with aclosing(scan(self._server, self._from.prefix + "session:")) as pages:
            async for page in pages:
                for name in page:
                    if not await self._copy_session(name, at):
                        unknown.append(name.partition(":")[2])
        return sorted(set(unknown))

    async def _copy_session(self, name: str, at: int) -> bool:
        key = name.partition(":")[2]
        source, copy = f"{self._from.prefix}session:{name}", f"{self._to.prefix}session:{name}"
        if int(await self._server.command("HGET", source, "") or 0) <= at:
            await self._copy_whole(source, copy)
            return True
        await self._server.command("DEL", copy)
        selection = Selection(key=key, types=(UPDATED,))
        async with aclosing(self._reader.forward(selection, 0, at)) as events:
            async for event in events:
                sets, removed = stored_changes(event.payload["changes"], event.seq, event.context.causation)
                await self._server.command("HSET", copy, *sets)
                if removed:
                    await self._server.command("HDEL", copy, *removed)
        gone = await self._server.command("HGET", self._from.gone(partition_of(key, self._server.partitions)), key)
        numbers = {stream.number for stream in self._streams.all() if stream.topic == SESSIONS}
        return not any(int(entry.split(b":")[1]) in numbers for entry in (gone or b"").split(b",") if entry)

    # --- the end ---

    async def _end(self, at: int) -> None:
        """Let the numbers and times go on from there, and open it to everybody."""
        lines = await self._server.command("LRANGE", self._from.epochs, 0, -1)
        kept = [line for line in lines if int(line.split(b" ")[1]) <= at]
        time = await self._time_of_last(at)
        commands: list[tuple[Argument, ...]] = [("DEL", self._to.epochs)]
        if kept:
            commands.append(("RPUSH", self._to.epochs, *kept))
        commands += (("SET", self._to.seq, at), ("SET", self._to.clock, time))
        await self._server.commands(*commands)
        fault("fork.ending")
        run = (await self._server.command("HMGET", self._from.meta, "run_id", "epoch")) or [b"", b""]
        await self._server.commands(
            ("HSET", self._to.meta, "run_id", run[0], "epoch", f"{run[1].decode()}-{at}", "format", FORMAT),
            ("HDEL", self._to.meta, "fork_floors"),
        )

    async def _time_of_last(self, at: int) -> int:
        event = await self._event(await self._reader.previous(await self._reader.extents(Selection()), at))
        return 0 if event is None else event.ts_ms
