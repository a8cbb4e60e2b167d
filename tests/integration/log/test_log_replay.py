"""Replay and history: what was published, all of it, in seq order, found by type, key, correlation and time."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio

from spine import Context, Draft, Event, InvalidInput, InvalidName, Priority, Spine, StreamBlocked
from spine.keys import partition_of
from spine.log import reader
from spine.testing.waiting import wait_until

TYPES = [f"{area}.{what}" for area in ("order", "invoice", "stock") for what in ("placed", "paid", "cancelled")]


async def everything(spine: Spine, **selection: Any) -> list[Event[Any]]:
    return [event async for event in spine.replay(**selection)]


def draft(i: int) -> Draft:
    context = Context(correlation=f"c-{i % 17}", session_id=f"s-{i % 29}")
    to = f"agent-{i % 3}" if i % 11 == 0 else None
    return Draft(TYPES[i % len(TYPES)], {"i": i}, context=context, priority=Priority(i % 3), to=to)


@pytest.fixture
async def events(spine: Spine) -> list[Event[Any]]:
    """A log over many topics, partitions and lanes, as publishing returned it, in seq order."""
    batches = [spine.publish_many([draft(i) for i in range(start, start + 60)]) for start in range(0, 1_200, 60)]
    singles = [spine.publish("single.one", {"i": i}, key=f"s-{i % 29}") for i in range(300)]
    *stored, alone = await asyncio.gather(*batches, asyncio.gather(*singles))
    found = [event for batch in stored for event in batch] + list(alone)
    return sorted(found, key=lambda event: event.seq)


async def test_replay_is_what_publishing_returned_in_seq_order(spine: Spine, events: list[Event[Any]]) -> None:
    assert await everything(spine) == events
    assert len({event.topic for event in events}) > 10


async def test_another_client_reads_the_same(connect: Any, events: list[Event[Any]]) -> None:
    assert await everything(await connect()) == events


@pytest.mark.parametrize(
    ("after", "until"), [(0, 700), (700, None), (699, 701), (700, 700), (1_499, None), (5_000, None)]
)
async def test_a_range_of_numbers_excludes_its_start_and_includes_its_end(
    spine: Spine, events: list[Event[Any]], after: int, until: int | None
) -> None:
    wanted = [event for event in events if after < event.seq <= (until or 10_000)]
    assert await everything(spine, after=after, until=until) == wanted


@pytest.mark.parametrize(
    "types", ["order.placed", "order.*", ("order.paid", "*.cancelled"), "*", "nothing.*", ("single.one", "stock.*")]
)
async def test_types_and_patterns_find_events_in_inboxes_too(
    spine: Spine, events: list[Event[Any]], types: str | tuple[str, ...]
) -> None:
    patterns = [types] if isinstance(types, str) else types

    def wanted(name: str) -> bool:
        return any(
            name.startswith(p[:-1]) if p.endswith("*") else name.endswith(p[1:]) if p[0] == "*" else name == p
            for p in patterns
        )

    assert await everything(spine, types=types) == [event for event in events if wanted(event.type)]


async def test_one_key(spine: Spine, events: list[Event[Any]]) -> None:
    for key in ("s-0", "s-7", "s-28", "unknown"):
        assert await everything(spine, key=key) == [event for event in events if event.key == key]
    some = [
        event for event in events if event.key == "s-7" and 200 < event.seq <= 900 and event.type.startswith("order")
    ]
    assert await everything(spine, key="s-7", after=200, until=900, types="order.*") == some


async def test_one_correlation_over_all_its_keys(spine: Spine, events: list[Event[Any]]) -> None:
    for correlation in ("c-0", "c-16", "unknown", events[-1].context.correlation):
        wanted = [event for event in events if event.context.correlation == correlation]
        assert await everything(spine, correlation=correlation) == wanted
    both = [event for event in events if event.context.correlation == "c-3" and event.key == "s-3"]
    assert await everything(spine, correlation="c-3", key="s-3") == both
    assert both


async def test_a_correlation_that_is_a_key_too(spine: Spine) -> None:
    stored = await spine.publish_many(
        [
            Draft("a.b", {"i": 0}, context=Context(correlation="x")),
            Draft("a.b", {"i": 1}, key="other", context=Context(correlation="x")),
            Draft("a.b", {"i": 2}, key="x", context=Context(correlation="y")),
        ]
    )
    assert await everything(spine, correlation="x") == stored[:2]
    assert await everything(spine, key="x") == [stored[0], stored[2]]


async def test_the_correlation_of_a_lone_event_is_found(spine: Spine) -> None:
    event = await spine.publish("a.b", {"i": 1}, key="k")
    assert await everything(spine, correlation=event.context.correlation) == [event]


async def test_times(spine: Spine) -> None:
    stored: list[Event[Any]] = []
    for i in range(40):
        stored += await spine.publish_many(
            [Draft(f"t.{i % 3}", {"i": i}, key=f"k-{i}"), Draft("u.v", {"i": i}, key="k")]
        )
        await asyncio.sleep(0.002)
    moments = sorted({event.ts for event in stored})
    assert len(moments) > 20
    for moment in (moments[0], moments[len(moments) // 2], moments[-1]):
        for shift in (timedelta(0), timedelta(milliseconds=1), timedelta(milliseconds=-1)):
            at = moment + shift
            assert await everything(spine, after=at) == [event for event in stored if event.ts >= at]
            assert await everything(spine, until=at) == [event for event in stored if event.ts <= at]
    assert await everything(spine, after=moments[0] - timedelta(days=1)) == stored
    assert await everything(spine, after=moments[-1] + timedelta(days=1)) == []
    assert await everything(spine, until=moments[0] - timedelta(days=1)) == []


async def test_what_is_published_during_a_replay_is_not_in_it(spine: Spine, events: list[Event[Any]]) -> None:
    seen = []
    async for event in spine.replay():
        seen.append(event)
        if len(seen) % 100 == 0:
            await spine.publish("late.one", key=f"late-{len(seen)}")
    assert seen == events


async def test_gaps_of_millions_of_numbers_are_jumped_over(spine: Spine, raw: redis.asyncio.Redis) -> None:
    stored = []
    for i in range(5):
        stored += await spine.publish_many([Draft(f"t.{j % 3}", {"i": i}, key=f"k-{j}") for j in range(10)])
        await raw.incrby(spine.server.keys.seq, 1_000_000_000)
    async with asyncio.timeout(5):
        assert await everything(spine) == stored
        assert await spine.history(limit=50) == stored[::-1]
        assert await everything(spine, types="t.1", after=stored[10].seq) == [
            event for event in stored[11:] if event.type == "t.1"
        ]


async def test_numbers_beyond_what_a_double_prints_plainly(spine: Spine, raw: redis.asyncio.Redis) -> None:
    await raw.set(spine.server.keys.seq, 10**14 - 3)
    stored = [await spine.publish("a.b", {"i": i}, key="k", dedupe_key=f"d-{i}") for i in range(5)]
    stored += await spine.publish_many([Draft("a.b", {"i": i}, key=f"k-{i}") for i in range(5)])
    assert [event.seq for event in stored] == list(range(10**14 - 2, 10**14 + 8))
    assert await everything(spine) == stored
    assert await everything(spine, key="k") == stored[:5]
    assert await spine.publish("x.y", dedupe_key="d-4") == stored[4]


async def test_an_abandoned_replay_leaves_nothing_running(spine: Spine, events: list[Event[Any]]) -> None:
    before = len(asyncio.all_tasks())
    replay = spine.replay()
    assert [await anext(replay) for _ in range(3)] == events[:3]
    await replay.aclose()
    await wait_until(lambda: len(asyncio.all_tasks()) <= before)


async def test_large_events_are_read_in_small_windows(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "WINDOW_BYTES", 1024 * 1024)
    spine = await connect()
    for i in range(0, 600, 20):
        await spine.publish_many([Draft("a.b", {"i": j, "text": "x" * 50_000}, key=f"k-{j}") for j in range(i, i + 20)])
    tracemalloc.start()
    try:
        seen = 0
        async for event in spine.replay():
            assert event.payload["i"] == seen
            seen += 1
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()
    assert seen == 600


async def test_history_is_newest_first(spine: Spine, events: list[Event[Any]]) -> None:
    newest = events[::-1]
    assert await spine.history() == newest[:50]
    assert await spine.history(limit=1) == newest[:1]
    assert await spine.history(limit=10_000) == newest
    assert await spine.history(since=1_400, limit=10_000) == [event for event in newest if event.seq > 1_400]
    assert await spine.history(until=100, limit=7) == newest[-100:][:7]
    assert await spine.history(types="order.*", limit=20) == [e for e in newest if e.type.startswith("order.")][:20]
    assert await spine.history(key="s-7", limit=5) == [e for e in newest if e.key == "s-7"][:5]
    assert await spine.history(key="s-7", types="stock.*", since=100) == [
        event for event in newest if event.key == "s-7" and event.type.startswith("stock.") and event.seq > 100
    ]
    assert await spine.history(correlation="c-3", limit=1_000) == [e for e in newest if e.context.correlation == "c-3"]
    assert await spine.history(types="nothing.*") == []
    assert await spine.history(since=events[-1].ts + timedelta(seconds=1)) == []
    assert await spine.history(since=events[0].ts, limit=10_000) == newest


async def test_history_of_a_long_session_needs_no_more_than_asked(spine: Spine) -> None:
    stored = await spine.publish_many([Draft("a.b", {"i": i}, key="k") for i in range(3_000)])
    assert await spine.history(key="k", limit=3) == stored[:-4:-1]
    assert await everything(spine, key="k") == stored


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_below_one_is_refused(spine: Spine, limit: int) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        await spine.history(limit=limit)


@pytest.mark.parametrize(
    "selection", [{"types": "Order.*"}, {"types": ("a", "")}, {"key": ""}, {"correlation": "x" * 300}]
)
async def test_names_of_the_wrong_form_are_refused(spine: Spine, selection: dict[str, Any]) -> None:
    with pytest.raises(InvalidName):
        await everything(spine, **selection)
    with pytest.raises(InvalidName):
        await spine.history(**selection)


async def test_an_empty_log(spine: Spine) -> None:
    assert await everything(spine) == []
    assert await spine.history() == []
    assert await everything(spine, key="k") == await everything(spine, correlation="c") == []


async def test_five_hundred_topics_over_all_partitions(spine: Spine) -> None:
    stored = []
    for start in range(0, 8_000, 1_000):
        drafts = [Draft(f"topic.{i % 500}", {"i": i}, key=f"k-{i}") for i in range(start, start + 1_000)]
        stored += await spine.publish_many(drafts)
    async with asyncio.timeout(20):
        assert await everything(spine) == stored
        assert await everything(spine, types="topic.49*") == [e for e in stored if e.type.startswith("topic.49")]
        assert await spine.history(limit=100) == stored[:-101:-1]
    tail = spine.tail(types="topic.7")
    first = asyncio.create_task(anext(tail))
    await wait_until(lambda: spine.listener._blocked_on)
    event = await spine.publish("topic.7", {"i": "new"}, key="k")
    async with asyncio.timeout(5):
        assert await first == event
    await tail.aclose()


async def test_correlations_are_found_whoever_published_what_in_which_order(connect: Any) -> None:
    """The index names only some events of a correlation: everything else follows from those."""
    clients = [await connect() for _ in range(3)]
    rng = random.Random(7)
    stored: list[Event[Any]] = []

    def some_draft(i: int) -> Draft:
        correlation = f"c-{rng.randrange(6)}"
        key = rng.choice([f"k-{rng.randrange(5)}", correlation, None])
        dedupe_key = f"d-{rng.randrange(30)}" if rng.random() < 0.2 else None
        return Draft(f"t.{i % 3}", {"i": i}, key=key, context=Context(correlation=correlation), dedupe_key=dedupe_key)

    for i in range(150):
        client = rng.choice(clients)
        if rng.random() < 0.3:
            stored += await client.publish_many([some_draft(i * 10 + j) for j in range(5)])
        else:
            d = some_draft(i * 10)
            stored.append(
                await client.publish(d.type, d.payload, key=d.key, context=d.context, dedupe_key=d.dedupe_key)
            )
    unique = sorted(set(stored), key=lambda event: event.seq)
    assert await everything(clients[0]) == unique
    for number in range(6):
        wanted = [event for event in unique if event.context.correlation == f"c-{number}"]
        for client in clients:
            assert await everything(client, correlation=f"c-{number}") == wanted
        middle = wanted[len(wanted) // 2].seq
        assert await everything(clients[1], correlation=f"c-{number}", after=middle) == [
            event for event in wanted if event.seq > middle
        ]
        assert await clients[2].history(correlation=f"c-{number}", limit=3) == wanted[:-4:-1]


async def test_an_event_that_was_refused_stands_for_no_correlation(spine: Spine, raw: redis.asyncio.Redis) -> None:
    context = Context(correlation="c")
    stray = spine.server.keys.log(partition_of("k", 8), 1, "a.b")
    await raw.xadd(stray, {"by": "hand"})
    with pytest.raises(StreamBlocked):
        await spine.publish("a.b", {"i": 0}, key="k", context=context)
    await raw.delete(stray)
    known = await spine.publish("x.y", key="elsewhere", dedupe_key="d")
    assert await spine.publish("a.b", {"i": 1}, key="k", context=context, dedupe_key="d") == known
    event = await spine.publish("a.b", {"i": 2}, key="k", context=context)
    assert await everything(spine, correlation="c") == [event]


async def test_an_index_longer_than_a_page_is_read_to_its_beginning(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "INDEX_PAGE", 7)
    stored = await spine.publish_many(
        [Draft("a.b", {"i": i}, key="k", context=Context(correlation=f"c-{i // 20}")) for i in range(100)]
    )
    assert await everything(spine, key="k") == stored
    assert await everything(spine, key="k", after=49, until=60) == stored[49:60]
    assert await everything(spine, correlation="c-2") == stored[40:60]


async def test_a_long_index_is_read_in_pages_from_either_end(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, raw: redis.asyncio.Redis
) -> None:
    monkeypatch.setattr("spine.log.reader.INDEX_CHUNK", 7)
    monkeypatch.setattr("spine.log.reader.INDEX_PAGE", 11)
    drafts = [
        Draft(
            "a.b", {"i": i}, key="c" if i % 3 == 0 else f"k-{i % 2}", context=Context(correlation="c" if i % 5 else "d")
        )
        for i in range(200)
    ]
    stored = await spine.publish_many(drafts)
    for selection, wanted in (
        ({"key": "c"}, [event for event in stored if event.key == "c"]),
        ({"correlation": "c"}, [event for event in stored if event.context.correlation == "c"]),
        ({"key": "c", "correlation": "d"}, [e for e in stored if e.key == "c" and e.context.correlation == "d"]),
    ):
        for after, until in ((0, 200), (13, 170), (100, 101), (150, 150), (199, 500)):
            part = [event for event in wanted if after < event.seq <= until]
            replayed = [event async for event in spine.replay(after=after, until=until, **selection)]  # type: ignore[arg-type]
            assert replayed == part
            newest = await spine.history(since=after, until=until, limit=1_000, **selection)  # type: ignore[arg-type]
            assert newest == part[::-1]
    before = (await raw.info("commandstats"))["cmdstat_lrange"]["calls"]
    assert [event.seq for event in await spine.history(key="c", limit=3)] == [199, 196, 193]
    assert (await raw.info("commandstats"))["cmdstat_lrange"]["calls"] - before == 1
