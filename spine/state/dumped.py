"""States as JSON: dumped alike in every process, and read back equal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, PydanticUserError
from pydantic_core import from_json, to_json

ModelT = TypeVar("ModelT", bound=BaseModel)
Schema = Mapping[str, Any]


def dump(state: BaseModel) -> bytes:
    """Return `state` as JSON that is the same in every process, by the names of its fields; a set is dumped sorted.

    Numbers that JSON has not (``NaN``, ``Infinity``) are in it by these words. Raises what pydantic does where a value
    has no JSON.
    """
    if _may_hold(type(state), _are_sets):
        json = state.model_dump(mode="json", by_alias=False, round_trip=True)
        return to_json(_sorted(state.model_dump(mode="python", by_alias=False, round_trip=True), json))
    body: bytes = state.__pydantic_serializer__.to_json(state, by_alias=False, round_trip=True)
    if b"null" in body and _may_hold(type(state), _are_numbers):
        return to_json(state.model_dump(mode="json", by_alias=False, round_trip=True))
    return body


def load(model: type[ModelT], body: bytes) -> ModelT:
    """Return the state dumped as `body`. Raises `pydantic.ValidationError`."""
    return model.model_validate_json(body, by_alias=False, by_name=True)


def values(body: bytes) -> Any:
    """Return what is in a dumped state, as plain values."""
    return from_json(body)


def shown(body: bytes) -> Any:
    """Return what is in a dumped state, as any reader of JSON can have it: numbers that JSON has not are words."""
    return from_json(to_json(from_json(body), inf_nan_mode="strings"))


def _sorted(python: Any, dumped: Any) -> Any:
    """Return `dumped` with every list that was a set sorted by its own JSON."""
    if isinstance(python, set | frozenset):
        return sorted(dumped, key=to_json)
    if isinstance(python, dict) and isinstance(dumped, dict):
        return {
            name: _sorted(inner, value) for inner, (name, value) in zip(python.values(), dumped.items(), strict=True)
        }
    if isinstance(python, list | tuple | deque) and isinstance(dumped, list):
        return [_sorted(inner, value) for inner, value in zip(python, dumped, strict=True)]
    return dumped


@cache
def _may_hold(model: type[BaseModel], wanted: Callable[[Schema], bool]) -> bool:
    """Tell whether a state of `model` may hold what is `wanted`; where its schema cannot tell, it may."""
    try:
        schema = model.model_json_schema(mode="serialization")
    except PydanticUserError:
        return True
    found = _within([schema, *schema.get("$defs", {}).values()])
    return any(one is None or wanted(one) for one in found)


def _within(schemas: Iterable[Any]) -> Iterator[Schema | None]:
    """Yield schemas and what they are made of; ``None`` where anything may stand."""
    for schema in schemas:
        if schema is True or not (_SAYS_WHAT & schema.keys()):
            yield None
            continue
        if schema.get("type") == "object" and not (_SAYS_FIELDS & schema.keys()):
            yield None
        yield schema
        yield from _within(inner for word in _NAMED for inner in schema.get(word, {}).values())
        yield from _within(inner for word in _LISTED for inner in schema.get(word, ()))
        yield from _within(
            schema[word] for word in ("items", "additionalProperties") if schema.get(word) not in (None, False)
        )


def _are_sets(schema: Schema) -> bool:
    return bool(schema.get("uniqueItems"))


def _are_numbers(schema: Schema) -> bool:
    return schema.get("type") == "number"


_NAMED = ("properties", "patternProperties")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SAYS_WHAT = {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}
_SAYS_FIELDS = {"properties", "additionalProperties", "patternProperties"}
