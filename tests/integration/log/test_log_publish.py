"""Publishing: what comes back, what is refused before anything is sent, and how numbers are given."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import redis.asyncio
from pydantic import BaseModel

from spine import Context, Draft, Event, InvalidInput, InvalidName, InvalidPayload, Priority, Spine, TooLarge
from spine.errors import InvalidContext
from spine.keys import partition_of


async def everything(spine: Spine, **selection: Any) -> list[Event[Any]]:
    return [event async for event in spine.replay(**selection)]


async def test_an_event_comes_back_as_it_stands_in_the_log(spine: Spine) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    event = await spine.publish("order.placed", {"sku": 7}, key="c-1")
    assert (event.seq, event.type, event.topic, event.key, event.source) == (
        1,
        "order.placed",
        "order.placed",
        "c-1",
        "client",
    )
    assert event.payload == {"sku": 7}
    assert event.context == Context(correlation=event.id)
    assert before < event.ts < datetime.now(UTC) + timedelta(seconds=1)
    assert event.ts.tzinfo is UTC
    assert await everything(spine) == [event]


async def test_the_key_is_the_session_else_the_correlation(spine: Spine) -> None:
    alone = await spine.publish("a.b")
    in_session = await spine.publish("a.b", context=Context(session_id="s-1", correlation="c"))
    correlated = await spine.publish("a.b", context=Context(correlation="c"))
    named = await spine.publish("a.b", key="k", context=Context(session_id="s-1"))
    assert alone.key == alone.context.correlation == alone.id
    assert [event.key for event in (in_session, correlated, named)] == ["s-1", "c", "k"]
    assert named.context.correlation == named.id


async def test_a_context_travels_whole(spine: Spine) -> None:
    context = Context(
        correlation="c",
        request={"seq": 1, "type": "a.b", "payload": {"x": [1, {"y": None}]}},
        session_id="s",
        session={"slots": {"city": "Ulm"}},
        session_seq=4,
        constraints={"budget": 12.5},
        deadline=datetime(2030, 1, 1, 12, 30, 0, 123_000, tzinfo=UTC),
        path=("inquiry", "scheduling"),
        causation=3,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    event = await spine.publish("a.b", context=context)
    assert event.context == context
    assert [found.context for found in await everything(spine)] == [context]


async def test_a_priority_is_a_lane_of_its_own_and_is_carried_on(spine: Spine, raw: redis.asyncio.Redis) -> None:
    for priority in Priority:
        event = await spine.publish("a.b", key="k", priority=priority)
        assert event.context.priority is priority
    inherited = await spine.publish("a.b", key="k", context=Context(priority=Priority.URGENT))
    overridden = await spine.publish(
        "a.b", key="k", context=Context(priority=Priority.URGENT), priority=Priority.BACKGROUND
    )
    assert (inherited.context.priority, overridden.context.priority) == (Priority.URGENT, Priority.BACKGROUND)
    partition = partition_of("k", 8)
    lengths = [await raw.xlen(spine.server.keys.log(partition, lane, "a.b")) for lane in range(3)]
    assert lengths == [2, 1, 2]


async def test_an_event_for_one_agent_goes_to_its_inbox(spine: Spine) -> None:
    event = await spine.publish("a.b", {"x": 1}, to="scheduling")
    assert (event.type, event.topic) == ("a.b", "@scheduling")
    assert await everything(spine, types="a.b") == [event]


async def test_a_payload_may_be_a_model(spine: Spine) -> None:
    class Order(BaseModel):
        sku: int
        due: datetime

    event = await spine.publish("order.placed", Order(sku=7, due=datetime(2030, 1, 1, tzinfo=UTC)))
    assert event.payload == {"sku": 7, "due": "2030-01-01T00:00:00Z"}


async def test_what_the_publisher_changes_afterwards_is_not_in_the_event(spine: Spine) -> None:
    payload: dict[str, Any] = {"list": [1], "tuple": (1, 2)}
    session: dict[str, Any] = {"slots": {}}
    event = await spine.publish("a.b", payload, context=Context(session=session))
    payload["list"].append(2)
    session["slots"]["city"] = "Ulm"
    assert event.payload == {"list": [1], "tuple": [1, 2]}
    assert event.context.session == {"slots": {}}
    assert await everything(spine) == [event]


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ({"type": "Order.Placed"}, InvalidName),
        ({"type": "spine.session"}, InvalidName),
        ({"type": "@scheduling"}, InvalidName),
        ({"key": ""}, InvalidName),
        ({"key": "x" * 257}, InvalidName),
        ({"to": "@scheduling"}, InvalidName),
        ({"dedupe_key": ""}, InvalidName),
        ({"context": Context(correlation="x" * 257)}, InvalidName),
        ({"context": Context(session_id="x" * 257)}, InvalidName),
        ({"payload": {"when": datetime.now(UTC)}}, InvalidPayload),
        ({"payload": {"x": {1, 2}}}, InvalidPayload),
        ({"payload": [1]}, InvalidPayload),
        ({"payload": {"x": "y" * 300_000}}, TooLarge),
        ({"context": Context(session={"x": object()})}, InvalidContext),
        ({"context": {"correlation": "c"}}, InvalidContext),
        ({"durability": "tape"}, InvalidInput),
        ({"priority": 7}, InvalidInput),
    ],
)
async def test_what_cannot_be_stored_is_refused_before_anything_is_sent(
    spine: Spine, raw: redis.asyncio.Redis, arguments: dict[str, Any], refusal: type[InvalidInput]
) -> None:
    before = (await raw.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0)
    with pytest.raises(refusal) as error:
        await spine.publish(**({"type": "a.b", "payload": {}} | arguments))
    assert error.value.stored is False
    draft = {"type": "a.b", "payload": {}} | arguments
    durability = draft.pop("durability", None)
    with pytest.raises(refusal):
        await spine.publish_many([Draft("good.one"), Draft(**draft)], durability=durability)
    assert (await raw.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0) == before
    assert await everything(spine) == []


async def test_the_limit_of_an_event_is_the_clients_choice(connect: Any) -> None:
    small, large = await connect(max_event_bytes=1_000), await connect(max_event_bytes=1024 * 1024)
    with pytest.raises(TooLarge, match="limit is 1,000"):
        await small.publish("a.b", {"x": "y" * 1_000})
    event = await large.publish("a.b", {"x": "y" * 1_000_000})
    assert await everything(small) == [event]


async def test_a_limit_above_the_hard_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="1,048,576"):
        Spine("redis://nowhere", max_event_bytes=1024 * 1024 + 1)


async def test_a_batch_has_consecutive_numbers_in_its_order(spine: Spine) -> None:
    drafts = [Draft(f"topic.{i % 7}", {"i": i}, key=f"k-{i % 11}", priority=Priority(i % 3)) for i in range(500)]
    batches = await asyncio.gather(*(spine.publish_many(drafts) for _ in range(4)))
    for batch in batches:
        assert [event.payload["i"] for event in batch] == list(range(500))
        assert [event.seq for event in batch] == list(range(batch[0].seq, batch[0].seq + 500))
        assert len({event.ts for event in batch}) == 1
    assert sorted(event.seq for batch in batches for event in batch) == list(range(1, 2_001))


async def test_an_empty_batch_is_nothing(spine: Spine) -> None:
    assert await spine.publish_many([]) == []
    assert await spine.reader.head() == 0


async def test_a_batch_is_one_call_up_to_its_limit_and_refused_beyond(spine: Spine) -> None:
    events = await spine.publish_many([Draft("a.b", {"i": i}, key=f"k-{i}") for i in range(10_000)])
    assert [event.seq for event in events] == list(range(1, 10_001))
    with pytest.raises(TooLarge, match="10,001 events"):
        await spine.publish_many([Draft("a.b")] * 10_001)
    assert await spine.reader.head() == 10_000


async def test_ten_thousand_concurrent_publishes_over_a_handful_of_connections(
    connect: Any, raw: redis.asyncio.Redis
) -> None:
    before = len(await raw.client_list())
    spine = await connect()
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(await raw.client_list()))
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    events = await asyncio.gather(
        *(spine.publish(f"topic.{i % 5}", {"i": i}, key=f"k-{i % 100}") for i in range(10_000))
    )
    watching.cancel()
    assert [event.payload["i"] for event in events] == list(range(10_000))
    seqs = [event.seq for event in events]
    assert all(left < right for left, right in pairwise(seqs))
    assert (len(set(seqs)), max(seqs)) == (10_000, 10_000)
    assert 1 <= most - before <= 4
    assert [event.seq async for event in spine.replay()] == seqs


async def test_numbers_are_unique_and_times_never_decrease_over_many_clients(connect: Any) -> None:
    clients = [await connect() for _ in range(5)]
    results = await asyncio.gather(
        *(client.publish("a.b", {"i": i}, key=f"k-{i}") for client in clients for i in range(200))
    )
    in_order = sorted(results, key=lambda event: event.seq)
    assert [event.seq for event in in_order] == list(range(1, 1_001))
    assert all(left.ts <= right.ts for left, right in pairwise(in_order))
    assert await everything(clients[0]) == in_order


async def test_one_publishers_events_stand_in_the_order_it_published_them(spine: Spine) -> None:
    tasks = [asyncio.create_task(spine.publish("a.b", {"i": i}, key="k")) for i in range(3_000)]
    await asyncio.gather(*tasks)
    assert [event.payload["i"] for event in await everything(spine)] == list(range(3_000))


async def test_a_cancelled_publish_disturbs_no_other(spine: Spine) -> None:
    tasks = [asyncio.create_task(spine.publish("a.b", {"i": i}, key="k")) for i in range(1_000)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    stored = [result for result in results if isinstance(result, Event)]
    assert len(stored) >= 666
    assert {event.seq for event in stored} <= {event.seq for event in await everything(spine)}
    assert (await spine.publish("a.b", {"i": "last"})).payload == {"i": "last"}


async def test_closing_waits_for_what_is_being_published_and_refuses_what_comes_later(connect: Any) -> None:
    spine, reader = await connect(), await connect()
    tasks = [asyncio.create_task(spine.publish("a.b", {"i": i}, key="k")) for i in range(500)]
    await asyncio.sleep(0)
    await spine.close()
    assert len({(await task).seq for task in tasks}) == 500
    assert await reader.reader.head() == 500
    with pytest.raises(Exception, match="closed") as error:
        await spine.publish("a.b")
    assert getattr(error.value, "stored", None) is False
