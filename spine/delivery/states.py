"""The states of one agent in one worker: loaded, folded forward, and written with the commit."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

from spine.delivery.records import Done
from spine.errors import ReducerFailed
from spine.events import Event
from spine.keys import partition_of
from spine.log.drafts import Write
from spine.log.reader import Reader
from spine.state.fold import Cell, Reducing
from spine.state.rebuild import Brought, Rebuilder

logger = logging.getLogger("spine")

CACHED_KEYS = 20_000


class States:
    """The states of one agent in one worker.

    What is here is the fold of the log up to the cell's seq, or is fetched again: a partition's states are forgotten
    with its lease, all of them when the namespace is not the one that was opened. Whatever was stored meanwhile by
    others is seen when a state is loaded, because the index tells which events came after it.
    """

    def __init__(self, reader: Reader, agent: type[Reducing[Any]]) -> None:
        self._server = reader.server
        self._agent = agent
        # Without order two attempts of a key may end in either order.
        self._command = "forward" if getattr(agent, "ordering", "key") == "none" else "HSET"
        self._rebuilder = Rebuilder(reader, agent)
        self._namespace = reader.server.namespace
        self._cells: OrderedDict[str, Cell] = OrderedDict()
        self._in_use: WeakValueDictionary[str, Cell] = WeakValueDictionary()

    @property
    def kept(self) -> bool:
        """Tell whether the agent has state at all."""
        return bool(self._agent.reducers)

    async def load(self, events: Iterable[Event[Any]]) -> None:
        """Bring the states of the keys of `events` to hand, as they were before them.

        A key whose state cannot be had is left out; `cell` says why.
        """
        if not self.kept:
            return
        self._forget_another_namespace()
        first: dict[str, int] = {}
        for event in events:
            if event.key not in self._cells:
                first[event.key] = min(event.seq, first.get(event.key, event.seq))
        if first:
            await self._load({key: seq - 1 for key, seq in first.items()})

    async def cell(self, event: Event[Any], *, overtakes: bool) -> tuple[Cell, bool]:
        """Return the state of the event's key with the event folded in, and whether it has to be stored.

        `overtakes` says that earlier events of the key may not have been handled: they are folded from the log first.
        Raises `StateError`.
        """
        self._forget_another_namespace()
        cell = self._at_hand(event.key)
        if cell is None:
            cell = await self._loaded(event)
        elif event.seq > cell.seq and (overtakes or not cell.contiguous):
            brought = await self._rebuilder.bring({event.key: event.seq - 1}, {event.key: cell})
            self._raise(event.key, brought[event.key])
        if event.seq > cell.seq:
            try:
                cell.fold(self._agent, event)
                self._check(event.key, cell)
            except BaseException:
                self.forget(event.key)
                raise
            cell.contiguous = not overtakes
        return cell, cell.events != cell.stored_events

    def _check(self, key: str, cell: Cell) -> None:
        """Raise `ReducerFailed` where the state cannot be stored: it could not be had again."""
        try:
            _ = cell.body
        except ReducerFailed as error:
            raise ReducerFailed(f"{self._agent.name}, key {key!r}: {error}") from error

    async def at(self, key: str, seq: int) -> Any:
        """Return the state of `key` at `seq`, folded from the log."""
        brought = (await self._rebuilder.bring({key: seq}))[key]
        self._raise(key, brought)
        assert brought.cell is not None
        return brought.cell.state

    def writes(self, key: str, cell: Cell) -> tuple[Write, ...]:
        """Return the writes that store a state, and a snapshot of it where one is due."""
        partition = partition_of(key, self._server.partitions)
        agent, keys, raw = self._agent, self._server.keys, cell.encode()
        cell.stored_events = cell.events
        stored = Write(self._command, keys.state(agent.name, agent.version, partition), "hash", (key, raw))
        if not cell.snapshot_due:
            return (stored,)
        cell.snapshot_due = False
        snapshots = keys.snapshots(agent.name, agent.version, partition, key)
        return stored, Write("HSET", snapshots, "hash", (cell.seq, raw))

    def forget(self, key: str) -> None:
        """Drop a state that may differ from what is stored."""
        self._cells.pop(key, None)
        self._in_use.pop(key, None)

    def forget_partition(self, partition: int) -> None:
        """Drop the states of a partition that another worker holds now."""
        for key in {*self._cells, *self._in_use}:
            if partition_of(key, self._server.partitions) == partition:
                self.forget(key)

    def _forget_another_namespace(self) -> None:
        """Events that were folded here may be gone after a loss of data."""
        if self._namespace is not self._server.namespace:
            self._namespace = self._server.namespace
            self._cells.clear()
            self._in_use.clear()

    def _at_hand(self, key: str) -> Cell | None:
        """Return a cell that is here, or still in use by an attempt: there is one for each key."""
        cell = self._cells.get(key)
        if cell is None:
            cell = self._in_use.get(key)
            if cell is not None:
                self._keep(key, cell)
        return cell

    async def _loaded(self, event: Event[Any]) -> Cell:
        brought = (await self._load({event.key: event.seq - 1}))[event.key]
        self._raise(event.key, brought)
        return self._cells[event.key]

    async def _load(self, wanted: dict[str, int]) -> dict[str, Brought]:
        found = await self._rebuilder.bring(wanted, begin="newest")
        for key, brought in found.items():
            if brought.cell is not None and self._at_hand(key) is None:
                brought.cell.contiguous = brought.cell.seq <= wanted[key]
                self._keep(key, brought.cell)
        await self._report({key: brought for key, brought in found.items() if brought.folded or brought.damaged})
        return found

    def _keep(self, key: str, cell: Cell) -> None:
        self._cells[key] = self._in_use[key] = cell
        self._cells.move_to_end(key)
        while len(self._cells) > CACHED_KEYS:
            self._cells.popitem(last=False)

    def _raise(self, key: str, brought: Brought) -> None:
        if brought.error is not None:
            self.forget(key)
            raise brought.error

    async def _report(self, rebuilt: dict[str, Brought]) -> None:
        """Say which stored states were damaged or lost; a new agent, or version, had none."""
        name, version, keys = self._agent.name, self._agent.version, self._server.keys
        missing = []
        for key, brought in rebuilt.items():
            if brought.damaged:
                logger.warning("stored state of %s, key %r is damaged and rebuilt: %s", name, key, brought.damaged)
            elif not brought.stored:
                missing.append((key, brought))
        places = [(partition_of(key, self._server.partitions), brought.last) for key, brought in missing]
        replies = await self._server.commands(
            *(("HGET", keys.done(name, partition, seq), seq) for partition, seq in places)
        )
        for (key, brought), raw in zip(missing, replies, strict=True):
            if raw is not None and Done.decode(raw).version == version:
                logger.warning(
                    "stored state of %s, key %r is lost and rebuilt from %d events", name, key, brought.folded
                )
