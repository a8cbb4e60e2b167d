"""One projection in one worker process: its owner folds the log as it grows, and stores the states."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError

from spine.connection import Argument
from spine.delivery.leases import LEASE_S
from spine.errors import LeaseLost, SpineError, StateError
from spine.events import Event
from spine.faults import fault
from spine.keys import partition_of
from spine.log.feed import Feed
from spine.log.reader import Selection
from spine.past.timetravel import WHOLE, TimeTravel
from spine.past.trimming.stakes import PROJECTIONS
from spine.state.fold import Cell
from spine.state.projection import Projection
from spine.state.rebuild import Rebuilder

if TYPE_CHECKING:
    from spine.client import Spine

logger = logging.getLogger("spine")

FLUSH_EVERY_S = 0.25
FLUSH_EVENTS = 2_000
STAND_BY_S = 0.5
CACHED_KEYS = 20_000


class _Dirty(msgspec.Struct):
    """A state that went on since it was stored, and the first event that it has since."""

    cell: Cell
    since: int


class Projector:
    """Serves one projection. Of all workers that run it, one owns it; the others stand by.

    Args:
        spine: an open client.
        kind: the projection.
        worker: id of this worker.
        lease_s: after this time without a sign of life, another one takes over.
    """

    def __init__(self, spine: Spine, kind: type[Projection[Any]], worker: str, lease_s: float = LEASE_S) -> None:
        self._spine = spine
        self._server = spine.server
        self._kind = kind
        self._worker = worker
        self._lease_ms = round(lease_s * 1000)
        self._lease = spine.server.keys.lease(f"{kind.name}:{kind.version}", 0)
        self._generation = 0
        self._cells: OrderedDict[str, Cell] = OrderedDict()
        self._dirty: dict[str, _Dirty] = {}
        self._snapshots: list[tuple[str, int, bytes]] = []
        self._failed: dict[str, int] = {}
        self._position = 0
        self._at_work = False
        self._storing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the projection known, so that no trim takes what it has not folded, and begin."""
        kind, keys = self._kind, self._server.keys
        declared = {"version": kind.version, "scope": kind.scope, "reduces": sorted(_patterns(kind))}
        await self._server.command("HSET", keys.own(PROJECTIONS), kind.name, json.dumps(declared))
        self._task = asyncio.create_task(self._run(), name=f"spine-projector-{kind.name}")

    async def stop(self) -> None:
        """Store what is folded, and let another one go on at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._own()
                await self._fold_for_ever()
            except LeaseLost as error:
                logger.warning("%s", error)
            except (SpineError, RedisError, OSError) as error:
                logger.warning("%s cannot fold: %s", self._kind.name, error)
            self._generation = 0
            await asyncio.sleep(STAND_BY_S)

    async def _own(self) -> None:
        """Wait until this worker owns the projection, and take up where it was stored."""
        while True:
            args: list[Argument] = [self._worker, self._kind.version, self._lease_ms]
            reply = await self._server.run("acquire", [self._lease], args)
            if reply != 0:
                break
            await asyncio.sleep(STAND_BY_S)
        self._generation = int(reply[0])
        self._at_work = False
        stored = await self._server.command("HGET", self._positions, self._kind.version)
        self._position = int(stored or 0)
        self._cells.clear()
        self._dirty.clear()
        self._snapshots.clear()
        self._failed.clear()
        if self._kind.scope == "global":
            self._cells[WHOLE] = await self._travel().cell(WHOLE, self._position)

    @property
    def _positions(self) -> str:
        return self._server.keys.own("position", self._kind.name)

    def _travel(self) -> TimeTravel[Any]:
        return TimeTravel(self._spine.reader, self._kind)

    async def _fold_for_ever(self) -> None:
        spine, selection = self._spine, Selection(types=_patterns(self._kind))
        feed = Feed(self._server, spine.reader, spine.listener, selection, self._position)
        await feed.start()
        folding = asyncio.create_task(self._follow(feed), name=f"spine-fold-{self._kind.name}")
        try:
            while not folding.done():
                await self._flush()
                await asyncio.wait((folding,), timeout=FLUSH_EVERY_S)
                if not self._at_work and not folding.done():
                    self._position = max(self._position, feed.position)
            await folding
        finally:
            folding.cancel()
            await asyncio.gather(folding, return_exceptions=True)
            feed.stop()
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await self._flush(lease_ms=0)

    async def _follow(self, feed: Feed) -> None:
        count = 0
        async with aclosing(feed.events()) as events:
            async for event in events:
                self._at_work = True
                if self._kind.reducer_for(event) is not None:
                    await self._fold(event)
                    count += 1
                self._position = event.seq
                self._at_work = False
                if count >= FLUSH_EVENTS:
                    count = 0
                    await self._flush()

    async def _fold(self, event: Event[Any]) -> None:
        name = WHOLE if self._kind.scope == "global" else event.key
        if name in self._failed:
            return
        try:
            cell = self._cells.get(name) or await self._load(name, event.seq - 1)
            if event.seq > cell.seq:
                cell.fold(self._kind, event)
                self._dirty.setdefault(name, _Dirty(cell, event.seq))
                if cell.snapshot_due:
                    cell.snapshot_due = False
                    self._snapshots.append((name, cell.seq, cell.encode()))
        except StateError as error:
            self._fail(name, event.seq, error)

    def _fail(self, name: str, seq: int, error: StateError) -> None:
        """Leave a state as it is before the event `seq`, which cannot be in it."""
        self._failed[name] = seq
        what = "it" if name == WHOLE else f"its key {name!r}"
        logger.error("%s; %s waits for a new version of %s", error, what, self._kind.name)

    async def _load(self, key: str, until: int) -> Cell:
        rebuilder = Rebuilder(self._spine.reader, self._kind)
        brought = (await rebuilder.bring({key: until}, begin="newest"))[key]
        if brought.error is not None:
            raise brought.error
        assert brought.cell is not None
        if brought.damaged or (brought.folded and not brought.stored):
            what = f"is damaged: {brought.damaged}" if brought.damaged else "is lost"
            logger.warning("stored state of %s, key %r %s; rebuilt from the log", self._kind.name, key, what)
        self._cells[key] = brought.cell
        for oldest in list(self._cells)[: max(0, len(self._cells) - CACHED_KEYS)]:
            if oldest not in self._dirty:
                del self._cells[oldest]
        return brought.cell

    async def _flush(self, lease_ms: int | None = None) -> None:
        """Store what was folded since the last time; what failed keeps the position back. Raises `LeaseLost`."""
        async with self._storing:
            if self._generation:
                await self._store(lease_ms)

    async def _store(self, lease_ms: int | None) -> None:
        states = self._encoded()
        dirty, self._dirty = self._dirty, {}
        snapshots, self._snapshots = self._snapshots, []
        position = min([self._position, *(seq - 1 for seq in self._failed.values())])
        keys, kind = self._server.keys, self._kind
        names = [self._lease, self._positions]
        lease_for = self._lease_ms if lease_ms is None else lease_ms
        args: list[Argument] = [self._generation, lease_for, kind.version, position, len(states)]
        for name, state in states.items():
            names.append(keys.state(kind.name, kind.version, self._partition(name)))
            args += (name, state)
        args.append(len(snapshots))
        for name, seq, raw in snapshots:
            names.append(keys.snapshots(kind.name, kind.version, self._partition(name), name))
            args += (seq, raw)
        fault("project.before")
        try:
            kept = await self._server.run("project", names, args)
        except BaseException:
            self._dirty = {**self._dirty, **dirty}
            self._snapshots = [*snapshots, *self._snapshots]
            raise
        if not kept:
            raise LeaseLost(f"another worker owns {kind.name} now")

    def _encoded(self) -> dict[str, bytes]:
        """Return the states that are to be stored; one that cannot be stored has failed."""
        found = {}
        for name, unstored in list(self._dirty.items()):
            try:
                found[name] = unstored.cell.encode()
            except StateError as error:
                del self._dirty[name]
                self._fail(name, unstored.since, error)
        return found

    def _partition(self, name: str) -> int:
        return 0 if name == WHOLE else partition_of(name, self._server.partitions)


def _patterns(kind: type[Projection[Any]]) -> tuple[str, ...]:
    found: Iterable[str] = (pattern for spec in kind.reducers for pattern in spec.patterns)
    return tuple(sorted(set(found)))
