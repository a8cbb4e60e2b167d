"""State as a fold over the log: declaring reducers, one step of the fold, and how a state is stored."""

from __future__ import annotations

import contextlib
import inspect
import re
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from pydantic import BaseModel, PydanticUserError, ValidationError

from spine.catalog.types import EventType
from spine.catalog.upcast import is_upcast, upcast
from spine.declarations import check_patterns, find, marked, names_around, payload_model, state_model
from spine.errors import InvalidInput, ReducerFailed
from spine.events import Event
from spine.failures import FROM_OUTSIDE, told
from spine.names import check_agent_name
from spine.payloads import as_model
from spine.state.dumped import dump, load

_VERSION = re.compile(r"[A-Za-z0-9._+-]{1,64}")
StateT = TypeVar("StateT")
Function = TypeVar("Function", bound=Callable[..., Any])


class ReducerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One declared reducer: types, method, model of the payload."""

    patterns: tuple[str, ...]
    function: Callable[..., Any]
    model: type[BaseModel] | None = None


def reduces(*types: str | type[EventType]) -> Callable[[Function], Function]:
    """Declare a method to be the reducer of `types`: it takes the state and an event, and returns the new state.

    A reducer is pure: no I/O, no clock, no randomness, and it changes nothing but what it returns.
    ``spine replay module:Agent --verify`` finds one that is not.
    """

    def mark(function: Function) -> Function:
        if inspect.iscoroutinefunction(function):
            raise InvalidInput(f"{function.__qualname__}: a reducer does no I/O, so it is a plain def")
        function.__spine_reduces__ = check_patterns(types)  # type: ignore[attr-defined]
        return function

    return mark


class Reducing(Generic[StateT]):
    """What agents and projections share: a state model and reducers. Subclass `Agent` or `Projection`.

    Attributes:
        name: unique in the namespace.
        version: change it when the reducers change: state is kept per version and rebuilt from the log.
        snapshot_events: a state is kept for time travel after each so many events folded into it; ``None`` for never.
        snapshot_s: the same after each so many seconds, by the times of the events.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    snapshot_events: ClassVar[int | None] = None
    snapshot_s: ClassVar[float | None] = None
    state_model: ClassVar[type[BaseModel] | None] = None
    reducers: ClassVar[tuple[ReducerSpec, ...]] = ()
    _specs: ClassVar[dict[str, ReducerSpec | None]] = {}
    itself: ClassVar[Any] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        names = names_around(cls)
        cls.state_model = state_model(cls, names) or cls.state_model
        cls.reducers = tuple(
            ReducerSpec(patterns=function.__spine_reduces__, function=function, model=payload_model(function, names))
            for function in marked(cls, "__spine_reduces__")
        )
        cls._specs = {}
        cls.itself = cls.__new__(cls)  # what reducers see as self; they may not keep anything in it
        if cls.reducers and cls.state_model is None:
            raise InvalidInput(
                f"{cls.__name__} has reducers but no state: derive from {cls.__bases__[0].__name__}[Model]"
            )
        if cls.reducers:
            with contextlib.suppress(PydanticUserError):  # it names a model that is not defined yet
                cls.initial()
        if "name" in cls.__dict__:
            check_agent_name(cls.name)
        if not _VERSION.fullmatch(cls.version):
            raise InvalidInput(f"{cls.__name__}: version {cls.version!r} is not 1 to 64 of A-Z a-z 0-9 . _ + -")

    @classmethod
    def migrate(cls, version: str, state: dict[str, Any]) -> StateT:
        """Return this version's state for what an earlier `version` stored, where its events are trimmed away.

        Override it to be able to. It is pure like a reducer, and is not asked while the log still has every event.
        """
        raise NotImplementedError

    @classmethod
    def reducer_of(cls, event_type: str) -> ReducerSpec | None:
        """Return the reducer for a type; an exact name goes before a pattern."""
        try:
            return cls._specs[event_type]
        except KeyError:
            spec = cls._specs[event_type] = find(cls.reducers, event_type)
            return spec

    @classmethod
    def reducer_for(cls, event: Event[Any]) -> ReducerSpec | None:
        """Return the reducer for an event, ``None`` when it is no part of the fold.

        What was sent to an agent's inbox is folded by that agent alone.
        """
        if event.topic != event.type and event.topic != f"@{cls.name}":
            return None
        return cls.reducer_of(event.type)

    @classmethod
    def may_fold(cls, topic: str) -> bool:
        """Tell whether a topic may hold events of the fold."""
        return topic == f"@{cls.name}" or cls.reducer_of(topic) is not None

    @classmethod
    def initial(cls) -> BaseModel:
        """Return the state before the first event. Raises `InvalidInput` when the model has no such state."""
        if cls.state_model is None:
            raise InvalidInput(f"{cls.__name__} has no state: derive from {cls.__bases__[0].__name__}[Model]")
        try:
            return cls.state_model()
        except ValidationError as error:
            raise InvalidInput(
                f"{cls.state_model.__name__} cannot be the state of {cls.__name__}: before the first event there are "
                f"only its defaults, and {error.errors()[0]['loc'][0]!r} has none"
            ) from error


def fold_one(kind: type[Reducing[Any]], state: Any, event: Event[Any]) -> Any:
    """Return the state after `event`; the same state where the event is no part of the fold.

    Raises `ReducerFailed` when the reducer raises or returns something else than a state.
    """
    spec = kind.reducer_for(event)
    return state if spec is None else reduced(kind, spec, state, event)


