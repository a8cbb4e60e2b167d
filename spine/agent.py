"""`Agent`: a name, its handlers and its reducers; `@on` declares a handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, Literal, TypeVar

import msgspec
from pydantic import BaseModel

from spine.catalog.types import Catalog, EventType
from spine.coordination.gate import Gate, gates_of
from spine.declarations import check_patterns, find, marked, names_around, payload_model
from spine.delivery.retry import OnDead, Retry
from spine.errors import InvalidInput
from spine.names import matcher
from spine.state.fold import Reducing, StateT

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
        preemptible: urgent work may take its slot; its event runs again afterwards.
        timeout_s: an attempt that takes longer is cancelled and counts as failed.
        takes_context: it wants a `Handling` beside the event.
        is_async: it is an ``async def``; a plain ``def`` runs in a thread.
    """

    patterns: tuple[str, ...]
    function: Callable[..., Any]
    model: type[BaseModel] | None = None
    retry: Retry = Retry()
    on_dead: OnDead = "continue"
    stale: Stale = "refresh"
    preemptible: bool = False
    timeout_s: float | None = None
    takes_context: bool = True
    is_async: bool = True


def on(
    *types: str | type[EventType],
    retry: Retry | None = None,
    on_dead: OnDead = "continue",
    stale: Stale = "refresh",
    preemptible: bool = False,
    timeout_s: float | None = None,
) -> Callable[[Function], Function]:
    """Declare a method of an agent to be the handler of `types` (patterns may hold ``*``; an `EventType` is a type).

    The method takes the event and, if it wants one, a `Handling`. ``Event[Model]`` as the event's annotation validates
    the payload. An event that fails validation fails like a handler that raises.
    """

    def mark(function: Function) -> Function:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidInput(
                f"@on: {function.__qualname__} is a generator, which would never run: leave out the yield"
            )
        options = {
            "retry": retry,
            "on_dead": on_dead,
            "stale": stale,
            "preemptible": preemptible,
            "timeout_s": timeout_s,
        }
        function.__spine_on__ = (check_patterns(types), options)  # type: ignore[attr-defined]
        return function

    return mark


class Agent(Reducing[StateT]):
    """An agent: subclass it, name it, and declare handlers and reducers.

    One instance serves a worker process; it is made without arguments. Handlers of different keys run side by side,
    those of one key one after another.

    Attributes:
        start: where the handlers of a new agent begin: ``present``, ``beginning``, a seq or a time. Fixed when the
            agent first registers; its state covers the whole log anyway.
        ordering: ``key`` keeps the events of a key in order; ``none`` gives plain competing consumers.
        concurrency: handlers running at once over all its workers; ``None`` for no limit.
        rate: handlers started over all its workers, like ``100/min``: no more in any minute. ``None`` for no limit.
        prefetch: events that one worker holds at the most.
        ageing_s: after so long in hand, work of a less urgent lane has one of every four starts, however much more
            urgent work there is; 0 for at once.
        catalog: the types that what it emits is checked against; that of the client where left out.
    """

    start: ClassVar[Start] = "present"
    ordering: ClassVar[Literal["key", "none"]] = "key"
    concurrency: ClassVar[int | None] = None
    rate: ClassVar[str | None] = None
    prefetch: ClassVar[int] = 1024
    ageing_s: ClassVar[float] = 5.0
    catalog: ClassVar[Catalog | None] = None
    handlers: ClassVar[tuple[HandlerSpec, ...]] = ()
    gates: ClassVar[tuple[Gate, ...]] = ()
    time_outs: ClassVar[dict[str, HandlerSpec]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        names = names_around(cls)
        cls.gates = tuple(gates_of(cls))
        cls.handlers = (
            *(_declared(function, names) for function in marked(cls, "__spine_on__")),
            *(HandlerSpec(patterns=gate.conditions, function=gate, **gate.options) for gate in cls.gates),
        )
        cls.time_outs = {
            gate.time_out_type: HandlerSpec(patterns=(gate.time_out_type,), function=gate, **gate.missing_options)
            for gate in cls.gates
        }
        _check_settings(cls)
        _check_handlers(cls)

    @classmethod
    def handler_of(cls, event_type: str) -> HandlerSpec | None:
        """Return the handler for a type; an exact name goes before a pattern."""
        return cls.time_outs.get(event_type) or find(cls.handlers, event_type)

    @classmethod
    def topics(cls) -> tuple[str, ...]:
        """Return the topics and patterns that the agent reads."""
        patterns = {pattern for handler in cls.handlers for pattern in handler.patterns}
        patterns |= {pattern for reducer in cls.reducers for pattern in reducer.patterns}
        return (*sorted(patterns), f"@{cls.name}")

    @classmethod
    def reads(cls) -> Callable[[str], bool]:
        """Return the test whether the agent reads a topic; patterns do not reach inboxes and the system's own."""
        matches = matcher(cls.topics())
        inbox = f"@{cls.name}"
        return lambda topic: topic == inbox or (not topic.startswith(("@", "spine.")) and matches(topic))


def _declared(function: Any, names: dict[str, Any]) -> HandlerSpec:
    """Return what `@on` declares a method to be; `names` are those that its annotations may use."""
    patterns, given = function.__spine_on__
    return HandlerSpec(
        patterns=patterns,
        function=function,
        model=payload_model(function, names),
        takes_context=len(inspect.signature(function).parameters) > 2,
        is_async=inspect.iscoroutinefunction(function),
        **{name: value for name, value in given.items() if value is not None},
    )


def _check_handlers(cls: type[Agent[Any]]) -> None:
    """Raise `InvalidInput` for a type that two handlers take, and for a thread that would have to be cancelled."""
    seen: dict[str, str] = {}
    for spec in cls.handlers:
        name = spec.function.__name__
        if spec.preemptible and not spec.is_async:
            raise InvalidInput(
                f"{cls.__name__}.{name} is preemptible but runs in a thread, which cannot be cancelled: make it an "
                "async def"
            )
        for pattern in spec.patterns:
            if pattern in seen:
                raise InvalidInput(f"{cls.__name__}: {pattern!r} is handled by {seen[pattern]} and by {name}")
            seen[pattern] = name


def _check_settings(cls: type[Agent[Any]]) -> None:
    """Raise `InvalidInput` for a setting that no worker could run with."""

    def is_count(value: Any) -> bool:
        return isinstance(value, int) and value >= 1

    if not isinstance(cls.ageing_s, int | float) or not cls.ageing_s >= 0:
        raise InvalidInput(f"{cls.__name__}: ageing_s is a number of seconds, 0 or more, not {cls.ageing_s!r}")
    if not is_count(cls.prefetch):
        raise InvalidInput(f"{cls.__name__}: prefetch is a number of events, 1 or more, not {cls.prefetch!r}")
    start = cls.start
    if (
        start not in ("present", "beginning")
        and not isinstance(start, datetime)
        and not (type(start) is int and start >= 0)
    ):
        raise InvalidInput(f"{cls.__name__}: start is 'present', 'beginning', a seq or a datetime, not {start!r}")
    if cls.concurrency is not None and not is_count(cls.concurrency):
        raise InvalidInput(f"{cls.__name__}: concurrency is 1 or more, or None, not {cls.concurrency!r}")
