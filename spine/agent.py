"""`Agent`: a name, its handlers and its reducers; `@on` and `@reduces` declare them."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec
from pydantic import BaseModel

from spine.delivery.retry import OnDead, Retry
from spine.errors import InvalidInput
from spine.events import Event
from spine.names import check_agent_name, check_pattern, matcher

StateT = TypeVar("StateT")
Function = TypeVar("Function", bound=Callable[..., Any])
Stale = Literal["refresh", "handle", "drop"]
Start = Literal["present", "beginning"] | int | datetime


class HandlerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One declared handler.

    Attributes:
        patterns: types or patterns that it handles.
        function: the method.
        model: pydantic model of the payload, from ``Event[Model]``; ``None`` for a dict.
        retry: what happens when it raises.
        on_dead: what becomes of the key when the event is given up.
        stale: what happens when the session has moved on since the event was written.
        preemptible: urgent work may take its slot.
        timeout_s: an attempt that takes longer is cancelled and counts as failed.
    """

    patterns: tuple[str, ...]
    function: Callable[..., Any]
    model: type[BaseModel] | None = None
    retry: Retry = Retry()
    on_dead: OnDead = "continue"
    stale: Stale = "refresh"
    preemptible: bool = False
    timeout_s: float | None = None

    @property
    def is_async(self) -> bool:
        """Tell whether it is an ``async def``; a plain ``def`` runs in a thread."""
        return inspect.iscoroutinefunction(self.function)


class ReducerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One declared reducer: types, method, model of the payload."""

    patterns: tuple[str, ...]
    function: Callable[..., Any]
    model: type[BaseModel] | None = None


def on(
    *types: str,
    retry: Retry | None = None,
    on_dead: OnDead = "continue",
    stale: Stale = "refresh",
    preemptible: bool = False,
    timeout_s: float | None = None,
) -> Callable[[Function], Function]:
    """Declare a method of an agent to be the handler of `types` (patterns may hold ``*``).

    The method takes the event and, if it wants one, a `Handling`. ``Event[Model]`` as the event's annotation validates
    the payload. An event that fails validation fails like a handler that raises.
    """

    def mark(function: Function) -> Function:
        options = {
            "retry": retry,
            "on_dead": on_dead,
            "stale": stale,
            "preemptible": preemptible,
            "timeout_s": timeout_s,
        }
        function.__spine_on__ = (_patterns(types), options)  # type: ignore[attr-defined]
        return function

    return mark


def reduces(*types: str) -> Callable[[Function], Function]:
    """Declare a method to be the reducer of `types`: it takes the state and an event, and returns the new state.

    A reducer is pure: no I/O, no clock, no randomness, and it changes nothing but what it returns.
    """

    def mark(function: Function) -> Function:
        function.__spine_reduces__ = _patterns(types)  # type: ignore[attr-defined]
        return function

    return mark


def _patterns(types: tuple[str, ...]) -> tuple[str, ...]:
    if not types:
        raise InvalidInput("name at least one type")
    return tuple(check_pattern(pattern) for pattern in types)


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
        names = _names_around(cls)
        cls.state_model = _state_model(cls, names) or cls.state_model
        cls.reducers = tuple(
            ReducerSpec(patterns=function.__spine_reduces__, function=function, model=_payload_model(function, names))
            for function in _marked(cls, "__spine_reduces__")
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
        return _find(cls.reducers, event_type)


class Agent(Reducing[StateT]):
    """An agent: subclass it, name it, and declare handlers and reducers.

    One instance serves a worker process; it is made without arguments. Handlers of different keys run side by side,
    those of one key one after another.

    Attributes:
        start: where the handlers of a new agent begin: ``present``, ``beginning``, a seq or a time. Fixed when the
            agent first registers; its state covers the whole log anyway.
        ordering: ``key`` keeps the events of a key in order; ``none`` gives plain competing consumers.
        concurrency: handlers running at once over all its workers; ``None`` for no limit.
        rate: handlers started over all its workers, like ``100/min``; ``None`` for no limit.
        prefetch: events that one worker holds at the most.
        ageing_s: work of a less urgent lane waits for this long at the most while more urgent work goes before it.
    """

    start: ClassVar[Start] = "present"
    ordering: ClassVar[Literal["key", "none"]] = "key"
    concurrency: ClassVar[int | None] = None
    rate: ClassVar[str | None] = None
    prefetch: ClassVar[int] = 512
    ageing_s: ClassVar[float] = 5.0
    handlers: ClassVar[tuple[HandlerSpec, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        names = _names_around(cls)
        specs: list[HandlerSpec] = []
        for function in _marked(cls, "__spine_on__"):
            patterns, given = function.__spine_on__
            chosen = {name: value for name, value in given.items() if value is not None}
            specs.append(
                HandlerSpec(patterns=patterns, function=function, model=_payload_model(function, names), **chosen)
            )
        seen: dict[str, str] = {}
        for spec in specs:
            for pattern in spec.patterns:
                if pattern in seen:
                    raise InvalidInput(
                        f"{cls.__name__}: {pattern!r} is handled by {seen[pattern]} and by {spec.function.__name__}"
                    )
                seen[pattern] = spec.function.__name__
        cls.handlers = tuple(specs)

    @classmethod
    def handler_of(cls, event_type: str) -> HandlerSpec | None:
        """Return the handler for a type; an exact name goes before a pattern."""
        return _find(cls.handlers, event_type)

    @classmethod
    def topics(cls) -> tuple[str, ...]:
        """Return the topics and patterns that the agent reads."""
        patterns = {pattern for spec in (*cls.handlers, *cls.reducers) for pattern in spec.patterns}
        return (*sorted(patterns), f"@{cls.name}")

    @classmethod
    def reads(cls) -> Callable[[str], bool]:
        """Return the test whether the agent reads a topic; patterns do not reach inboxes and the system's own."""
        matches = matcher(cls.topics())
        inbox = f"@{cls.name}"
        return lambda topic: topic == inbox or (not topic.startswith(("@", "spine.")) and matches(topic))


