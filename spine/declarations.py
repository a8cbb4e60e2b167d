"""Reading what a class declares: marked methods, and the models named in annotations."""

from __future__ import annotations

import inspect
import sys
import typing
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from spine.catalog.types import EventType
from spine.errors import InvalidInput
from spine.events import Event
from spine.names import check_pattern, matcher


class Declared(Protocol):
    """Whatever is declared for types."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Types or patterns."""


SpecT = TypeVar("SpecT", bound=Declared)


def check_patterns(types: tuple[str | type[EventType], ...]) -> tuple[str, ...]:
    """Return the names of `types` when each may be declared."""
    if not types:
        raise InvalidInput("name at least one type")
    return tuple(check_pattern(found if isinstance(found, str) else found.event_type) for found in types)


def find(specs: tuple[SpecT, ...], event_type: str) -> SpecT | None:
    """Return the declaration for a type; an exact name goes before a pattern."""
    for spec in specs:
        if event_type in spec.patterns:
            return spec
    for spec in specs:
        if any("*" in pattern for pattern in spec.patterns) and matcher(spec.patterns)(event_type):
            return spec
    return None


def marked(cls: type, mark: str) -> list[Any]:
    """Return the methods of `cls` that carry a mark; one that overrides a marked one without a mark hides it."""
    found: dict[str, Any] = {}
    ours = [base for base in cls.__mro__ if base.__module__.startswith("spine.")]
    for base in reversed(cls.__mro__):
        for name, value in base.__dict__.items():
            if hasattr(value, mark):
                if any(not hasattr(vars(other).get(name, value), mark) for other in ours):
                    raise InvalidInput(
                        f"{cls.__name__}.{name}: every agent has a {name!r} already, call yours otherwise"
                    )
                found[name] = value
            else:
                found.pop(name, None)
    return list(found.values())


def names_around(cls: type) -> dict[str, Any]:
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


def payload_model(function: Any, names: dict[str, Any]) -> type[BaseModel] | None:
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


def state_model(cls: type, names: dict[str, Any]) -> type[BaseModel] | None:
    """Return the model that a class names as the argument of its base: ``Agent[Model]``."""
    for base in getattr(cls, "__orig_bases__", ()):
        for argument in typing.get_args(base):
            if inspect.isclass(argument) and issubclass(argument, BaseModel):
                return argument
    return None
