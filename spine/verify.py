"""Is a fold what it must be: pure, and the same each time; finds reducers that do I/O or change what is not theirs."""

from __future__ import annotations

import sys
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import msgspec

from spine.connection import Server
from spine.errors import ReducerFailed
from spine.events import Event
from spine.log.reader import Reader
from spine.log.streams import Streams
from spine.projection import is_global
from spine.scan import all_keys
from spine.state import Cell, Reducing, canonical, reduced
from spine.timetravel import PRESENT, WHOLE, TimeTravel

_IO = ("socket.", "subprocess.", "os.", "shutil.", "sqlite3.", "urllib.", "ftplib.", "smtplib.", "time.sleep")
_SOURCES = (".py", ".pyc")


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
        digest: of the final state: the same in every process, or the fold depends on more than the log.
        faults: the first of each reducer and kind.
    """

    key: str
    events: int
    digest: str
    faults: list[Fault]


async def verify(
    server: Server, reader: Reader, streams: Streams, kind: type[Reducing[Any]], *, key: str | None, until: int
) -> AsyncGenerator[Verified, None]:
    """Fold each key (or `key`) twice from the beginning of the log, and yield what was found.

    Where the beginning was trimmed away, the fold begins with the state that was kept then; it raises `ReplayGap` where
    none was.
    """
    travel = TimeTravel(server, reader, streams, kind)
    if key is not None or is_global(kind):
        yield await _verified(travel, kind, travel.checked(key), until)
        return
    async with aclosing(all_keys(server)) as pages:
        async for page in pages:
            for one in page:
                found = await _verified(travel, kind, one, until)
                if found.events:
                    yield found


async def _verified(travel: TimeTravel[Any], kind: type[Reducing[Any]], key: str, until: int = PRESENT) -> Verified:
    base = (await travel.base(key, until)).encode()
    assert kind.state_model is not None
    first, second = (_Fold(kind, key, Cell.decode(kind.state_model, base)) for _ in range(2))
    for fold in (first, second):
        async with aclosing(travel.events(key, fold.cell.seq, until)) as batches:
            async for events in batches:
                if not all(fold.step(event, first) for event in events):
                    break
    faults = {(fault.reducer, fault.what): fault for fault in reversed((*first.faults, *second.faults))}
    return Verified(
        key="" if key == WHOLE else key,
        events=first.events,
        digest=f"{zlib.crc32(first.cell.body):08x}",
        faults=sorted(faults.values(), key=lambda fault: fault.seq),
    )


class _Fold:
    """One fold of one key; the second is compared with the first, step by step."""

    def __init__(self, kind: type[Reducing[Any]], key: str, base: Cell) -> None:
        self._kind = kind
        self._key = key
        self._digests: list[int] = []
        self._told: set[tuple[Any, str]] = set()
        self.cell = base
        self.faults: list[Fault] = []

    @property
    def events(self) -> int:
        """How many were folded here."""
        return len(self._digests)

    def step(self, event: Event[Any], first: _Fold) -> bool:
        """Fold one event; false when that failed."""
        spec = self._kind.reducer_for(event)
        assert spec is not None
        before, payload = self.cell.body, msgspec.msgpack.encode(event.payload)
        state = self.cell.state
        try:
            with _watched() as io:
                after = reduced(self._kind, spec, state, event)
        except ReducerFailed as error:
            self._fault(event, spec, f"raises: {error.__cause__!r}" if error.__cause__ else str(error))
            return False
        if canonical(state) != before:
            self._fault(event, spec, "changes the state it was given instead of returning a new one")
        if msgspec.msgpack.encode(event.payload) != payload:
            self._fault(event, spec, "changes the payload of the event")
        self.cell = Cell(after, event.seq, self.cell.events + 1)
        self._digests.append(zlib.crc32(self.cell.body))
        if first is not self:
            self._compare(event, spec, first, io)
        return True

    def _compare(self, event: Event[Any], spec: Any, first: _Fold, io: list[str]) -> None:
        place = len(self._digests) - 1
        if place >= len(first._digests) or self._digests[place] != first._digests[place]:
            self._fault(event, spec, "gives another state when the same events are folded again")
        if io:
            self._fault(event, spec, f"does I/O: {', '.join(sorted(set(io)))}")
        try:
            again = Cell.decode(type(self.cell.state), self.cell.encode())
        except ValueError as error:
            self._fault(event, spec, f"makes a state that cannot be stored: {error}")
        else:
            if again.state != self.cell.state:
                self._fault(event, spec, "makes a state that is another one once it was stored and loaded")

    def _fault(self, event: Event[Any], spec: Any, what: str) -> None:
        if (spec, what) in self._told:
            return
        self._told.add((spec, what))
        self.faults.append(
            Fault(key=self._key, seq=event.seq, type=event.type, reducer=spec.function.__qualname__, what=what)
        )


_watching: list[list[str]] = []
_hooked = False


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Note what goes to the outside meanwhile; Python tells of it by its audit events."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True
    seen: list[str] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.pop()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    opened = event == "open" and not str(args[0]).endswith(_SOURCES)
    if opened or event.startswith(_IO):
        _watching[-1].append(event)
