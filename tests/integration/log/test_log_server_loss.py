"""The server dies, forgets or fills up: what was acknowledged stays, and no number is given twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from spine import Context, Draft, Event, ServerRefused, Spine, Unavailable
from spine.connection import JUMP
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until


async def everything(spine: Spine) -> list[Event[Any]]:
    return [event async for event in spine.replay()]


class Publishers:
    """Publish one event after the other until stopped, each on keys of its own."""

    def __init__(self, clients: list[Spine]) -> None:
        self.acknowledged: list[Event[Any]] = []
        self.errors: list[BaseException] = []
        self._stopping = False
        self._tasks = [
            asyncio.create_task(self._publish(client, f"{number}-{place}"))
            for number, client in enumerate(clients)
            for place in range(8)
        ]

    async def _publish(self, client: Spine, key: str) -> None:
        n = 0
        while not self._stopping:
            n += 1
            try:
                self.acknowledged.append(await client.publish(f"topic.{n % 3}", {"n": n}, key=key))
            except Unavailable as error:
                self.errors.append(error)

    async def reach(self, more: int) -> None:
        wanted = len(self.acknowledged) + more
        await wait_until(lambda: len(self.acknowledged) >= wanted, timeout=30, what=f"{wanted} events acknowledged")

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def test_what_was_acknowledged_survives_kills_and_no_number_is_given_twice(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as server:
        clients = [await connect(server.url, patience_s=30) for _ in range(2)]
        publishers = Publishers(clients)
        for _ in range(3):
            await publishers.reach(300)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
        await publishers.reach(300)
        await publishers.stop()

        found = await everything(clients[0])
        by_seq = {event.seq: event for event in found}
        assert len(by_seq) == len(found)
        assert [by_seq.get(event.seq) for event in publishers.acknowledged] == publishers.acknowledged
        assert not publishers.errors
        assert len({event.id for event in found}) == len(found)
        assert found[-1].seq > 3 * JUMP
        with redis.Redis.from_url(server.url) as raw:
            epochs = [line.split() for line in raw.lrange(clients[0].server.keys.epochs, 0, -1)]
        assert len(epochs) == 4
        assert [int(floor) for _, floor, _, _ in epochs] == [0, JUMP, 2 * JUMP, 3 * JUMP]
        for client in clients:
            await client.close()


async def test_order_within_a_key_stands_through_a_kill(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as server:
        client = await connect(server.url, patience_s=30)
        publishers = Publishers([client])
        await publishers.reach(200)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        await publishers.reach(200)
        await publishers.stop()
        for key in {event.key for event in publishers.acknowledged}:
            numbers = [event.payload["n"] async for event in client.replay(key=key)]
            assert numbers == sorted(set(numbers))
        await client.close()


async def test_after_losing_everything_the_numbers_go_on_above_what_any_client_saw(
    tmp_path: Path, connect: Any
) -> None:
    with RedisServer.start(tmp_path) as server:
        one, other = await connect(server.url), await connect(server.url)
        await one.publish_many([Draft("a.b", {"i": i}, key=f"k-{i}") for i in range(100)])
        last = (await other.publish_many([Draft("a.b", {"i": i}, key=f"k-{i}") for i in range(900)]))[-1]
        epoch = one.server.namespace.epoch
        with redis.Redis.from_url(server.url) as raw:
            raw.flushall()
        first_again = await one.publish("a.b", {"i": "one"}, key="k-1")
        assert first_again.seq > last.seq
        second = await other.publish("new.topic", {"i": "other"}, key="k-2")
        assert second.seq > first_again.seq
        assert one.server.namespace.epoch == other.server.namespace.epoch != epoch
        assert await everything(one) == await everything(other) == [first_again, second]
        assert [event async for event in other.replay(key="k-1")] == [first_again]
        for client in (one, other):
            await client.close()


async def test_losing_everything_under_load_stops_nobody(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path) as server:
        clients = [await connect(server.url) for _ in range(3)]
        publishers = Publishers(clients)
        with redis.Redis.from_url(server.url) as raw:
            for _ in range(3):
                await publishers.reach(200)
                raw.flushall()
        await publishers.reach(200)
        await publishers.stop()
        assert not publishers.errors
        seqs = [event.seq for event in publishers.acknowledged]
        assert len(set(seqs)) == len(seqs)
        kept = {event.seq: event for event in publishers.acknowledged}
        found = await everything(clients[0])
        assert len(found) >= 200
        assert [kept.get(event.seq) for event in found] == found
        for client in clients:
            await client.close()


async def test_scripts_lost_on_the_server_are_taught_again(spine: Spine, raw: redis.asyncio.Redis) -> None:
    first = await spine.publish("a.b", {"i": 1}, key="k")
    await raw.script_flush()
    second = await spine.publish("a.b", {"i": 2}, key="k")
    assert await everything(spine) == [first, second]


async def test_a_full_server_refuses_and_stores_nothing_by_halves(tmp_path: Path, connect: Any) -> None:
    config = {"maxmemory-policy": "noeviction"}
    with RedisServer.start(tmp_path, config=config) as server, redis.Redis.from_url(server.url) as raw:
        spine = await connect(server.url)
        await spine.publish_many([Draft("warm.up", {"i": i}, key="warm") for i in range(50)])
        raw.config_set("maxmemory", int(raw.info("memory")["used_memory"]) + 1_000_000)
        stored: list[Event[Any]] = []

        async def fill() -> None:
            drafts = [Draft(f"topic.{i % 5}", {"text": "x" * 300}, key=f"k-{i % 20}") for i in range(50)]
            while True:
                stored.extend(await spine.publish_many(drafts))

        with pytest.raises(ServerRefused, match="out of memory") as error:
            await fill()
        assert error.value.stored is False
        assert len(stored) >= 50
        results = await asyncio.gather(*(spine.publish("a.b", key=f"k-{i}") for i in range(20)), return_exceptions=True)
        for result in results:  # what is smaller may still fit: stored or refused, nothing between
            if isinstance(result, Event):
                stored.append(result)
            else:
                assert isinstance(result, ServerRefused)
                assert result.stored is False

        raw.config_set("maxmemory", "0")
        assert (await everything(spine))[50:] == stored
        for i in range(20):
            key = f"k-{i}"
            assert [event async for event in spine.replay(key=key)] == [event for event in stored if event.key == key]
        lists = [raw.llen(key) for key in raw.scan_iter("*:key:*")]
        assert sum(lists) == 50 + len(stored)
        after = await spine.publish("a.b", {"text": "room again"}, key="k-1")
        assert (await everything(spine))[-1] == after
        await spine.close()


async def test_a_publish_waits_for_a_server_that_loads_or_is_away_for_a_moment(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as server:
        spine = await connect(server.url, patience_s=30)
        await spine.publish("a.b", key="k")
        await asyncio.to_thread(server.kill)
        waiting = asyncio.create_task(spine.publish("a.b", {"i": 2}, key="k"))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        await asyncio.to_thread(server.restart)
        event = await waiting
        assert [found.seq for found in await everything(spine)] == [1, event.seq]
        await spine.close()


async def test_a_client_that_connected_again_to_an_empty_server_is_found_by_all(tmp_path: Path, connect: Any) -> None:
    """What a client knows of the old log (its streams, its indexes) must not be taken for the new one's."""
    with RedisServer.start(tmp_path) as server:
        spine = await connect(server.url, patience_s=30)
        context = Context(correlation="c")
        await spine.publish("old.topic", {"i": 0}, key="k", context=context)
        await spine.publish("a.b", {"i": 0}, key="k", context=context)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        assert await everything(spine) == []
        event = await spine.publish("a.b", {"i": 1}, key="k", context=context)
        newcomer = await connect(server.url)
        for client in (spine, newcomer):
            assert await everything(client) == [event]
            assert [found async for found in client.replay(types="a.*")] == [event]
            assert [found async for found in client.replay(key="k")] == [event]
            assert [found async for found in client.replay(correlation="c")] == [event]
            assert await client.history() == [event]
        for client in (spine, newcomer):
            await client.close()


