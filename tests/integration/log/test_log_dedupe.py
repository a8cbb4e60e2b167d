"""`dedupe_key`: the second publish under the same one stores nothing and returns the first event."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio

from spine import Draft, Event, Spine


async def everything(spine: Spine) -> list[Event[Any]]:
    return [event async for event in spine.replay()]


async def test_the_second_publish_returns_the_first_event(spine: Spine) -> None:
    first = await spine.publish("order.placed", {"sku": 7}, key="c-1", dedupe_key="o-17")
    second = await spine.publish("order.placed", {"sku": 8}, key="c-2", dedupe_key="o-17")
    assert second == first
    other = await spine.publish("order.placed", {"sku": 9}, key="c-1", dedupe_key="o-18")
    assert await everything(spine) == [first, other]


async def test_it_holds_for_every_client_and_after_a_reconnect(connect: Any, raw: redis.asyncio.Redis) -> None:
    spine, other = await connect(), await connect()
    first = await spine.publish("a.b", {"x": 1}, key="k", dedupe_key="d")
    await raw.client_kill_filter(_type="normal")
    assert await spine.publish("a.b", {"x": 2}, key="k", dedupe_key="d") == first
    assert await other.publish("c.d", {"x": 3}, key="m", dedupe_key="d") == first
    assert await everything(other) == [first]


async def test_many_at_once_store_one(connect: Any) -> None:
    clients = [await connect() for _ in range(4)]
    events = await asyncio.gather(
        *(client.publish("a.b", {"i": i}, key=f"k-{i}", dedupe_key="d") for i in range(50) for client in clients)
    )
    assert len(set(events)) == 1
    assert await everything(clients[0]) == [events[0]]


async def test_twice_within_one_batch_stores_one_and_the_numbers_have_no_gap(spine: Spine) -> None:
    a, b, again, c, elsewhere = await spine.publish_many(
        [
            Draft("a.b", {"i": 0}, key="k", dedupe_key="d"),
            Draft("a.b", {"i": 1}, key="k"),
            Draft("a.b", {"i": 2}, key="k", dedupe_key="d"),
            Draft("a.b", {"i": 3}, key="k", dedupe_key="e"),
            Draft("c.d", {"i": 4}, key="other", dedupe_key="e"),
        ]
    )
    assert (again, elsewhere) == (a, c)
    assert [event.seq for event in (a, b, c)] == [1, 2, 3]
    assert await everything(spine) == [a, b, c]


async def test_a_batch_of_which_all_is_known_stores_nothing(spine: Spine) -> None:
    drafts = [Draft("a.b", {"i": i}, key=f"k-{i}", dedupe_key=f"d-{i}") for i in range(20)]
    first = await spine.publish_many(drafts)
    assert await spine.publish_many(drafts) == first
    assert await spine.reader.head() == 20


async def test_a_known_event_in_another_lane_or_partition_is_found(spine: Spine) -> None:
    for i in range(30):
        event = await spine.publish("a.b", {"i": i}, key=f"k-{i}", to="agent" if i % 2 else None, dedupe_key=f"d-{i}")
        assert await spine.publish("x.y", dedupe_key=f"d-{i}") == event


async def test_the_window_ends(spine: Spine, raw: redis.asyncio.Redis) -> None:
    await spine.publish("a.b", key="k", dedupe_key="d")
    assert 86_000 < await raw.ttl(spine.server.keys.dedupe("d")) <= 86_400
