"""One number for everything gives one order for everything. The key says what belongs together."""

from __future__ import annotations

import asyncio

from spine import Spine


async def test_events_of_many_publishers_have_one_order(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as one, Spine(url, namespace=namespace) as other:
        await asyncio.gather(*(client.publish("tick", {"i": i}) for i in range(100) for client in (one, other)))

        assert [event.seq async for event in one.replay()] == list(range(1, 201))


async def test_what_happened_to_one_key_is_read_without_the_rest(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        for i in range(100):
            await spine.publish("order.changed", {"i": i}, key=f"customer-{i % 10}")

        changes = [event.payload["i"] async for event in spine.replay(key="customer-3")]
        assert changes == [3, 13, 23, 33, 43, 53, 63, 73, 83, 93]


async def test_a_range_of_the_log_is_named_by_numbers_or_times(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        events = [await spine.publish("tick", {"i": i}) for i in range(10)]

        assert [event.seq async for event in spine.replay(after=3, until=6)] == [4, 5, 6]
        assert [event async for event in spine.replay(after=events[0].ts)] == events
        assert events[0] in [event async for event in spine.replay(until=events[0].ts)]