def reduced(kind: type[Reducing[Any]], spec: ReducerSpec, state: Any, event: Event[Any]) -> Any:
    """Return what a reducer makes of a state and an event. Raises `ReducerFailed`."""
    try:
        if spec.model is not None or is_upcast(event.type):
            event = upcast(event, spec.model)
        if spec.model is not None:
            event = event.with_payload(as_model(spec.model, event.payload))
        result = spec.function(kind.itself, state, event)
    except FROM_OUTSIDE:
        raise
    except BaseException as error:
        raise ReducerFailed(
            f"{kind.name}.{spec.function.__name__} raised on event {event.seq} ({event.type}) of key {event.key!r}: "
            f"{told(error)}"
        ) from error
    if not isinstance(result, kind.state_model or BaseModel):
        raise ReducerFailed(
            f"{kind.name}.{spec.function.__name__} returned {type(result).__name__} on event {event.seq}, not a "
            f"{kind.state_model.__name__ if kind.state_model else 'state'}"
        )
    return result


class Cell(msgspec.Struct, weakref=True, eq=False):
    """A state, and how far it is folded.

    Attributes:
        state: folded over every event up to `seq`.
        seq: see there.
        events: how many events were folded into it.
        ts_ms: time of the last of these.
        stored_events: how many of them are in the stored state.
        snapshot_due: it is to be kept as a snapshot when it is stored next.
        contiguous: no event was handled that is not in it: the next in order may be folded without asking the log.
    """

    state: Any
    seq: int = 0
    events: int = 0
    ts_ms: int = 0
    stored_events: int = 0
    snapshot_due: bool = False
    contiguous: bool = False
    _body: bytes | None = None

    def fold(self, kind: type[Reducing[Any]], event: Event[Any]) -> None:
        """Take the next event into the state. Raises `ReducerFailed`; the state is then as it was before."""
        spec = kind.reducer_for(event)
        if spec is not None:
            self.state = reduced(kind, spec, self.state, event)
            self._body = None
            self.snapshot_due = self.snapshot_due or _crosses(kind, self, event.ts_ms)
            self.events += 1
            self.ts_ms = event.ts_ms
        self.seq = event.seq

    def fold_all(self, kind: type[Reducing[Any]], events: Iterable[Event[Any]]) -> None:
        """Take events into the state, in their order. Raises `ReducerFailed` as `fold` does.

        Where no snapshots are due it is quicker than `fold`: what is said of the last event is said once.
        """
        if kind.snapshot_events or kind.snapshot_s:
            for event in events:
                self.fold(kind, event)
            return
        state, count, reducer_for = self.state, 0, kind.reducer_for
        last = folded = None
        try:
            for event in events:
                spec = reducer_for(event)
                if spec is not None:
                    state = reduced(kind, spec, state, event)
                    folded = event
                    count += 1
                last = event
        finally:
            if last is not None:
                self.seq = last.seq
            if folded is not None:
                self.state, self.ts_ms, self._body = state, folded.ts_ms, None
                self.events += count

    @property
    def body(self) -> bytes:
        """The state as JSON, alike in every process. Raises `ReducerFailed` where a value in it has none."""
        if self._body is None:
            try:
                self._body = dump(self.state)
            except Exception as error:
                raise ReducerFailed(
                    f"the state with event {self.seq} in it cannot be stored as JSON: {type(error).__name__}: {error}"
                ) from error
        return self._body

    @property
    def digest(self) -> int:
        """A checksum of `body`."""
        return zlib.crc32(self.body)

    def copier(self) -> Callable[[], Any]:
        """Return what makes copies of the state as it is now."""
        return partial(load, type(self.state), self.body)

    def encode(self) -> bytes:
        """Return what is stored: ``seq checksum events ts_ms`` and the state."""
        rest = b"%d %d " % (self.events, self.ts_ms) + self.body
        return b"%d %d " % (self.seq, _checksum(self.seq, rest)) + rest

    @classmethod
    def decode(cls, model: type[BaseModel], raw: bytes) -> Cell:
        """Return the cell stored as `raw`. Raises `ValueError` when it is damaged."""
        seq, events, ts_ms, body = split_stored(raw)
        try:
            return cls(load(model, body), seq, events, ts_ms, events, _body=body)
        except Exception as error:  # a validator of the model may raise anything
            raise ValueError(f"not a {model.__name__}: {error}") from error


def split_stored(raw: bytes) -> tuple[int, int, int, bytes]:
    """Return (seq, events, ts_ms, JSON of the state) stored as `raw`. Raises `ValueError` when it is damaged."""
    seq, checksum, rest = raw.split(b" ", 2)
    if _checksum(int(seq), rest) != int(checksum):
        raise ValueError("wrong checksum")
    events, ts_ms, body = rest.split(b" ", 2)
    return int(seq), int(events), int(ts_ms), body


def _checksum(seq: int, rest: bytes) -> int:
    return zlib.crc32(rest, seq & 0xFFFFFFFF)


def _crosses(kind: type[Reducing[Any]], before: Cell, ts_ms: int) -> bool:
    """Tell whether the next event, of time `ts_ms`, is one after which a snapshot is kept.

    Decided by the events alone, so that a rebuilt state leaves snapshots at the same places.
    """
    every, seconds = kind.snapshot_events, kind.snapshot_s
    if every and (before.events + 1) % every == 0:
        return True
    return bool(seconds and before.events and before.ts_ms // (seconds * 1000) != ts_ms // (seconds * 1000))
