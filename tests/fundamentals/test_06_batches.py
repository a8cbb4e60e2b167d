"""A batch is stored as one: all of it, with consecutive numbers, or nothing."""

from __future__ import annotations

import pytest

from spine import Draft, InvalidPayload, Spine


async def test_a_batch_has_consecutive_numbers(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        events = await spine.publish_many(
            [Draft("order.placed", {"sku": 7}, key="c-1"), Draft("stock.reserved", {"sku": 7}, key="w-1")]
        )

        assert [event.seq for event in events] == [1, 2]
        assert events[0].ts == events[1].ts


async def test_one_bad_event_stops_the_whole_batch(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        with pytest.raises(InvalidPayload, match=r"payload\.items is a set"):
            await spine.publish_many([Draft("order.placed", {"sku": 7}), Draft("order.placed", {"items": {7}})])

        assert [event async for event in spine.replay()] == []
