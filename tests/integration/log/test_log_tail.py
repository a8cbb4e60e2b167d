"""Tail: every event exactly once and in seq order, whatever is published where, and whoever loses a connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from spine import Context, Draft, Event, Priority, Spine
from spine.log import feed
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until


class Collector:
    """Reads a tail until it is told to stop."""

    def __init__(self, tail: AsyncGenerator[Event[Any], None]) -> None:
        self.events: list[Event[Any]] = []
        self._tail = tail
        self._task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        async for event in self._tail:
            self.events.append(event)

    async def until(self, count: int, timeout: float = 20) -> list[Event[Any]]:
        """Return the events once there are `count`."""
        await wait_until(lambda: self._task.done() or len(self.events) >= count, timeout, f"{count} events")
        if self._task.done():
            await self._task
        return self.events

    @property
    def ended(self) -> bool:
        return self._task.done()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._tail.aclose()


@asynccontextmanager
async def collecting(spine: Spine, **selection: Any) -> AsyncIterator[Collector]:
    """A tail that listens already."""
    collector = Collector(spine.tail(**selection))
    try:
        await wait_until(lambda: spine.server.keys.bell(0) in spine.listener._blocked_on, what="listening")
        yield collector
    finally:
        await collector.stop()


async def test_a_tail_begins_at_the_present_and_yields_what_comes(spine: Spine) -> None:
    await spine.publish("a.b", {"i": "before"}, key="k")
    async with collecting(spine) as tail:
        stored = [
            await spine.publish(f"t.{i % 4}", {"i": i}, key=f"k-{i}", priority=Priority(i % 3)) for i in range(50)
        ]
        assert await tail.until(50) == stored


async def test_a_tail_may_begin_in_the_past(spine: Spine) -> None:
    old = [await spine.publish("a.b", {"i": i}, key=f"k-{i}") for i in range(30)]
    async with collecting(spine, after=10) as tail:
        new = [await spine.publish("a.b", {"i": i}, key=f"k-{i}") for i in range(30)]
        assert await tail.until(50) == old[10:] + new


async def test_a_pattern_catches_topics_born_later(connect: Any) -> None:
    spine, publisher = await connect(), await connect()
    async with collecting(spine, types="order.*") as tail:
        stored = []
        for i in range(30):
            stored += await publisher.publish_many(
                [Draft(f"order.born{i}", {"i": i}, key=f"k-{i}"), Draft(f"other.born{i}", {"i": i}, key=f"k-{i}")]
            )
        assert await tail.until(30) == [event for event in stored if event.type.startswith("order.")]


async def test_types_in_an_inbox_are_caught(spine: Spine) -> None:
    async with collecting(spine, types="order.*") as tail:
        event = await spine.publish("order.placed", {"i": 1}, key="k", to="scheduling")
        await spine.publish("other.thing", {"i": 2}, key="k", to="scheduling")
        last = await spine.publish("order.placed", {"i": 3}, key="k")
        assert await tail.until(2) == [event, last]


async def test_one_key_or_one_correlation(spine: Spine) -> None:
    async with collecting(spine, key="k-3") as by_key, collecting(spine, correlation="c-2") as by_correlation:
        stored = await spine.publish_many(
            [
                Draft(f"t.{i % 5}", {"i": i}, key=f"k-{i % 7}", context=Context(correlation=f"c-{i % 3}"))
                for i in range(210)
            ]
        )
        assert await by_key.until(30) == [event for event in stored if event.key == "k-3"]
        assert await by_correlation.until(70) == [event for event in stored if event.context.correlation == "c-2"]


async def publish_everywhere(client: Spine, name: str, count: int) -> list[Event[Any]]:
    """Publish over 3 lanes × 20 topics × all partitions, now one by one, now in batches."""
    stored: list[Event[Any]] = []
    for i in range(0, count, 4):
        drafts = [
            Draft(
                f"t.{(i + j) % 20}", {"from": name, "i": i + j}, key=f"{name}-{i + j}", priority=Priority((i + j) % 3)
            )
            for j in range(4)
        ]
        if i % 16:
            stored += await asyncio.gather(
                *(client.publish(d.type, d.payload, key=d.key, priority=d.priority) for d in drafts)
            )
        else:
            stored += await client.publish_many(drafts)
    return stored


async def kill_connections(raw: redis.asyncio.Redis, until: asyncio.Event) -> int:
    """Kill every connection but our own, again and again."""
    own = await raw.client_id()
    killed = 0
    while not until.is_set():
        for client in await raw.client_list(_type="normal"):
            if int(client["id"]) != own:
                killed += await raw.client_kill_filter(_id=client["id"])
        await asyncio.sleep(0.05)
    return killed


@pytest.mark.parametrize("killing", [False, True])
async def test_four_publishers_everywhere_and_nothing_is_missed_or_doubled(
    tmp_path: Path, connect: Any, killing: bool
) -> None:
    with RedisServer.start(tmp_path) as server:
        reader = await connect(server.url, patience_s=30)
        publishers = [await connect(server.url, patience_s=30) for _ in range(4)]
        async with collecting(reader) as tail, collecting(reader, types="t.1*") as some:
            over = asyncio.Event()
            async with redis.asyncio.Redis.from_url(server.url) as raw:
                killer = asyncio.create_task(kill_connections(raw, over)) if killing else None
                parts = await asyncio.gather(
                    *(publish_everywhere(client, f"p{number}", 1_000) for number, client in enumerate(publishers))
                )
                over.set()
                if killer is not None:
                    assert await killer > 10
            stored = sorted((event for part in parts for event in part), key=lambda event: event.seq)
            assert await tail.until(4_000) == stored
            wanted = [event for event in stored if event.type.startswith("t.1")]
            assert await some.until(len(wanted)) == wanted
            last = await publishers[0].publish("t.1", {"i": "last"}, key="k")
            assert (await tail.until(4_001))[-1] == last
            assert (await some.until(len(wanted) + 1))[-1] == last
        for client in (reader, *publishers):
            await client.close()


async def test_a_slow_reader_falls_behind_is_told_and_catches_up(
    connect: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LAG_WARNING", 200)
    spine, publisher = await connect(), await connect()
    seen: list[Event[Any]] = []
    go_on = asyncio.Event()

    async def read() -> None:
        async for event in spine.tail(after=0):
            seen.append(event)
            await go_on.wait()

    reading = asyncio.create_task(read())
    # More calls than the bell of a partition remembers, and over more topics than it still names.
    stored = [await publisher.publish(f"t.{i // 4}", {"i": i}, key="k") for i in range(400)]
    await wait_until(lambda: len(seen) == 1)
    go_on.set()
    await wait_until(lambda: len(seen) == 400)
    assert seen == stored
    told = re.search(r"a reader of all types is (\d+) events behind", caplog.text)
    assert told is not None
    assert 200 <= int(told[1]) < 400
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_it_goes_on_after_the_server_came_back(
    tmp_path: Path, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as server:
        spine, publisher = await connect(server.url, patience_s=30), await connect(server.url, patience_s=30)
        async with collecting(spine) as tail:
            stored = [await publisher.publish("a.b", {"i": i}, key=f"k-{i}") for i in range(20)]
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            stored += [await publisher.publish("a.b", {"i": i}, key=f"k-{i}") for i in range(20)]
            assert await tail.until(40) == stored
            assert stored[-1].seq - stored[0].seq > feed.LAG_WARNING
        assert "events behind" not in caplog.text
        for client in (spine, publisher):
            await client.close()


@pytest.mark.parametrize("newcomer_first", [False, True])
async def test_it_goes_on_after_everything_was_lost(tmp_path: Path, connect: Any, newcomer_first: bool) -> None:
    with RedisServer.start(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        spine, publisher = await connect(server.url), await connect(server.url)
        async with collecting(spine) as tail:
            stored = [await publisher.publish(f"t.{i % 3}", {"i": i}, key=f"k-{i}") for i in range(200)]
            await tail.until(200)
            raw.flushall()
            if newcomer_first:  # it knows nothing of the numbers that were given, and begins with 1
                newcomer = await connect(server.url)
                stored += [await newcomer.publish(f"u.{i % 3}", {"i": i}, key=f"k-{i}") for i in range(20)]
                assert stored[-1].seq == 20
                await tail.until(220)
                await newcomer.close()
            stored += [await publisher.publish(f"v.{i % 3}", {"i": i}, key=f"k-{i}") for i in range(20)]
            assert await tail.until(len(stored)) == stored
        for client in (spine, publisher):
            await client.close()


async def test_it_ends_when_its_client_is_closed(connect: Any) -> None:
    spine, publisher = await connect(), await connect()
    async with collecting(spine) as tail:
        event = await publisher.publish("a.b", {"i": 1}, key="k")
        assert await tail.until(1) == [event]
        await spine.close()
        await wait_until(lambda: tail.ended)


async def test_many_tails_of_one_client_share_its_one_blocking_read(connect: Any, raw: redis.asyncio.Redis) -> None:
    before = len(await raw.client_list())
    spine = await connect()
    collectors = [Collector(spine.tail(types=f"t.{i}")) for i in range(20)]
    await wait_until(lambda: len(spine.listener._watches.get(spine.server.keys.bell(0), [])) == 20)
    stored = await spine.publish_many([Draft(f"t.{i % 20}", {"i": i}, key=f"k-{i}") for i in range(200)])
    for number, collector in enumerate(collectors):
        assert await collector.until(10) == [event for event in stored if event.type == f"t.{number}"]
    assert len(await raw.client_list()) - before <= 3
    for collector in collectors:
        await collector.stop()
