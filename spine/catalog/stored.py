"""The catalogue as the namespace keeps it, so that whoever reads the namespace knows its types."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic.errors import PydanticInvalidForJsonSchema

from spine.catalog.types import Catalog, Entry
from spine.connection import Server
from spine.errors import Misconfigured


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A type as the namespace knows it.

    Attributes:
        type: its name.
        version: of the type.
        model: name of the class.
        description: what the class says of itself.
        schema: JSON schema of the payload as it is stored.
    """

    type: str
    version: int
    model: str
    description: str
    schema: dict[str, Any]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Known).decode


async def keep(server: Server, catalog: Catalog) -> None:
    """Write the types of `catalog` to the namespace; a newer version of a type that is there already stays."""
    there = await load(server)
    changed: list[str | bytes] = []
    for entry in catalog:
        known = known_as(entry)
        before = there.get(entry.type)
        if before is None or (before.version <= known.version and before != known):
            changed += (entry.type, _encode(known))
    if changed:
        await server.command("HSET", server.keys.catalog, *changed)


async def load(server: Server) -> dict[str, Known]:
    """Return the types of the namespace by name."""
    raw = await server.command("HGETALL", server.keys.catalog)
    found = [_decode(value) for value in raw[1::2]]
    return {known.type: known for known in sorted(found, key=lambda known: known.type)}


def known_as(entry: Entry) -> Known:
    """Return what the namespace keeps of a type."""
    try:
        by_alias = bool(entry.model.model_config.get("serialize_by_alias"))
        schema = entry.model.model_json_schema(mode="serialization", by_alias=by_alias)
    except PydanticInvalidForJsonSchema as error:
        raise Misconfigured(f"the model of {entry.type!r} has a field without a JSON schema: {error}") from error
    description = str(schema.pop("description", ""))
    return Known(
        type=entry.type,
        version=entry.version,
        model=entry.model.__name__,
        description=description,
        schema=schema,
    )
