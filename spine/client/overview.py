"""Looking after agents: who runs what, how far behind each is; pausing, cancelling and removing."""

from __future__ import annotations

import json
from contextlib import aclosing
from datetime import datetime
from typing import Any

import msgspec

from spine.connection import Argument, Server
from spine.delivery.holds import FOREVER, decode_hold
from spine.delivery.leases import WorkerInfo, survey
from spine.errors import InvalidInput
from spine.events import from_ms
from spine.log.streams import Streams
from spine.names import check_agent_name, check_key
from spine.past.trimming.stakes import read_by, read_starts, start_of
from spine.scan import scan

COUNTED = 100_000
CANCELLED_KEPT = 10_000
OWN_KEYS = (
    "agent",
    "crash",
    "dead",
    "done",
    "gate",
    "hold",
    "lease",
    "rate",
    "slots",
    "snap",
    "state",
    "steps",
    "wait",
    "workers",
)


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """A living worker of an agent.

    Attributes:
        worker: its id.
        version: of the agent that it runs.
        host: where.
        pid: its process.
        started_ms: when it began.
        concurrency: handlers at once.
        partitions: what it holds.
    """

    worker: str
    version: str
    host: str
    pid: int
    started_ms: int
    concurrency: int
    partitions: tuple[int, ...]