async def test_a_client_that_only_reads_notices_that_the_log_is_another_one(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path) as server, redis.Redis.from_url(server.url) as raw:
        reader, publisher = await connect(server.url), await connect(server.url)
        context = Context(correlation="c")
        for topic in ("old.one", "old.two"):
            await publisher.publish(topic, key="k", context=context)
        assert len([event async for event in reader.replay(correlation="c")]) == 2
        raw.flushall()
        newcomer = await connect(server.url)
        stored = [await newcomer.publish(topic, key="k", context=context) for topic in ("new.one", "new.two")]
        assert [event async for event in reader.replay(correlation="c")] == stored
        assert [event async for event in reader.replay(key="k")] == stored
        assert await everything(reader) == stored
        for client in (reader, publisher, newcomer):
            await client.close()


async def test_where_a_reader_begins_moves_no_number(
    tmp_path: Path, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader may name a place that never was; the numbers go on above what the server gave, and not above that."""
    with RedisServer.start(tmp_path, appendonly=True, appendfsync="always") as server:
        client = await connect(server.url, patience_s=30)
        await client.publish("a.b")
        heard: list[Event[Any]] = []
        await client.subscribe("a.b", heard.append, after=50 * JUMP)
        beside = await client.subscribe("a.b", heard.append)
        await client.publish("a.b")
        await wait_until(lambda: beside.position == 2)
        assert client.server.highest_seen == 2
        await asyncio.to_thread(server.restart)
        after = await client.publish("a.b")
        assert after.seq == JUMP + 1
        assert "came back with less" not in caplog.text
