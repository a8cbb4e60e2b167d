"""A worker process: registers agents, keeps their leases spread evenly, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from spine.agent import Agent
from spine.catalog.stored import keep
from spine.delivery.leases import LEASE_S, Lease, Leases, WorkerInfo
from spine.errors import InvalidInput, SpineError
from spine.events import to_ms
from spine.log.listener import Entries
from spine.state.fold import Reducing
from spine.state.projection import Projection
from spine.worker.agency import Agency
from spine.worker.housekeeping import Housekeeping
from spine.worker.projector import Projector

if TYPE_CHECKING:
    from spine.client import Spine

logger = logging.getLogger("spine")

DEFAULT_CONCURRENCY = 32
BALANCE_EVERY_S = 0.5
DRAIN_PATIENCE_S = 2.0
DRAIN_AGAIN_S = 10.0
SHUTDOWN_TIMEOUT_S = 30.0
AGENT_CHANGED, CANCELLED, HOLDS_CHANGED = b"agent", b"cancel", b"holds"  # what notices begin with


class Worker:
    """Runs agents in this process until stopped. Use `run`, or ``async with Worker(...)`` for control.

    Args:
        spine: an open client.
        kinds: the agents to serve, and the projections.
        concurrency: handlers of one agent at work at once in this process.
        worker: id of this worker; unique among the living.
        lease_s: after this time without a sign of life, others take over.
        shutdown_timeout_s: what runs may take this long to finish.
    """

    def __init__(
        self,
        spine: Spine,
        *kinds: type[Reducing[Any]],
        concurrency: int | None = None,
        worker: str | None = None,
        lease_s: float = LEASE_S,
        shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
    ) -> None:
        if not kinds:
            raise InvalidInput("name at least one agent to run")
        agents = [kind for kind in kinds if issubclass(kind, Agent)]
        names = [kind.name for kind in kinds]
        if len(set(names)) != len(names):
            raise InvalidInput(f"two agents of one name: {', '.join(names)}")
        self.id = worker or f"{socket.gethostname()[:20]}-{os.getpid()}-{secrets.token_hex(3)}"
        self.shutdown_timeout_s = shutdown_timeout_s
        self._spine = spine
        self._server = spine.server
        self._leases = Leases(spine.server, self.id, self._lost, lease_s=lease_s)
        self._concurrency = concurrency or DEFAULT_CONCURRENCY
        self._agencies = {
            agent.name: Agency(spine, agent, self.id, self._leases, self._concurrency) for agent in agents
        }
        for agency in self._agencies.values():
            if agency.catalog is not None:
                agency.catalog.check_declared(agency.name, agency.agent.topics())
        projections = [kind for kind in kinds if issubclass(kind, Projection)]
        self._projectors = [Projector(spine, kind, self.id, lease_s) for kind in projections]
        self._housekeeping = Housekeeping(spine, kinds, self.id)
        self._draining_since: dict[tuple[str, int], float] = {}
        self._not_before: dict[tuple[str, int], float] = {}
        self._balance_now = asyncio.Event()
        self._notices: set[bytes] = {AGENT_CHANGED}
        self._changed_holds: set[bytes] = set()
        self._task: asyncio.Task[None] | None = None
        self._watches: list[Any] = []

    async def start(self) -> None:
        """Register the agents and begin; returns when the first partitions are held."""
        for agency in self._agencies.values():
            if agency.agent.catalog is not None:
                await keep(self._server, agency.agent.catalog)
            await self._register(agency, await self._start_seq(agency.agent))
        listener, keys = self._spine.listener, self._server.keys
        self._watches.append(await listener.watch(keys.control, self._hear_control))
        for partition in range(self._server.partitions):
            self._watches.append(await listener.watch(keys.bell(partition), self._hear_bell(partition)))
        await self._spine.streams.refresh()
        await self._read_cancelled()
        for agency in self._agencies.values():
            agency.on_drained = self._balance_now.set
            agency.begin()
            await self._leases.join(agency.name, self._info(agency))
            await self._announce(agency.name)
        for projector in self._projectors:
            await projector.start()
        self._housekeeping.start()
        await self._balance()
        self._task = asyncio.create_task(self._balance_for_ever(), name="spine-balance")

    async def stop(self) -> bool:
        """Take nothing more, let what runs finish, give the leases back; return whether all of it finished."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._housekeeping.stop()
        for projector in self._projectors:
            await projector.stop()
        finished = True
        for agency in self._agencies.values():
            agency.stopping = True
            for number in list(agency.partitions):
                agency.drain(number)
        try:
            async with asyncio.timeout(self.shutdown_timeout_s):
                for agency in self._agencies.values():
                    await self._drained(agency)
        except TimeoutError:
            finished = False
            for agency in self._agencies.values():
                await agency.stop_running()
        await self._leave()
        return finished

    async def _leave(self) -> None:
        for watch in self._watches:
            self._spine.listener.unwatch(watch)
        for agency in self._agencies.values():
            await agency.close()
            with contextlib.suppress(SpineError, RedisError):
                held = agency.partitions.values()
                await self._leases.leave(agency.name, [one.number for one in held if one.suspects.cut_off])
        await self._leases.close()

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _drained(self, agency: Agency) -> None:
        while not all(agency.is_drained(number) for number in agency.partitions):
            agency.changed.clear()
            if not all(agency.is_drained(number) for number in agency.partitions):
                await agency.changed.wait()

    async def _register(self, agency: Agency, start: int | str) -> None:
        """Make the agent known; what it declares for the first time is read after seq `start` (empty: from now)."""
        agent, keys = agency.agent, self._server.keys
        handled = [*sorted({pattern for handler in agent.handlers for pattern in handler.patterns}), f"@{agent.name}"]
        folded = sorted({pattern for reducer in agent.reducers for pattern in reducer.patterns} - set(handled))
        declaration = {
            "version": agent.version,
            "handles": handled[:-1],
            "reduces": sorted({pattern for reducer in agent.reducers for pattern in reducer.patterns}),
            "ordering": agent.ordering,
            "gates": {gate.__name__: (gate.conditions, gate.within_s) for gate in agent.gates},
        }
        paused, *starts = await self._server.run(
            "register",
            [keys.agent(agent.name), keys.agents, keys.handlers, keys.seq, keys.control],
            [agent.name, agent.version, start, json.dumps(declaration), len(handled), *handled, *folded],
        )
        agency.paused = paused == b"1"
        agency.intake.starts = dict(zip((*handled, *folded), map(int, starts), strict=True))

    async def _start_seq(self, agent: type[Agent[Any]]) -> int | str:
        start = agent.start
        if start == "present":
            return ""
        if start == "beginning":
            return 0
        if isinstance(start, datetime):
            return await self._spine.reader.last_before(to_ms(start))
        return int(start)

    def _info(self, agency: Agency) -> WorkerInfo:
        return WorkerInfo(
            self.id, agency.version, socket.gethostname(), os.getpid(), self._server.now_ms(), self._concurrency
        )

    # --- notices ---

    def _hear_bell(self, partition: int) -> Any:
        def hear(rings: Entries | None) -> None:
            for agency in self._agencies.values():
                agency.rung(partition, rings)

        return hear

    def _hear_control(self, notices: Entries | None) -> None:
        self._balance_now.set()
        if notices is None:
            self._notices |= {AGENT_CHANGED, CANCELLED}
            for agency in self._agencies.values():
                self._changed_holds.update(f"{agency.name}:{number}".encode() for number in agency.partitions)
            return
        for _, fields in notices:
            self._notices.add(fields[0])
            if fields[0] == HOLDS_CHANGED:
                self._changed_holds.add(fields[1])

    async def _announce(self, agent: str) -> None:
        await self._server.command("XADD", self._server.keys.control, "MAXLEN", "~", 100, "*", "leases", agent)

    async def _act_on_notices(self) -> None:
        heard, self._notices = self._notices, set()
        try:
            if CANCELLED in heard:
                await self._read_cancelled()
            if AGENT_CHANGED in heard:
                await self._read_paused()
        except BaseException:
            self._notices |= heard
            raise
        changed, self._changed_holds = self._changed_holds, set()
        for name, _, number in (place.decode().partition(":") for place in changed):
            if name in self._agencies:
                self._agencies[name].reload_holds(int(number))

    async def _read_paused(self) -> None:
        for agency in self._agencies.values():
            was = agency.paused
            agency.paused = await self._server.command("HGET", self._server.keys.agent(agency.name), "paused") == b"1"
            if was and not agency.paused:
                agency.resume()

    async def _read_cancelled(self) -> None:
        raw = await self._server.command("HGETALL", self._server.keys.cancelled)
        cancelled = {raw[i].decode(): int(raw[i + 1]) for i in range(0, len(raw), 2)}
        for agency in self._agencies.values():
            agency.set_cancelled(cancelled)

    # --- leases ---

    def _lost(self, lease: Lease) -> None:
        self._agencies[lease.agent].lose(lease)
        self._balance_now.set()

    async def _balance_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BALANCE_EVERY_S):
                    await self._balance_now.wait()
            self._balance_now.clear()
            try:
                await self._act_on_notices()
                await self._balance()
            except (SpineError, RedisError, OSError) as error:
                logger.debug("balancing: %s", error)
            except Exception:
                logger.exception("balancing")

    async def _balance(self) -> None:
        for agency in self._agencies.values():
            await self._release_drained(agency)
            plan = await self._leases.plan(agency.name, agency.busy())
            if plan is None:
                await self._begin_anew(agency)
                continue
            for partition in plan.acquire:
                if partition in agency.partitions:  # run out, not lost: the heartbeat renews it, or finds that it is
                    continue
                lease = await self._leases.acquire(agency.name, agency.version, partition)
                if lease is not None:
                    agency.acquired(lease)
            self._drain(agency, plan.release)
            await self._release_drained(agency)

    def _drain(self, agency: Agency, wanted: tuple[int, ...]) -> None:
        """Begin to hand over as many of `wanted` as are not being handed over yet."""
        now = asyncio.get_running_loop().time()
        draining = {number for name, number in self._draining_since if name == agency.name}
        missing = len(wanted) - len(draining)
        for number in wanted:
            if missing <= 0:
                return
            if (
                number in agency.partitions
                and number not in draining
                and self._not_before.get((agency.name, number), now) <= now
            ):
                self._draining_since[agency.name, number] = now
                agency.drain(number)
                missing -= 1

    async def _begin_anew(self, agency: Agency) -> None:
        """The data is gone and with it the agent: register it again, to handle whatever the new log holds."""
        logger.warning("the server knows nothing of %s any more: its data is gone", agency.name)
        for partition in list(agency.partitions.values()):
            agency.lose(partition.lease)
        await self._register(agency, 0)
        await self._leases.join(agency.name, self._info(agency))
        await self._announce(agency.name)

    async def _release_drained(self, agency: Agency) -> None:
        """Hand over what is drained; what takes long is taken up again, to be handed over at a better moment."""
        now = asyncio.get_running_loop().time()
        for name, number in list(self._draining_since):
            if name != agency.name:
                continue
            partition = agency.partitions.get(number)
            if partition is None:
                del self._draining_since[name, number]
            elif agency.is_drained(number):
                del self._draining_since[name, number]
                try:
                    await self._leases.release(partition.lease, clean=not partition.suspects.cut_off)
                finally:  # if it was not released, it runs out
                    agency.gave_back(number)
            elif now - self._draining_since[name, number] > DRAIN_PATIENCE_S:
                del self._draining_since[name, number]
                self._not_before[name, number] = now + DRAIN_AGAIN_S
                agency.undrain(number)


async def run(
    spine: Spine,
    *kinds: type[Reducing[Any]],
    concurrency: int | None = None,
    shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
    worker: str | None = None,
    lease_s: float = LEASE_S,
    stop: asyncio.Event | None = None,
) -> None:
    """Run agents and projections here until `stop` is set, SIGINT or SIGTERM comes, or the task is cancelled.

    The first signal drains: nothing more is taken, what runs may finish within `shutdown_timeout_s`, leases are given
    back at once. A second one ends at once. With `stop` given, signals are the caller's business.
    """
    ending = stop or asyncio.Event()
    serving = Worker(
        spine, *kinds, concurrency=concurrency, worker=worker, lease_s=lease_s, shutdown_timeout_s=shutdown_timeout_s
    )
    with _signals(ending) if stop is None else contextlib.nullcontext():
        await serving.start()
        try:
            await ending.wait()
        finally:
            await serving.stop()


@contextlib.contextmanager
def _signals(ending: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def caught(number: signal.Signals) -> None:
        if ending.is_set():
            os._exit(130)
        ending.set()

    caught_signals = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, caught, number)
            caught_signals.append(number)
    try:
        yield
    finally:
        for number in caught_signals:
            loop.remove_signal_handler(number)
