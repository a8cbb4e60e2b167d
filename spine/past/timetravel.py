"""The state at any moment of the log, and the steps that led there; no handler runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Generic, cast

import msgspec

from spine.catalog.upcast import upcast
from spine.errors import InvalidInput, ReplayGap
from spine.events import Event
from spine.keys import partition_of
from spine.log.floors import floors, last_gone
from spine.log.reader import Reader, Selection
from spine.names import check_key
from spine.state.fold import Cell, Reducing, StateT
from spine.state.projection import is_global
from spine.state.rebuild import Rebuilder

logger = logging.getLogger("spine")

PRESENT = 2**53 - 1
WHOLE = ""


class Step(msgspec.Struct, Generic[StateT], frozen=True):
    """One event of a fold.

    Attributes:
        event: the event.
        before: the state before it.
        after: the state with it.
    """

    event: Event[Any]
    before: StateT
    after: StateT


class TimeTravel(Generic[StateT]):
    """Folds one agent's or projection's states.

    Args:
        reader: of the log.
        kind: the agent or projection.
    """

    def __init__(self, reader: Reader, kind: type[Reducing[StateT]]) -> None:
        if not kind.reducers:
            raise InvalidInput(f"{kind.__name__} has no reducers: there is no state to fold")
        self._server = reader.server
        self._reader = reader
        self._streams = reader.streams
        self._kind = kind

    def checked(self, key: str | None) -> str:
        """Return `key` when it fits the kind: one for a state per key, none for a global one."""
        if is_global(self._kind):
            if key is not None:
                raise InvalidInput(f"{self._kind.__name__} has one state over all keys: leave key out")
            return WHOLE
        if key is None:
            raise InvalidInput(f"{self._kind.__name__} has a state for each key: give key=")
        return check_key(key)

    async def cell(
        self, key: str, until: int = PRESENT, *, begin: str = "stored", told: Callable[[int], None] = lambda seq: None
    ) -> Cell:
        """Return the state at seq `until`, folded on from the nearest stored one.

        ``begin="0"`` takes no stored state; `told` is called with the seq as a global fold goes on. Raises
        `ReducerFailed`, or `ReplayGap` where events it needs are gone.
        """
        if key == WHOLE:
            return await self._global_cell(until, begin, told)
        rebuilder = Rebuilder(self._reader, self._kind)
        brought = (await rebuilder.bring({key: until}, begin=begin))[key]
        if brought.error is not None:
            raise brought.error
        assert brought.cell is not None
        return brought.cell

    async def base(self, key: str, until: int) -> Cell:
        """Return the state from which every event up to `until` that is left can be folded: the initial one mostly.

        Raises `ReplayGap` where what made it was trimmed away, and no stored state covers that.
        """
        if key == WHOLE:
            gone = max((await floors(self._server)).values(), default=0)
        else:
            place = self._server.keys.gone(partition_of(key, self._server.partitions))
            gone = last_gone(await self._server.command("HGET", place, key))
        return await self.cell(key, min(gone, until)) if gone else Cell(self._kind.initial())

    async def steps(self, key: str, after: int, until: int) -> AsyncGenerator[Step[StateT], None]:
        """Yield the events of the fold with ``after < seq <= until``, each with the states around it."""
        cell = await self.cell(key, after)
        async with aclosing(self.events(key, after, until)) as batches:
            async for events in batches:
                for event in events:
                    before = cell.state
                    cell.fold(self._kind, event)
                    yield Step(upcast(event), cast(StateT, before), cast(StateT, cell.state))

    async def events(self, key: str, after: int, until: int) -> AsyncGenerator[list[Event[Any]], None]:
        """Yield the events of the fold, in seq order, many at a time."""
        until = min(until, await self._reader.head())
        async with aclosing(self._reader.batches(await self._selection(key), after, until)) as batches:
            async for events in batches:
                found = [event for event in events if self._kind.reducer_for(event) is not None]
                if found:
                    yield found

    async def _selection(self, key: str) -> Selection:
        if key != WHOLE:
            return Selection(key=key)
        await self._streams.refresh()
        numbers = [stream.number for stream in self._streams.all() if self._kind.may_fold(stream.topic)]
        partitions = range(self._server.partitions)
        return Selection(streams=frozenset((partition, number) for partition in partitions for number in numbers))

    async def _global_cell(self, until: int, begin: str, told: Callable[[int], None]) -> Cell:
        cell = await self._stored_global(until) if begin == "stored" else Cell(self._kind.initial())
        floor = max((await floors(self._server)).values(), default=0)
        if cell.seq < min(floor, until):
            raise ReplayGap(
                f"{self._kind.name} at seq {until} needs the whole log, of which the events up to {floor} were trimmed "
                "away, and no stored state covers them."
            )
        until = min(until, await self._reader.head())
        async with aclosing(self._reader.batches(await self._selection(WHOLE), cell.seq, until)) as batches:
            async for events in batches:
                cell.fold_all(self._kind, events)
                told(cell.seq)
        return cell

    async def _stored_global(self, until: int) -> Cell:
        kind, keys = self._kind, self._server.keys
        names = [
            keys.state(kind.name, kind.version, 0),
            keys.snapshots(kind.name, kind.version, 0, WHOLE),
            keys.gone(0),
            keys.by_key(0, WHOLE),
        ]
        assert kind.state_model is not None
        begin = "stored"
        while True:
            ((raw, snapshot, *_),) = await self._server.run("bases", names, [0, WHOLE, begin, until, 0])
            try:
                return Cell.decode(kind.state_model, raw) if raw else Cell(kind.initial())
            except ValueError as error:
                logger.warning("a stored state of %s is damaged and rebuilt: %s", kind.name, error)
                begin = f"snapshot:{snapshot.decode()}" if snapshot else "snapshot"
