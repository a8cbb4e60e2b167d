"""A payload in its two shapes: the dict that is stored, and the pydantic model that a reader wants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from spine.errors import InvalidPayload

ModelT = TypeVar("ModelT", bound=BaseModel)


def as_dict(payload: Any) -> dict[str, Any]:
    """Return `payload`, a mapping or a pydantic model, as a dict; what is in it is not looked at."""
    if type(payload) is dict:
        return payload
    if isinstance(payload, BaseModel):
        return _written(payload)
    if isinstance(payload, Mapping):
        return dict(payload)
    raise InvalidPayload(
        f"the payload must be a dict or a pydantic model, not {type(payload).__name__}. Nothing was stored."
    )


def _written(model: BaseModel) -> dict[str, Any]:
    name = type(model).__name__
    try:
        payload = model.model_dump(mode="json")
    except ValueError as error:  # bytes that are no text, most often
        raise InvalidPayload(f"the {name} cannot be written: {error}. Nothing was stored.") from error
    if not isinstance(payload, dict):
        kind = type(payload).__name__
        raise InvalidPayload(f"the payload must be a dict, and a {name} is written as a {kind}. Nothing was stored.")
    return payload


def as_model(model: type[ModelT], payload: Any) -> ModelT:
    """Return a payload as `model`. A field goes by its own name, as models write it, or by its alias, as others may.

    Raises pydantic's `ValidationError`.
    """
    return model.model_validate(payload, by_name=True, by_alias=True)
