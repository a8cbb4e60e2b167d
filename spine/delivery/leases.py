"""Leases: which worker holds which partition, with a fencing token, kept alive by a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from redis.exceptions import NoScriptError, RedisError

from spine import clock
from spine.connection import Server
from spine.delivery.share import Plan, fair_share
from spine.scripts import script

logger = logging.getLogger("spine")

LEASE_S = 5.0
BEAT_S = 1.0


class Lease(msgspec.Struct, frozen=True):
    """One partition of one agent, held by this worker.

    Attributes:
        agent: the agent.
        partition: the partition.
        key: of the lease.
        generation: the fencing token.
        clean: the holder before gave it back in order; else what is pending was cut off by its death.
        first: nobody held it before.
    """

    agent: str
    partition: int
    key: str
    generation: int
    clean: bool
    first: bool


class WorkerInfo(msgspec.Struct, frozen=True):
    """What a living worker says of itself."""

    worker: str
    version: str
    host: str
    pid: int
    started_ms: int
    concurrency: int


class Holding(msgspec.Struct, frozen=True):
    """Who holds a partition, as the server has it."""

    owner: str | None
    until_ms: int
    version: str | None
    since_ms: int


_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_encode_info = msgspec.json.Encoder().encode
_decode_info = msgspec.json.Decoder(WorkerInfo).decode


class Leases:
    """The leases of one worker process, over all its agents.

    Args:
        server: the way to the server.
        worker: id of this worker.
        on_lost: called in the event loop with a lease that another worker has now.
        lease_s: after this time without a sign of life others take over.
    """

    def __init__(
        self, server: Server, worker: str, on_lost: Callable[[Lease], None], *, lease_s: float = LEASE_S
    ) -> None:
        self._server = server
        self._worker = worker
        self._on_lost = on_lost
        self._lease_ms = round(lease_s * 1000)
        self._beat_s = min(BEAT_S, lease_s / 4)
        self._agents: dict[str, WorkerInfo] = {}
        self._held: dict[str, Lease] = {}
        self._lasts_until: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def join(self, agent: str, info: WorkerInfo) -> None:
        """Become one of the workers of `agent`."""
        with self._lock:
            self._agents[agent] = info
        await self._server.run("renew", *self._renewal([])[:2])
        if self._thread is None:
            clock.before_move(self._renew_beyond)
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._beat, name="spine-heartbeat", daemon=True)
            self._thread.start()

    async def leave(self, agent: str, cut_off: Collection[int]) -> None:
        """Stop being a worker of `agent`, and give back at once whatever is still held.

        In the partitions `cut_off` something is pending that was in hand when a worker died.
        """
        with self._lock:
            self._agents.pop(agent, None)
            for lease in [lease for lease in self._held.values() if lease.agent == agent]:
                del self._held[lease.key]
        await _give_up(self._server, self._worker, agent, cut_off)

    async def close(self) -> None:
        """End the heartbeat."""
        clock.forget(self)
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def acquire(self, agent: str, version: str, partition: int) -> Lease | None:
        """Return the lease of a partition, ``None`` when another worker holds it."""
        key = self._server.keys.lease(agent, partition)
        until = self._from_now()
        reply = await self._server.run("acquire", [key], [self._worker, version, self._lease_ms])
        if reply == 0:
            return None
        generation, clean, first = reply
        lease = Lease(agent, partition, key, int(generation), bool(clean), bool(first))
        with self._lock:
            self._held[key] = lease
        self._lasts_until[key] = until
        return lease

    def lasts(self, lease: Lease) -> bool:
        """Tell whether a lease is held here and cannot have run out yet: no other worker can have it.

        It goes by this machine's steady clock (one that goes on while the machine sleeps, where there is one), from
        before the server was asked for it or for its renewal.
        """
        return self._held.get(lease.key) is lease and _steady_s() < self._lasts_until[lease.key]

    def _from_now(self) -> float:
        return _steady_s() + self._lease_ms / 1000

    async def release(self, lease: Lease, *, clean: bool = True) -> None:
        """Give a lease back at once; `clean` says that nothing pending was in hand when a worker died."""
        with self._lock:
            self._held.pop(lease.key, None)
        keys = self._server.keys
        await self._server.run(
            "release",
            [keys.control, keys.workers(lease.agent), lease.key],
            [lease.agent, self._worker, 0, lease.generation, int(clean)],
        )

    def forget(self, lease: Lease) -> bool:
        """Stop renewing a lease that is lost; false when it was given back or taken anew meanwhile."""
        with self._lock:
            if self._held.get(lease.key) is not lease:
                return False
            del self._held[lease.key]
            return True

    async def plan(self, agent: str, busy: dict[int, int]) -> Plan | None:
        """Return what this worker should acquire and release now; leases go to the newest version alive.

        ``None`` when the server knows nothing of the agent any more: its data is gone.
        """
        now = await survey(self._server, agent)
        if not now.versions:
            return None
        workers = {**now.workers, self._worker: self._agents[agent]}
        alive = {info.version for info in workers.values()}
        newest = next((version for version in reversed(now.versions) if version in alive), None)
        eligible = [name for name, info in workers.items() if info.version == newest]
        owners = {
            partition: holding.owner if holding.until_ms > now.ts_ms else None
            for partition, holding in now.holdings.items()
        }
        return fair_share(self._worker, eligible, owners, busy)

    async def _renew_beyond(self, ms: int) -> None:
        """Renew for `ms` more: what lives keeps its leases however far a test moves the clock."""
        with self._lock:
            keys, args, _ = self._renewal(list(self._held.values()))
        args[1] += ms
        await self._server.run("renew", keys, args)

    def _renewal(self, leases: list[Lease]) -> tuple[list[str], list[Any], list[Lease]]:
        agents = list(self._agents.items())
        keys = [self._server.keys.workers(agent) for agent, _ in agents] + [lease.key for lease in leases]
        args: list[Any] = [self._worker, self._lease_ms, len(agents)]
        args += [_encode_info(info) for _, info in agents]
        args += [lease.generation for lease in leases]
        return keys, args, leases

    def _beat(self) -> None:
        """Renew until stopped; runs in a thread, so that a handler that blocks the event loop loses nothing."""
        client = self._server.blocking_client()
        while not self._stop.wait(self._beat_s):
            with self._lock:
                keys, args, leases = self._renewal(list(self._held.values()))
            until = self._from_now()
            renew = script("renew")
            try:
                try:
                    kept = client.evalsha(renew.sha, len(keys), *keys, *args)
                except NoScriptError:
                    kept = client.eval(renew.source, len(keys), *keys, *args)
            except (RedisError, OSError) as error:
                logger.debug("heartbeat: %s", error)
                continue
            except Exception:
                logger.exception("heartbeat")
                continue
            for lease, ok in zip(leases, kept, strict=True):
                if ok:
                    self._lasts_until[lease.key] = until
                else:
                    self._lost(lease)
        client.close()

    def _lost(self, lease: Lease) -> None:
        if self.forget(lease) and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_lost, lease)


class Survey(msgspec.Struct, frozen=True):
    """An agent's workers and leases at one moment.

    Attributes:
        workers: the living ones.
        holdings: who holds each partition.
        versions: every version that ever registered, oldest first.
        ts_ms: the server's time.
    """

    workers: dict[str, WorkerInfo]
    holdings: dict[int, Holding]
    versions: list[str]
    ts_ms: int


async def survey(server: Server, agent: str) -> Survey:
    """Return who works for `agent` and who holds what."""
    partitions = range(server.partitions)
    time_reply, versions, raw, *leases = await server.commands(
        ("TIME",),
        ("HGET", server.keys.agent(agent), "versions"),
        ("HGETALL", server.keys.workers(agent)),
        *(
            ("HMGET", server.keys.lease(agent, partition), "owner", "until", "version", "since")
            for partition in partitions
        ),
    )
    now = clock.ms_of(time_reply)
    server.note_time(now)
    workers: dict[str, WorkerInfo] = {}
    for i in range(0, len(raw), 2):
        until, _, info = raw[i + 1].partition(b" ")
        if int(until) > now:
            workers[raw[i].decode()] = _decode_info(info)
    holdings = {
        partition: Holding(
            owner.decode() if owner else None,
            int(until or 0),
            version.decode() if version else None,
            int(since or 0),
        )
        for partition, (owner, until, version, since) in zip(partitions, leases, strict=True)
    }
    return Survey(workers, holdings, (versions or b"").decode().split(), now)


async def expire_worker(server: Server, worker: str) -> int:
    """Take the leases of a worker that is known to be dead from it at once; return how many."""
    count = 0
    names = await server.command("HKEYS", server.keys.agents)
    for raw in names:
        count += await _give_up(server, worker, raw.decode(), range(server.partitions))
    return count


def _steady_s() -> float:
    return time.clock_gettime(_STEADY)


async def _give_up(server: Server, worker: str, agent: str, cut_off: Collection[int]) -> int:
    """Give back whatever `worker` holds of `agent`, and its place among the workers; return how many leases."""
    keys = server.keys
    leases = [keys.lease(agent, partition) for partition in range(server.partitions)]
    args: list[Any] = [agent, worker, 1]
    for partition in range(server.partitions):
        args += ["", int(partition not in cut_off)]
    count: int = await server.run("release", [keys.control, keys.workers(agent), *leases], args)
    return count
