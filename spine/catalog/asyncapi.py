"""The catalogue as an AsyncAPI 3 document: what is sent on which channel, by whom, and who receives it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from spine.catalog.listing import TypeListing

ASYNCAPI = "3.0.0"
CONTENT_TYPE = "application/vnd.msgpack"

_not_allowed = re.compile(r"[^\w.-]")


def document(types: Iterable[TypeListing], *, title: str, version: str = "1", url: str | None = None) -> dict[str, Any]:
    """Return an AsyncAPI document about `types`.

    A channel is a type (what is stored under it is one stream for each partition and lane), a message its payload;
    who publishes it sends, the agents that handle it receive.

    Args:
        types: what `spine.catalog.listing.list_types` returns.
        title: what the document is about, the namespace for example.
        version: of the document.
        url: of the server, without its password; left out of the document where there is none.
    """
    listed = list(types)
    found: dict[str, Any] = {
        "asyncapi": ASYNCAPI,
        "info": {"title": title, "version": version},
        "defaultContentType": CONTENT_TYPE,
    }
    if url is not None:
        found["servers"] = {"spine": _server(url)}
    schemas: dict[str, Any] = {}
    found["channels"] = {listing.type: _channel(listing) for listing in listed}
    found["operations"] = {name: body for listing in listed for name, body in _operations(listing)}
    messages = {listing.type: _message(listing, schemas) for listing in listed}
    found["components"] = {"messages": messages, "schemas": schemas}
    return found


def _server(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    server = {"host": parts.netloc.rpartition("@")[2] or "localhost", "protocol": parts.scheme.partition("+")[0]}
    if parts.path.strip("/"):
        server["pathname"] = parts.path
    return server


def _channel(listing: TypeListing) -> dict[str, Any]:
    return {
        "address": listing.type,
        "messages": {listing.type: {"$ref": f"#/components/messages/{listing.type}"}},
        **({"description": listing.known.description} if listing.known and listing.known.description else {}),
    }


def _operations(listing: TypeListing) -> Iterable[tuple[str, dict[str, Any]]]:
    for action, names in (
        ("send", listing.publishers),
        ("receive", sorted({*listing.handlers, *listing.handled_by})),
    ):
        for name in names:
            yield (
                f"{_not_allowed.sub('-', name)}.{action}.{listing.type}",
                {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{listing.type}"},
                    "messages": [{"$ref": f"#/channels/{listing.type}/messages/{listing.type}"}],
                    "tags": [{"name": name}],
                },
            )


def _message(listing: TypeListing, schemas: dict[str, Any]) -> dict[str, Any]:
    if listing.known is None:
        payload = {
            "type": "object",
            "properties": {field.name: {} for field in listing.fields},
            "description": "Not in the catalogue: fields as seen in the newest events.",
        }
    else:
        payload = _lifted(listing.type, listing.known.schema, schemas)
    return {
        "name": listing.type,
        **({"title": listing.known.model} if listing.known else {}),
        "contentType": CONTENT_TYPE,
        "payload": payload,
    }


def _lifted(type: str, schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with its definitions moved to `schemas`, each under the type's name.

    A discriminator is the name of a property here, where pydantic writes an object with a mapping.
    """
    definitions = schema.get("$defs", {})
    names = {f"#/$defs/{name}": f"{type}.{_not_allowed.sub('-', name)}" for name in definitions}

    def keyword(key: str, item: Any) -> Any:
        if key == "$ref" and isinstance(item, str):
            return f"#/components/schemas/{names[item]}" if item in names else item
        if key == "discriminator" and isinstance(item, dict) and isinstance(item.get("propertyName"), str):
            return item["propertyName"]
        return pointed(item)

    def pointed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: keyword(key, item) for key, item in value.items() if key != "$defs"}
        return [pointed(item) for item in value] if isinstance(value, list) else value

    for name, definition in definitions.items():
        schemas[names[f"#/$defs/{name}"]] = pointed(definition)
    lifted: dict[str, Any] = pointed(schema)
    return lifted
