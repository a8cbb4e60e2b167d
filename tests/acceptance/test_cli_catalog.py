"""`spine catalog`: the types of a namespace as a table, as records, and as an AsyncAPI document."""

from __future__ import annotations

import json

from spine_command import Cli

from spine import Spine
from spine.catalog import Catalog, EventType


class OrderPlaced(EventType, name="order.placed"):
    sku: int
    gift: bool = False


async def test_catalog_lists_types_with_fields_and_publishers(cli: Cli, url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace, name="web", catalog=Catalog(OrderPlaced)) as spine:
        await spine.publish(OrderPlaced(sku=7))
        await spine.publish("note", {"text": "x"})

    rows = {row["type"]: row for row in cli("catalog").rows}
    assert list(rows) == ["note", "order.placed"]
    assert rows["order.placed"]["publishers"] == ["web"]
    assert [field["name"] for field in rows["order.placed"]["fields"]] == ["sku", "gift"]
    assert rows["order.placed"]["schema"]["required"] == ["sku"]

    table = cli("catalog", "-o", "table", "-t", "order.*").out
    assert "sku: integer, gift?: boolean" in table
    assert "note" not in table

    shown = cli("catalog", "--asyncapi")
    assert shown.code == 0
    found = json.loads(shown.out)
    assert found["asyncapi"] == "3.0.0"
    assert found["components"]["messages"]["order.placed"]["payload"]["properties"]["sku"]["type"] == "integer"
    assert found["servers"]["spine"]["host"] == url.removeprefix("redis://").removesuffix("/0")


def test_an_empty_namespace_has_no_types(cli: Cli) -> None:
    shown = cli("catalog", "-o", "table")
    assert (shown.code, shown.out) == (0, "")
    assert "no types" in shown.err
