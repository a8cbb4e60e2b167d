"""State as a fold: the state of each key, loaded, folded forward and written with the commit."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError

from spine.connection import Argument, Server
from spine.errors import ReducerFailed
from spine.events import Event
from spine.keys import partition_of
from spine.log.drafts import Write
from spine.log.reader import Reader, Selection
from spine.state import Reducing, decode_state, encode_state, fold_one

logger = logging.getLogger("spine")

CACHED_KEYS = 20_000


class Cell(msgspec.Struct):
    """State of one key: folded over every event up to `seq`."""

    seq: int
    state: BaseModel


class States:
    """The states of one agent in one worker."""

    def __init__(self, server: Server, reader: Reader, agent: type[Reducing[Any]]) -> None:
        self._server = server
        self._reader = reader
        self._agent = agent
        self._model = agent.state_model
        self._cells: OrderedDict[str, Cell] = OrderedDict()
        self._types = tuple(sorted({pattern for spec in agent.reducers for pattern in spec.patterns}))

    @property
    def kept(self) -> bool:
        """Tell whether the agent has state at all."""
        return bool(self._agent.reducers)

    async def load(self, events: Iterable[Event[Any]]) -> None:
        """Bring the states of the keys of `events` to hand, in one round trip for those that are stored."""
        if not self.kept:
            return
        keys = {event.key: event.seq for event in reversed(list(events)) if event.key not in self._cells}
        if not keys:
            return
        commands: list[tuple[Argument, ...]] = []
        for key in keys:
            partition = partition_of(key, self._server.partitions)
            commands += (
                ("HGET", self._stored(partition), key),
                ("LINDEX", self._server.keys.by_key(partition, key), 0),
            )
        replies = await self._server.commands(*commands)
        for place, (key, seq) in enumerate(keys.items()):
            raw, first = replies[2 * place : 2 * place + 2]
            cell = self._decode(key, raw)
            if cell is None:
                cell = Cell(0, self._new())
                if first is not None and int(first.partition(b":")[0]) < seq:
                    await self.catch_up(key, cell, seq - 1)
            self._keep(key, cell)

    async def cell(self, event: Event[Any], *, overtakes: bool) -> Cell:
        """Return the state of the event's key with the event folded in.

        `overtakes` says that earlier events of the key may not have been handled: they are folded from the log first.
        """
        cell = self._cells.get(event.key)
        if cell is None:
            await self.load([event])
            cell = self._cells[event.key]
        if event.seq > cell.seq:
            if overtakes:
                await self.catch_up(event.key, cell, event.seq - 1)
            self._fold(cell, event)
        return cell

    def folded_to(self, key: str) -> int:
        """Return the seq that the state of `key` at hand is folded up to; 0 when it is not at hand."""
        cell = self._cells.get(key)
        return 0 if cell is None else cell.seq

    async def at(self, key: str, seq: int) -> BaseModel:
        """Return the state of `key` at `seq`, folded from the log."""
        cell = Cell(0, self._new())
        await self.catch_up(key, cell, seq)
        return cell.state

    async def catch_up(self, key: str, cell: Cell, until: int) -> None:
        """Fold the events of `key` after the cell's seq, up to `until`."""
        selection = Selection(types=self._types, key=key)
        async with aclosing(self._reader.forward(selection, cell.seq, until)) as events:
            async for event in events:
                self._fold(cell, event)
        cell.seq = max(cell.seq, until)

    def write(self, key: str, cell: Cell) -> Write:
        """Return the write that stores a state."""
        partition = partition_of(key, self._server.partitions)
        return Write("HSET", self._stored(partition), "hash", (key, encode_state(cell.seq, cell.state)))

    def forget(self, key: str) -> None:
        """Drop a state that may differ from what is stored."""
        self._cells.pop(key, None)

    def forget_partition(self, partition: int) -> None:
        """Drop the states of a partition that another worker holds now."""
        for key in [key for key in self._cells if partition_of(key, self._server.partitions) == partition]:
            del self._cells[key]

    def _fold(self, cell: Cell, event: Event[Any]) -> None:
        try:
            cell.state = fold_one(self._agent, cell.state, event)
        except ReducerFailed:
            self.forget(event.key)
            raise
        cell.seq = event.seq

    def _keep(self, key: str, cell: Cell) -> None:
        self._cells[key] = cell
        self._cells.move_to_end(key)
        while len(self._cells) > CACHED_KEYS:
            self._cells.popitem(last=False)

    def _new(self) -> BaseModel:
        assert self._model is not None
        return self._model()

    def _stored(self, partition: int) -> str:
        return self._server.keys.state(self._agent.name, self._agent.version, partition)

    def _decode(self, key: str, raw: bytes | None) -> Cell | None:
        if raw is None or self._model is None:
            return None
        try:
            seq, state = decode_state(self._model, raw)
        except (msgspec.MsgspecError, ValidationError, ValueError) as error:
            logger.warning("stored state of %s, key %r is damaged and rebuilt: %s", self._agent.name, key, error)
            return None
        return Cell(seq, state)
