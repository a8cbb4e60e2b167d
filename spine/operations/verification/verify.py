"""Is a fold what it must be: pure, and the same each time; finds reducers that do I/O or change what is not theirs."""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from copy import deepcopy
from functools import cache
from typing import Any

import msgspec
from pydantic import BaseModel

from spine.connection import Server
from spine.errors import ReducerFailed
from spine.events import Event
from spine.log.reader import Reader
from spine.operations.verification.purity import Shared, watched
from spine.past.timetravel import PRESENT, WHOLE, TimeTravel
from spine.scan import all_keys
from spine.state.dumped import dump
from spine.state.fold import Cell, ReducerSpec, Reducing, reduced
from spine.state.projection import is_global


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong with a fold.

    Attributes:
        key: of the state.
        seq: of the event.
        type: of the event.
        reducer: which one.
        what: what is wrong with it.
    """

    key: str
    seq: int
    type: str
    reducer: str
    what: str


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The fold of one key, looked at.

    Attributes:
        key: of the state.
        events: how many were folded.
        digests: of the state after each of them: the same in every process, or the fold depends on more than the log.
        faults: the first of each reducer and kind.
        stored: that what is stored of this version is another state; ``None`` where it is the same, or nothing is.
    """

    key: str
    events: int
    digests: array[int]
    faults: list[Fault]
    stored: Fault | None = None


async def verify(
    reader: Reader, kind: type[Reducing[Any]], *, key: str | None, until: int
) -> AsyncGenerator[Verified, None]:
    """Fold each key (or `key`) twice from the beginning of the log, and yield what was found.

    Where the beginning was trimmed away, the fold begins with the state that was kept then; it raises `ReplayGap` where
    none was.
    """
    travel = TimeTravel(reader, kind)
    one_only = key is not None or is_global(kind)
    if one_only:
        travel.checked(key)
    async with aclosing(keys_to_fold(reader.server, kind, key)) as keys:
        async for one in keys:
            found = await _verified(travel, kind, one, until)
            if found.events or found.faults or one_only:
                yield found


async def keys_to_fold(server: Server, kind: type[Reducing[Any]], key: str | None) -> AsyncGenerator[str, None]:
    """Yield the keys whose states are meant: `key` where it is given, else all of the log, each once."""
    if key is not None or is_global(kind):
        yield WHOLE if key is None else key
        return
    told: set[str] = set()
    async with aclosing(all_keys(server)) as pages:
        async for page in pages:
            for one in page:
                if one not in told:
                    told.add(one)
                    yield one


async def _verified(travel: TimeTravel[Any], kind: type[Reducing[Any]], key: str, until: int = PRESENT) -> Verified:
    # Each begins with a state made anew: what stands in it before the first event is part of the fold.
    first, second = [_Fold(kind, key, await travel.base(key, until)) for _ in range(2)]
    for fold in (first, second):
        async with aclosing(travel.events(key, fold.cell.seq, until)) as batches:
            async for events in batches:
                if not all(fold.step(event, first) for event in events):
                    break
    faults = {(fault.reducer, fault.what): fault for fault in reversed((*first.faults, *second.faults))}
    return Verified(
        key="" if key == WHOLE else key,
        events=first.events,
        digests=first.digests,
        faults=sorted(faults.values(), key=lambda fault: fault.seq),
        stored=None if faults else await _stored_otherwise(travel, kind, key, first.cell),
    )


async def _stored_otherwise(travel: TimeTravel[Any], kind: type[Reducing[Any]], key: str, folded: Cell) -> Fault | None:
    """Return the fault of a state that is had from what is stored, and is not what the whole log makes of it."""
    if not folded.seq or (await travel.cell(key, folded.seq)).body == folded.body:
        return None
    what = f"is stored otherwise: what its reducers do has changed since, and version {kind.version} has not"
    return Fault(key="" if key == WHOLE else key, seq=folded.seq, type="", reducer=kind.__name__, what=what)


class _Fold:
    """One fold of one key; the second is compared with the first, step by step."""

    def __init__(self, kind: Any, key: str, base: Cell) -> None:
        self._kind = kind
        self._key = key
        self._told: set[tuple[Any, str]] = set()
        self.digests = array("L")
        self.cell = base
        self.faults: list[Fault] = []

    @property
    def events(self) -> int:
        """How many were folded here."""
        return len(self.digests)

    def step(self, event: Event[Any], first: _Fold) -> bool:
        """Fold one event; false when that failed."""
        spec = self._kind.reducer_for(event)
        assert spec is not None
        try:
            after = self._reduced(spec, event)
        except ReducerFailed as error:
            self._fault(event, spec, f"raises: {error.__cause__!r}" if error.__cause__ else str(error))
            return False
        self.cell = Cell(after, event.seq, self.cell.events + 1)
        try:
            self.digests.append(self.cell.digest)
        except ReducerFailed as error:
            self._fault(event, spec, f"makes a state that cannot be stored: {error.__cause__}")
            return False
        if first is not self:
            self._compare(event, spec, first)
        return True

    def _reduced(self, spec: ReducerSpec, event: Event[Any]) -> Any:
        """Return what the reducer makes of the event, and note what else it does. Raises `ReducerFailed`."""
        state, body, payload = self.cell.state, self.cell.body, deepcopy(event.payload)
        shared = _shared_by(self._kind, spec.function)
        before = shared.look()
        try:
            with watched() as touched:
                return reduced(self._kind, spec, state, event)
        finally:
            if not _is_dumped_as(state, body):
                self._fault(event, spec, "changes the state it was given instead of returning a new one")
            if event.payload != payload:
                self._fault(event, spec, "changes the payload of the event")
            changed = [name for name, likeness in shared.look().items() if likeness != before[name]]
            for what in sorted((*touched, *(f"changes a shared object: {name}" for name in changed))):
                self._fault(event, spec, what)

    def _compare(self, event: Event[Any], spec: ReducerSpec, first: _Fold) -> None:
        place = len(self.digests) - 1
        if place >= len(first.digests) or self.digests[place] != first.digests[place]:
            self._fault(event, spec, "gives another state when the same events are folded again")
        try:
            again = Cell.decode(type(self.cell.state), self.cell.encode())
        except ValueError as error:
            self._fault(event, spec, f"makes a state that cannot be stored: {error}")
        else:
            if not _are_alike(again, self.cell):
                self._fault(event, spec, "makes a state that is another one once it was stored and loaded")

    def _fault(self, event: Event[Any], spec: Any, what: str) -> None:
        if (spec, what) in self._told:
            return
        self._told.add((spec, what))
        self.faults.append(
            Fault(key=self._key, seq=event.seq, type=event.type, reducer=spec.function.__qualname__, what=what)
        )


@cache
def _shared_by(kind: Any, function: Callable[..., Any]) -> Shared:
    return Shared(function, kind, kind.itself)


def _are_alike(one: Cell, other: Cell) -> bool:
    """Tell whether two states are equal; a number that is none equals itself here."""
    return bool(one.state == other.state) or (b"NaN" in one.body and repr(one.state) == repr(other.state))


def _is_dumped_as(state: BaseModel, body: bytes) -> bool:
    try:
        return dump(state) == body
    except Exception:  # what was put into it cannot be dumped at all
        return False
