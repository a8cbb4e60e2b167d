"""`EventType`, a payload model that names its type, and `Catalog`, which checks payloads before they are stored."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args

import msgspec
from pydantic import BaseModel, ValidationError

from spine.errors import InvalidInput, InvalidName, InvalidPayload
from spine.names import RESERVED, check_type, plain
from spine.payloads import as_dict, as_model

Strictness = Literal["off", "known", "strict"]
Model = type[BaseModel]

ERRORS_SHOWN = 5


class EventType(BaseModel):
    """A payload model that names its type.

    ::

        class OrderPlaced(EventType, name="order.placed"):
            sku: int

    Attributes:
        event_type: the name.
        event_version: version of the type, stored with each event; give ``version=`` with the name to raise it.
    """

    event_type: ClassVar[str] = ""
    event_version: ClassVar[int] = 1

    def __init_subclass__(cls, *, name: str | None = None, version: int | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if name is not None:
            cls.event_type = plain(check_type(name))
        if version is not None:
            cls.event_version = version

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str | None = None, version: int | None = None, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)


class Entry(msgspec.Struct, frozen=True):
    """A type of the catalogue.

    Attributes:
        type: its name.
        model: of its payload.
        version: of the type.
    """

    type: str
    model: Model
    version: int = 1


class Catalog:
    """Event types with the models of their payloads, each registered once.

    A payload of a known type is stored as its model writes it: values converted, defaults filled in. A field that the
    model does not have is refused, unless the model's own ``extra`` setting says otherwise.

    Args:
        types: `EventType` classes; `register` takes plain pydantic models under any name.
        strictness: ``off`` checks nothing, ``known`` checks the payloads of the types that are here, ``strict`` also
            refuses every other type.
    """

    def __init__(self, *types: type[EventType], strictness: Strictness = "known") -> None:
        if strictness not in get_args(Strictness):
            raise InvalidInput(f"strictness is 'off', 'known' or 'strict', not {strictness!r}")
        self.strictness: Strictness = strictness
        self._entries: dict[str, Entry] = {}
        for model in types:
            self.register(model)

    def __contains__(self, type: object) -> bool:
        return type in self._entries

    def __getitem__(self, type: str) -> Entry:
        return self._entries[type]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, type: str | Model, model: Model | None = None, *, version: int = 1) -> Entry:
        """Add a type: ``register(OrderPlaced)`` or ``register("order.placed", Order)``; once each.

        Raises `InvalidInput` for another model under a name that is taken.
        """
        if isinstance(type, str):
            if model is None:
                raise InvalidInput(f"register({type!r}, …): give the model of the payload")
            entry = Entry(check_type(type), model, version)
        elif issubclass(type, EventType) and type.event_type:
            entry = Entry(type.event_type, type, type.event_version)
        else:
            raise InvalidInput(
                f'{type.__name__} does not say which type it is: class {type.__name__}(EventType, name="…"), or '
                f'register("…", {type.__name__})'
            )
        known = self._entries.setdefault(entry.type, entry)
        if known != entry:
            raise InvalidInput(
                f"type {entry.type!r} is registered already, as {known.model.__module__}.{known.model.__qualname__}"
            )
        return known

    def check_known(self, type: str) -> None:
        """Raise `InvalidName` when events of `type` may not be published: strict, and not here."""
        if self.strictness == "strict" and type not in self._entries:
            close = difflib.get_close_matches(type, self._entries, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InvalidName(f"type {type!r} is not in the catalogue.{hint} Nothing was stored.")

    def check_declared(self, agent: str, topics: Iterable[str]) -> None:
        """Raise `InvalidName` when an agent listens to a type that nobody may publish: strict, and not here."""
        for topic in topics:
            if "*" not in topic and not topic.startswith(("@", RESERVED)):
                try:
                    self.check_known(topic)
                except InvalidName as error:
                    raise InvalidName(f"agent {agent!r}: {error}") from None

    def check(self, type: str, payload: Any) -> tuple[Any, int]:
        """Return `payload` as it is to be stored, and the version of its type.

        Raises `InvalidName` for a type that is refused, `InvalidPayload` naming the fields that are not right.
        """
        self.check_known(type)
        entry = self._entries.get(type)
        if entry is None or self.strictness == "off":
            return payload, 1 if entry is None else entry.version
        if isinstance(payload, entry.model):
            return payload, entry.version
        if isinstance(payload, EventType) and payload.event_type not in ("", entry.type):
            raise InvalidPayload(
                f"a {payload.__class__.__name__} is the payload of {payload.event_type!r}, not of {entry.type!r}. "
                "Nothing was stored."
            )
        return validated(entry.model, payload, f"payload of {entry.type!r}"), entry.version


def validated(model: Model, payload: Any, what: str) -> dict[str, Any]:
    """Return `payload` as `model` writes it. Raises `InvalidPayload` that says what the payload is of, and the fields.

    A field that the model does not have is refused, unless the model's own ``extra`` setting says otherwise.
    """
    values = as_dict(payload) if isinstance(payload, Mapping | BaseModel) else payload
    errors: list[Any] = []
    try:
        extra: Literal["forbid"] | None = None if "extra" in model.model_config else "forbid"
        return as_dict(model.model_validate(values, extra=extra, by_name=True, by_alias=True))
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
    if all(error["type"] == "extra_forbidden" for error in errors):
        dumped = as_dict(as_model(model, values))
        errors = [error for error in errors if not _present(dumped, error["loc"])]
        if not errors:
            return dumped
    shown = "; ".join(f"{_path(error['loc'])}: {error['msg']}" for error in errors[:ERRORS_SHOWN])
    more = f"; and {len(errors) - ERRORS_SHOWN} more" if len(errors) > ERRORS_SHOWN else ""
    raise InvalidPayload(f"the {what} is not a {model.__name__}: {shown}{more}. Nothing was stored.")


def _present(value: Any, place: tuple[int | str, ...]) -> bool:
    """Tell whether `value` has something at `place`: a field that a nested model allows stays in what it writes."""
    for step in place:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _path(place: tuple[int | str, ...]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return path.removeprefix(".") or "payload"
