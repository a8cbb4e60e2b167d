"""State as a fold over the log: declaring reducers, one step of the fold, and how a state is stored."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from spine.catalog.types import EventType
from spine.declarations import check_patterns, find, marked, names_around, payload_model, state_model
from spine.errors import InvalidInput, ReducerFailed
from spine.events import Event
from spine.names import check_agent_name

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
    """

    def mark(function: Function) -> Function:
        function.__spine_reduces__ = check_patterns(types)  # type: ignore[attr-defined]
        return function

    return mark


class Reducing(Generic[StateT]):
    """What agents and projections share: a state model and reducers. Subclass `Agent` or `Projection`.

    Attributes:
        name: unique in the namespace.
        version: change it when the reducers change: state is kept per version and rebuilt from the log.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    state_model: ClassVar[type[BaseModel] | None] = None
    reducers: ClassVar[tuple[ReducerSpec, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        names = names_around(cls)
        cls.state_model = state_model(cls, names) or cls.state_model
        cls.reducers = tuple(
            ReducerSpec(patterns=function.__spine_reduces__, function=function, model=payload_model(function, names))
            for function in marked(cls, "__spine_reduces__")
        )
        if cls.reducers and cls.state_model is None:
            raise InvalidInput(
                f"{cls.__name__} has reducers but no state: derive from {cls.__bases__[0].__name__}[Model]"
            )
        if "name" in cls.__dict__:
            check_agent_name(cls.name)

    @classmethod
    def reducer_of(cls, event_type: str) -> ReducerSpec | None:
        """Return the reducer for a type; an exact name goes before a pattern."""
        return find(cls.reducers, event_type)


def fold_one(agent: type[Reducing[Any]], state: Any, event: Event[Any]) -> Any:
    """Return the state after `event`; the same state where no reducer is declared for its type.

    Raises `ReducerFailed` when the reducer raises or returns something else than a state.
    """
    spec = agent.reducer_of(event.type)
    if spec is None:
        return state
    try:
        if spec.model is not None:
            event = event.with_payload(spec.model.model_validate(event.payload))
        result = spec.function(_instance(agent), state, event)
    except Exception as error:
        raise ReducerFailed(
            f"{agent.name}.{spec.function.__name__} raised on event {event.seq} ({event.type}) of key {event.key!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if agent.state_model is not None and not isinstance(result, agent.state_model):
        raise ReducerFailed(
            f"{agent.name}.{spec.function.__name__} returned {type(result).__name__} on event {event.seq}, not a "
            f"{agent.state_model.__name__}"
        )
    return result


@cache
def _instance(agent: type[Reducing[Any]]) -> Reducing[Any]:
    """Return the object that reducers see as ``self``; they may not keep anything in it."""
    return agent.__new__(agent)


def canonical(state: BaseModel) -> bytes:
    """Return `state` as JSON that is the same in every process: a set is dumped sorted."""
    if not _holds_sets(type(state)):
        return state.model_dump_json().encode()
    return msgspec.json.encode(_sorted(state.model_dump(mode="python"), state.model_dump(mode="json")))


@cache
def _holds_sets(model: type[BaseModel]) -> bool:
    return '"uniqueItems"' in msgspec.json.encode(model.model_json_schema(mode="serialization")).decode()


def _sorted(python: Any, dumped: Any) -> Any:
    """Return `dumped` with every list that was a set sorted by its own JSON."""
    if isinstance(python, set | frozenset):
        return sorted(dumped, key=msgspec.json.encode)
    if isinstance(python, dict) and isinstance(dumped, dict):
        return {
            name: _sorted(inner, value) for inner, (name, value) in zip(python.values(), dumped.items(), strict=True)
        }
    if isinstance(python, list | tuple) and isinstance(dumped, list):
        return [_sorted(inner, value) for inner, value in zip(python, dumped, strict=True)]
    return dumped


def encode_state(seq: int, state: BaseModel) -> bytes:
    """Return what is stored of a state: the seq that it is folded up to, a checksum and its canonical JSON."""
    body = canonical(state)
    return b"%d %d " % (seq, zlib.crc32(body)) + body


def decode_state(model: type[BaseModel], raw: bytes) -> tuple[int, BaseModel]:
    """Return (seq, state) stored as `raw`. Raises `ValueError` when it is damaged."""
    seq, checksum, body = raw.split(b" ", 2)
    if zlib.crc32(body) != int(checksum):
        raise ValueError("wrong checksum")
    try:
        return int(seq), model.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(str(error)) from error