class AgentOverview(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as it stands.

    Attributes:
        name: its name.
        version: the newest that registered.
        versions: all that registered, oldest first.
        paused: its workers take nothing.
        handles: types and patterns with a handler.
        reduces: types and patterns with a reducer.
        workers: those alive.
        free: partitions that nobody holds.
        dead: dead letters.
        held: keys that are held (retries, parked, backlog).
    """

    name: str
    version: str
    versions: tuple[str, ...]
    paused: bool
    handles: tuple[str, ...]
    reduces: tuple[str, ...]
    workers: tuple[Serving, ...]
    free: tuple[int, ...]
    dead: int
    held: int


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent has before it in one partition.

    Attributes:
        agent: the agent.
        partition: the partition.
        not_taken: events that no worker has taken; counted up to 100,000 a stream.
        pending: taken, and not handled.
        waiting: of held keys.
        first: seq of the oldest event that is not handled (held ones left out); ``None`` when there is none.
    """

    agent: str
    partition: int
    not_taken: int
    pending: int
    waiting: int
    first: int | None

    @property
    def total(self) -> int:
        """Events before it."""
        return self.not_taken + self.pending + self.waiting


class HeldKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key whose events wait, and why.

    Attributes:
        agent: the agent.
        partition: of the key.
        key: the key.
        reason: ``retry``, ``parked`` (a dead letter), ``reducer`` (one raised) or ``backlog`` (it is being worked off).
        seq: of the event that is the reason; ``None`` where that is not written down.
        waiting: how many events wait.
        until: when it goes on by itself; ``None`` when it does not.
        error: what went wrong.
    """

    agent: str
    partition: int
    key: str
    reason: str
    seq: int | None
    waiting: int
    until: datetime | None
    error: str


class Overview:
    """Looks after the agents of one namespace."""

    def __init__(self, server: Server, streams: Streams) -> None:
        self._server = server
        self._streams = streams

    async def names(self) -> list[str]:
        """Return the agents that ever registered."""
        return sorted(raw.decode() for raw in await self._server.command("HKEYS", self._server.keys.agents))

    async def agents(self, agent: str | None = None) -> list[AgentOverview]:
        """Return every agent (or one) with its workers."""
        names = await self.names() if agent is None else [await self.known(agent)]
        return [await self._agent(name) for name in names]

    async def lag(self, agent: str | None = None) -> list[Lag]:
        """Return what each agent (or one) has before it, for each partition."""
        await self._streams.refresh()
        names = await self.names() if agent is None else [await self.known(agent)]
        return [await self._lag(name, partition) for name in names for partition in range(self._server.partitions)]

    async def held(self, agent: str | None = None) -> list[HeldKey]:
        """Return the held keys of every agent (or one)."""
        names = await self.names() if agent is None else [await self.known(agent)]
        places = [(name, partition) for name in names for partition in range(self._server.partitions)]
        return [key for name, partition in places for key in await self._held(name, partition)]

    async def _held(self, name: str, partition: int) -> list[HeldKey]:
        keys = self._server.keys
        holds = {
            key: decode_hold(raw) for key, raw in sorted((await self._server.hash(keys.holds(name, partition))).items())
        }
        waiting = await self._server.commands(*(("LLEN", keys.waiting(name, partition, key)) for key in holds))
        return [
            HeldKey(
                agent=name,
                partition=partition,
                key=key,
                reason=hold.reason,
                seq=hold.by or None,
                waiting=count,
                until=None if hold.until_ms >= FOREVER else from_ms(hold.until_ms),
                error=hold.error or (f"event {hold.by} is a dead letter" if hold.reason == "parked" else ""),
            )
            for (key, hold), count in zip(holds.items(), waiting, strict=True)
        ]

    async def pause(self, agent: str, *, paused: bool) -> None:
        """Let the workers of an agent take nothing more, or go on. What runs is finished."""
        keys = self._server.keys
        key = keys.agent(await self.known(agent))
        write: tuple[Argument, ...] = ("HSET", key, "paused", "1") if paused else ("HDEL", key, "paused")
        await self._server.commands(write, self._notice("agent", agent))

    async def cancel(self, correlation: str) -> int:
        """Cancel what is not yet handled of a correlation, up to now; return the seq up to which that is."""
        keys = self._server.keys
        head = int(await self._server.command("GET", keys.seq) or 0)
        await self._server.commands(
            ("HSET", keys.cancelled, check_key(correlation, "correlation"), head),
            self._notice("cancel", correlation),
        )
        await self._prune_cancelled()
        return head

    async def remove(self, agent: str, *, force: bool = False) -> int:
        """Forget an agent: its groups, leases, states, holds and dead letters; return how many keys were deleted.

        Raises `InvalidInput` while a worker of it is alive, unless `force`.
        """
        name = await self.known(agent)
        alive = (await survey(self._server, name)).workers
        if alive and not force:
            raise InvalidInput(
                f"{name} has {len(alive)} living workers: stop them first, or force it (force=True, --force)"
            )
        await self._streams.refresh()
        groups = [  # of topics that it dropped, too
            ("XGROUP", "DESTROY", self._streams.key(partition, stream), name)
            for stream in self._streams.all()
            for partition in range(self._server.partitions)
        ]
        for start in range(0, len(groups), 500):
            await self._server.link.call(*groups[start : start + 500])
        deleted = await self._delete_own(name)
        await self._forget_handlers(name)
        await self._server.commands(("HDEL", self._server.keys.agents, name), self._notice("agent", name))
        return deleted

    async def known(self, agent: str) -> str:
        """Return `agent`. Raises `InvalidInput` where none of that name ever ran."""
        check_agent_name(agent)
        if not await self._server.command("HEXISTS", self._server.keys.agents, agent):
            known = ", ".join(await self.names()) or "none"
            raise InvalidInput(f"no agent {agent!r} ever ran in {self._server.keys.namespace!r}; known are: {known}")
        return agent

    async def _agent(self, name: str) -> AgentOverview:
        keys = self._server.keys
        now = await survey(self._server, name)
        declared = await self._declaration(name)
        paused, dead, *held = await self._server.commands(
            ("HGET", keys.agent(name), "paused"),
            ("HLEN", keys.dead(name)),
            *(("HLEN", keys.holds(name, partition)) for partition in range(self._server.partitions)),
        )
        owners = {p: holding.owner for p, holding in now.holdings.items() if holding.until_ms > now.ts_ms}
        return AgentOverview(
            name=name,
            version=declared.get("version", ""),
            versions=tuple(now.versions),
            paused=paused == b"1",
            handles=tuple(declared.get("handles", ())),
            reduces=tuple(declared.get("reduces", ())),
            workers=tuple(_serving(info, owners) for _, info in sorted(now.workers.items())),
            free=tuple(p for p in range(self._server.partitions) if owners.get(p) is None),
            dead=int(dead),
            held=sum(held),
        )

    async def _lag(self, name: str, partition: int) -> Lag:
        keys = self._server.keys
        streams = read_by(name, await self._declaration(name), self._streams.all())
        starts = await read_starts(self._server, name)
        stream_keys = [self._streams.key(partition, stream) for stream in streams]
        after = [f"{start_of(starts, stream.topic)}-0" for stream in streams]
        counted = await self._server.run("lag", stream_keys, [name, COUNTED, *after])
        held = await self._server.command("HKEYS", keys.holds(name, partition))
        waiting = await self._server.commands(*(("LLEN", keys.waiting(name, partition, key.decode())) for key in held))
        firsts = [int(first.partition(b"-")[0]) for _, _, first in counted if first]
        return Lag(
            agent=name,
            partition=partition,
            not_taken=sum(count for count, _, _ in counted),
            pending=sum(pending for _, pending, _ in counted),
            waiting=sum(waiting),
            first=min(firsts, default=None),
        )

    async def _declaration(self, name: str) -> dict[str, Any]:
        raw = await self._server.command("HGET", self._server.keys.agents, name)
        declared: dict[str, Any] = json.loads(raw) if raw else {}
        return declared

    async def _delete_own(self, name: str) -> int:
        """Delete the keys of an agent in one look through the server: it may hold millions of others."""
        prefix, deleted = self._server.keys.prefix, 0
        own = {f"{kind}:{name}" for kind in OWN_KEYS}
        async with aclosing(scan(self._server, prefix, f"*:{name}*")) as pages:
            async for page in pages:
                doomed = [prefix + key for key in page if ":".join(key.split(":", 2)[:2]) in own]
                deleted += await self._server.command("UNLINK", *doomed) if doomed else 0
        return deleted

    async def _forget_handlers(self, name: str) -> None:
        keys = self._server.keys
        for topic, raw in (await self._server.hash(keys.handlers)).items():
            names = raw.decode().split()
            if names == [name]:
                await self._server.command("HDEL", keys.handlers, topic)
            elif name in names:
                left = "".join(f"{other}\n" for other in names if other != name)
                await self._server.command("HSET", keys.handlers, topic, left)

    async def _prune_cancelled(self) -> None:
        """Keep the newest cancellations only: old ones concern events that are long handled."""
        cancelled = await self._server.hash(self._server.keys.cancelled)
        if len(cancelled) > CANCELLED_KEPT:
            by_seq = sorted(cancelled, key=lambda correlation: int(cancelled[correlation]))
            oldest = by_seq[: len(by_seq) - CANCELLED_KEPT // 2]
            await self._server.command("HDEL", self._server.keys.cancelled, *oldest)

    def _notice(self, kind: str, value: str) -> tuple[Argument, ...]:
        return ("XADD", self._server.keys.control, "MAXLEN", "~", 100, "*", kind, value)


def _serving(info: WorkerInfo, owners: dict[int, str | None]) -> Serving:
    held = tuple(partition for partition, owner in sorted(owners.items()) if owner == info.worker)
    return Serving(**msgspec.structs.asdict(info), partitions=held)
