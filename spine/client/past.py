"""What `Spine` can do with the past: the state at any moment, the steps that led there, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Literal

from spine.client.reading import Moment, Reading
from spine.errors import InvalidInput
from spine.names import check_agent_name
from spine.past.export import export_lines
from spine.past.fork.fork import Fork, Forked
from spine.past.snapshots import Snapshot, Snapshots
from spine.past.timetravel import PRESENT, Step, TimeTravel
from spine.past.trace import Trace, read_trace
from spine.past.trimming.retention import Retention, read_retention, target_of, write_retention
from spine.past.trimming.stakes import PROJECTIONS
from spine.past.trimming.trimming import Trim, Trimmer
from spine.scan import delete
from spine.state.fold import Reducing, StateT


class Past(Reading):
    """The part of the client that looks back; `Spine` has these methods."""

    async def reduce(self, kind: type[Reducing[StateT]], *, key: str | None = None, at: Moment | None = None) -> StateT:
        """Return the state of an agent or projection, folded from the log: now, or at a seq or time.

        It starts at the nearest stored state, so it costs what happened since. The state is the caller's own.

        Args:
            kind: the class of the agent or projection.
            key: whose state; left out for a global projection.
            at: a seq (with that event in it) or a time; now where left out.

        Raises `ReducerFailed`, or `ReplayGap` where events it needs were trimmed away.
        """
        travel = TimeTravel(self.reader, kind)
        until = PRESENT if at is None else await self.seq_at(at, inclusive=True)
        state: StateT = (await travel.cell(travel.checked(key), until)).state
        return state

    async def steps(
        self,
        kind: type[Reducing[StateT]],
        *,
        key: str | None = None,
        after: Moment = 0,
        until: Moment | None = None,
    ) -> AsyncGenerator[Step[StateT], None]:
        """Yield (event, state before, state after) for each event that an agent or projection folds, in seq order."""
        travel = TimeTravel(self.reader, kind)
        wanted, start = travel.checked(key), await self.seq_at(after)
        end = PRESENT if until is None else await self.seq_at(until, inclusive=True)
        async with aclosing(travel.steps(wanted, start, end)) as steps:
            async for step in steps:
                yield step

    async def snapshot(
        self, kind: type[Reducing[StateT]], *, key: str | None = None, at: Moment | None = None
    ) -> Snapshot:
        """Keep the state at a seq or time (now where left out), so that a later look at it begins there."""
        travel = TimeTravel(self.reader, kind)
        wanted = travel.checked(key)
        cell = await travel.cell(wanted, PRESENT if at is None else await self.seq_at(at, inclusive=True))
        snapshots = Snapshots(self.server, kind.name, kind.version)
        await snapshots.keep(wanted, cell.seq, cell.encode())
        return next(one for one in await snapshots.find(wanted) if one.seq == cell.seq)

    async def snapshots(self, kind: type[Reducing[Any]] | str, *, key: str | None = None) -> list[Snapshot]:
        """Return the snapshots of an agent or projection, by its class or by its name (then of its newest version)."""
        return await Snapshots(self.server, *await self._name_of(kind)).find(key)

    async def remove_snapshots(
        self, kind: type[Reducing[Any]] | str, *, key: str | None = None, before: int | None = None
    ) -> int:
        """Remove snapshots (of one key, of before a seq) and return how many.

        Nothing is lost but time: states are folded from the log. One whose events were trimmed away stays.
        """
        return await Snapshots(self.server, *await self._name_of(kind)).remove(key, before=before)

    async def retention(self, *, keep: timedelta | int | Literal["forever"] | None = None) -> Retention | None:
        """Return how long the log keeps events, ``None`` for ever; `keep` says it anew.

        Workers and open buses trim the log by it about once a minute, and `trim` does. Nothing goes that somebody
        still needs.

        Args:
            keep: an age, a number of events (of numbers given: events that were refused count), or ``"forever"``.
        """
        if keep is not None:
            await write_retention(self.server, None if keep == "forever" else Retention.of(keep))
        return await read_retention(self.server)

    async def trim(
        self,
        *,
        until: Moment | None = None,
        kinds: Sequence[type[Reducing[Any]]] = (),
        dry_run: bool = False,
        force: bool = False,
        told: Callable[[int], None] = lambda events: None,
    ) -> Trim:
        """Take events out of the log, with all that names them; return what went, and who held up the rest.

        No event goes that an agent has not handled (dead letters count), or that made a state that is not stored,
        unless `force`. It may be broken off at any moment; the next one goes on.

        Args:
            until: the last seq that goes, or a time before which all do; by the namespace's retention where left out.
            kinds: classes of agents and projections. States of theirs that are not stored are folded and stored; of
                keys that go on, states since remain reachable.
            dry_run: only say what would go.
            force: take out what is needed as well; the result says who needed it.
            told: called with the count of events as it grows.
        """
        if until is not None:
            target = await self.seq_at(until)
        elif (rule := await read_retention(self.server)) is not None:
            target = await target_of(self.reader, rule)
        else:
            raise InvalidInput(
                "the namespace keeps everything: say until when (until=, --until), or what it keeps (retention, --keep)"
            )
        trimmer = Trimmer(self.reader, kinds)
        return await trimmer.trim(min(target, await self.head()), dry_run=dry_run, force=force, told=told)

    async def remove_projection(self, name: str) -> None:
        """Forget a projection that nobody serves any more: it holds up no trim; its stored states are deleted."""
        keys = self.server.keys
        await self.server.commands(("HDEL", keys.own(PROJECTIONS), name), ("DEL", keys.own("position", name)))
        for place in ("state", "snap"):
            await delete(self.server, keys.own(place, name, ""))

    async def fork(
        self, namespace: str, *, at: Moment | None = None, told: Callable[[int], None] = lambda events: None
    ) -> Forked:
        """Copy the history up to a seq or time (now where left out) into another namespace of the same server.

        What was open then is delivered again there, with the results of steps that were recorded by then, and agents
        run on from there, with other code if you like. This namespace is not touched. Broken off at any moment, the
        same call goes on; nobody can open the fork before it is complete.

        Args:
            namespace: the new one.
            at: where to fork. In the middle of what one commit stored, it is moved before that (see `Forked.at`).
            told: called with the count of events as it grows.
        """
        fork = Fork(self.reader, namespace)
        if at is None:
            begun = await fork.begun_at()
            moment = await self.head() if begun is None else begun
        else:
            moment = await self.seq_at(at, inclusive=True)
        return await fork.run(moment, told)

    async def export(self, *, until: Moment | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the log as lines of JSON, one an event, after one that says what it is; without the lines' ends.

        ``spine import`` makes a log of them again that is equal, numbers, times and contexts included. They tell
        everything, also where answers go that are still awaited.

        Args:
            until: a seq or time; now where left out.
        """
        async with aclosing(export_lines(self.reader, await self.head(until))) as lines:
            async for line in lines:
                yield line

    async def trace(self, correlation: str) -> Trace:
        """Return what followed from one request: a tree of events, with who handled each, how long it waited and took.

        Of what was trimmed away, nothing is in it.
        """
        return await read_trace(self.reader, correlation)

    async def _name_of(self, kind: type[Reducing[Any]] | str) -> tuple[str, str]:
        if not isinstance(kind, str):
            return kind.name, kind.version
        keys = self.server.keys
        versions, projection = await self.server.commands(
            ("HGET", keys.agent(check_agent_name(kind)), "versions"), ("HGET", keys.own(PROJECTIONS), kind)
        )
        if versions is not None:
            return kind, versions.decode().split()[-1]
        if projection is not None:
            return kind, json.loads(projection)["version"]
        raise InvalidInput(f"no agent or projection {kind!r} ever ran in this namespace")
