"""Old payloads become today's when they are read: a type changes, the log does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from spine.catalog.types import EventType
from spine.errors import DecodeError, InvalidInput, UnknownVersion
from spine.events import Event
from spine.failures import FROM_OUTSIDE, told
from spine.names import check_type

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

_upcasters: dict[str, dict[int, Upcaster]] = {}


def upcasts(type: str | type[EventType], *, version: int) -> Callable[[Upcaster], Upcaster]:
    """Declare a function to turn payloads of `type` from `version` into the next one; it returns the new payload.

    They are chained, and declare what today's version is: one more than the highest. What is published as a dict is
    stored as of today's version. Declare them beside the type, in a module that publishers and readers import; reading
    without them gives payloads as they were stored.
    """
    name = check_type(type if isinstance(type, str) else type.event_type)
    if version < 1:
        raise InvalidInput(f"the first version of a type is 1, not {version}")

    def declare(function: Upcaster) -> Upcaster:
        known = _upcasters.setdefault(name, {})
        if version in known:
            raise InvalidInput(f"version {version} of {name!r} is upcast by {known[version].__qualname__} already")
        known[version] = function
        return function

    return declare


def is_upcast(event_type: str) -> bool:
    """Tell whether there are older versions of a type."""
    return event_type in _upcasters


def today(event_type: str) -> int:
    """Return the version that payloads of a type have today, as far as upcasters tell."""
    known = _upcasters.get(event_type)
    return max(known) + 1 if known else 1


def upcast_all(events: Iterable[Event[Any]]) -> Iterable[Event[Any]]:
    """Yield `events` as `upcast` returns them."""
    return map(upcast, events) if _upcasters else events


def upcast(event: Event[Any], model: type[BaseModel] | None = None) -> Event[Any]:
    """Return `event` with the payload of today's version; `model` is what it is to be read as.

    Raises `UnknownVersion` when it is of a newer version than is known here, `DecodeError` when it cannot be upcast.
    """
    known = _upcasters.get(event.type)
    if not known and (model is None or event.type_version == 1):
        return event
    last = max(known) if known else 0
    newest = max(last + 1, _version_of(model))
    if event.type_version > newest and (known or _version_of(model)):
        raise _newer(event, newest)
    if not known or event.type_version > last:
        return event
    payload = deepcopy(event.payload)
    for version in range(event.type_version, last + 1):
        payload = _next(event, known, version, payload)
    return event.with_payload(payload, version=last + 1)


def _version_of(model: type[BaseModel] | None) -> int:
    return model.event_version if model is not None and issubclass(model, EventType) else 0


def _next(event: Event[Any], known: dict[int, Upcaster], version: int, payload: dict[str, Any]) -> dict[str, Any]:
    function = known.get(version)
    if function is None:
        raise DecodeError(
            f"event {event.seq} ({event.type}) has version {event.type_version}, and nothing upcasts version {version}"
        )
    try:
        result = function(payload)
    except FROM_OUTSIDE:
        raise
    except BaseException as error:
        raise DecodeError(
            f"{function.__qualname__} raised on event {event.seq} ({event.type}, version {event.type_version}): "
            f"{told(error)}"
        ) from error
    if not isinstance(result, dict):
        raise DecodeError(f"{function.__qualname__} returned {type(result).__name__} for {event.type}, not a payload")
    return result


def _newer(event: Event[Any], known: int) -> UnknownVersion:
    return UnknownVersion(
        f"event {event.seq} has version {event.type_version} of {event.type!r}; the newest known here is {known}. "
        "Newer code published it: deploy that here first."
    )