def _find(specs: tuple[Any, ...], event_type: str) -> Any:
    for spec in specs:
        if event_type in spec.patterns:
            return spec
    for spec in specs:
        if any("*" in pattern for pattern in spec.patterns) and matcher(spec.patterns)(event_type):
            return spec
    return None


def _marked(cls: type, mark: str) -> list[Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in base.__dict__.items():
            if hasattr(value, mark):
                found[name] = value
            else:
                found.pop(name, None)
    return list(found.values())


def _names_around(cls: type) -> dict[str, Any]:
    """Return the names visible where a class is being defined, so that annotations may name local models."""
    names: dict[str, Any] = {}
    frame = sys._getframe(1)
    depth = 0
    frames = []
    while frame is not None and depth < 8:
        frames.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
        depth += 1
    for outer in reversed(frames):
        if outer.f_globals.get("__name__") == cls.__module__:
            names |= outer.f_locals
    return names


def _payload_model(function: Any, names: dict[str, Any]) -> type[BaseModel] | None:
    """Return the model of ``Event[Model]`` in the annotations of a handler or reducer."""
    annotations = getattr(function, "__annotations__", {})
    for name, annotation in annotations.items():
        if name == "return":
            continue
        resolved = _resolve(annotation, function, names)
        if typing.get_origin(resolved) is Event or getattr(resolved, "__origin__", None) is Event:
            (model,) = typing.get_args(resolved)
            if isinstance(model, str | typing.ForwardRef):
                model = _resolve(model if isinstance(model, str) else model.__forward_arg__, function, names)
            if inspect.isclass(model) and issubclass(model, BaseModel):
                return model
    return None


def _resolve(annotation: Any, function: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, function.__globals__, names)
    except Exception as error:
        if "Event[" in annotation:
            raise InvalidInput(
                f"{function.__qualname__}: cannot resolve the annotation {annotation!r}: {error}"
            ) from error
        return None


def _state_model(cls: type, names: dict[str, Any]) -> type[BaseModel] | None:
    for base in getattr(cls, "__orig_bases__", ()):
        for argument in typing.get_args(base):
            if inspect.isclass(argument) and issubclass(argument, BaseModel):
                return argument
    return None
