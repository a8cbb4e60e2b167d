"""``catalog``: which types there are, who publishes them and who handles them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spine.cli.options import Format, Namespace, Output, Types, Url, split
from spine.cli.output import chosen, write_rows
from spine.cli.running import PATIENCE_S, execute

if TYPE_CHECKING:
    from spine.catalog.listing import TypeListing

COLUMNS = ("type", "version", "events", "fields", "published_by", "handled_by")


def catalog(
    types: Types = None,
    asyncapi: Annotated[bool, typer.Option("--asyncapi", help="An AsyncAPI 3 document, as JSON.")] = False,
    sample: Annotated[int, typer.Option(min=1, help="How many of the newest events of a stream to look at.")] = 100,
    output: Output = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """List the types: their fields, who publishes them and who handles them.

    Fields come from the models that were registered; where a type has none, from its newest events (a field that is
    not always there has a question mark). Who publishes and who handles comes from what happened and from what agents
    declare.

    spine catalog --asyncapi > asyncapi.json
    """
    from spine.catalog.asyncapi import document
    from spine.catalog.listing import list_types
    from spine.client import Spine
    from spine.names import matcher

    wanted = matcher(split(types))

    async def run() -> tuple[list[TypeListing], Spine]:
        async with Spine(url, namespace=namespace, name="cli", patience_s=PATIENCE_S) as spine:
            return [found for found in await list_types(spine, sample=sample) if wanted(found.type)], spine

    listed, spine = execute(run())
    if asyncapi:
        import json

        server = spine.server.url if not spine.server.url.startswith("unix://") else None
        json.dump(document(listed, title=f"spine namespace {spine.namespace}", url=server), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    form = chosen(output)
    rows = [_row(found) if form is Format.TABLE else found.to_dict() for found in listed]
    write_rows(rows, COLUMNS, form, nothing="no types: nothing was published, declared or registered")


def _row(found: TypeListing) -> dict[str, Any]:
    return {
        "type": found.type,
        "version": found.known.version if found.known else None,
        "events": found.events,
        "fields": ", ".join(map(str, found.fields)),
        "published_by": ", ".join(found.publishers),
        "handled_by": ", ".join(sorted({*found.handlers, *found.handled_by})),
    }
