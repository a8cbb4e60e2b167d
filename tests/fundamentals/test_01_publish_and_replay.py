"""An event is a fact with a number. Publishing returns it; replaying the log yields it again, equal."""

from __future__ import annotations

from spine import Spine


async def test_what_was_published_is_replayed(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        placed = await spine.publish("order.placed", {"sku": 7})
        paid = await spine.publish("order.paid", {"amount": 12.5})

        assert (placed.seq, paid.seq) == (1, 2)
        assert placed.payload == {"sku": 7}
        assert placed.ts <= paid.ts

        assert [event async for event in spine.replay()] == [placed, paid]


async def test_the_log_is_the_same_for_everybody(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace, name="shop") as shop, Spine(url, namespace=namespace) as auditor:
        placed = await shop.publish("order.placed", {"sku": 7})

        (seen,) = [event async for event in auditor.replay()]
        assert seen == placed
        assert seen.source == "shop"
