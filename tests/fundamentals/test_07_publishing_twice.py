"""Publishing again because nobody knows whether it worked is safe: under a dedupe key it stores once."""

from __future__ import annotations

from spine import Spine


async def test_the_same_dedupe_key_gives_the_same_event(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        first = await spine.publish("order.placed", {"sku": 7}, dedupe_key="order-17")
        again = await spine.publish("order.placed", {"sku": 7}, dedupe_key="order-17")

        assert again == first
        assert [event async for event in spine.replay()] == [first]
