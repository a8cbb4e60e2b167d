"""`durability`: what an acknowledgement has survived, and what is said where the server cannot tell."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from spine import Draft, NotDurable, Unavailable
from spine.log import durability
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until


def calls(raw: redis.Redis, command: str) -> int:
    stats: dict[str, Any] = raw.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


async def test_memory_waits_for_nothing(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path, appendonly=True) as server, redis.Redis.from_url(server.url) as raw:
        spine = await connect(server.url)
        await spine.publish("a.b", key="k")
        assert (calls(raw, "waitaof"), calls(raw, "wait")) == (0, 0)
        await spine.close()


async def test_disk_waits_for_the_append_only_file_once_for_each_call(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path, appendonly=True) as server, redis.Redis.from_url(server.url) as raw:
        spine = await connect(server.url, durability="disk")
        await spine.publish("a.b", {"i": 0}, key="k", durability="memory")  # the server knows the script from now on
        await spine.publish("a.b", {"i": 1}, key="k")
        assert calls(raw, "waitaof") == 1
        before = calls(raw, "evalsha")
        events = await asyncio.gather(*(spine.publish("a.b", {"i": i}, key="k") for i in range(200)))
        appends = calls(raw, "evalsha") - before
        assert calls(raw, "waitaof") - 1 <= appends < 200
        await spine.publish("a.b", {"i": "memory"}, key="k", durability="memory")
        assert calls(raw, "waitaof") - 1 <= appends
        assert len({event.seq for event in events}) == 200
        await spine.close()


async def test_the_caller_of_one_publish_may_ask_for_more(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path, appendonly=True) as server, redis.Redis.from_url(server.url) as raw:
        spine = await connect(server.url)
        await asyncio.gather(
            spine.publish("a.b", {"i": 1}, key="k"),
            spine.publish("a.b", {"i": 2}, key="k", durability="disk"),
            spine.publish_many([Draft("a.b", {"i": 3}, key="k")], durability="disk"),
        )
        assert 1 <= calls(raw, "waitaof") <= 2
        assert [event.payload["i"] async for event in spine.replay()] == [1, 2, 3]
        await spine.close()


async def test_disk_is_refused_before_anything_is_stored_where_there_is_no_file(connect: Any) -> None:
    spine = await connect(durability="disk")
    with pytest.raises(NotDurable, match="append-only file, which is off") as error:
        await spine.publish("a.b", key="k")
    assert error.value.stored is False
    assert [event async for event in spine.replay()] == []


async def test_without_a_replica_the_event_is_in_memory_and_said_to_be(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "DURABILITY_TIMEOUT_MS", 50)
    spine = await connect(durability="replicas")
    with pytest.raises(NotDurable, match="not confirmed on a replica within 50 ms") as error:
        await spine.publish("a.b", {"i": 1}, key="k")
    assert error.value.stored is True
    assert [event.payload["i"] async for event in spine.replay()] == [1]


async def test_a_replica_confirms_and_a_frozen_one_does_not(
    tmp_path: Path, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        RedisServer.start(tmp_path / "primary", config={"repl-diskless-sync-delay": "0"}) as primary,
        RedisServer.start(tmp_path / "replica", config={"replicaof": f"127.0.0.1 {primary.port}"}) as replica,
        redis.Redis.from_url(replica.url) as copy,
    ):
        await wait_until(lambda: copy.info("replication")["master_link_status"] == "up", timeout=30)
        spine = await connect(primary.url, durability="replicas")
        event = await spine.publish("a.b", {"i": 1}, key="k")
        assert copy.get(spine.server.keys.seq) == str(event.seq).encode()

        monkeypatch.setattr(durability, "DURABILITY_TIMEOUT_MS", 100)
        replica.pause()
        results = await asyncio.gather(
            *(spine.publish("a.b", {"i": i}, key="k") for i in range(2, 12)), return_exceptions=True
        )
        assert [type(result) for result in results] == [NotDurable] * 10
        assert all(result.stored is True for result in results if isinstance(result, NotDurable))
        assert [event.payload["i"] async for event in spine.replay()] == list(range(1, 12))
        replica.cont()
        monkeypatch.setattr(durability, "DURABILITY_TIMEOUT_MS", 5_000)
        assert (await spine.publish("a.b", {"i": 12}, key="k")).payload == {"i": 12}
        await spine.close()


async def test_a_server_that_is_demoted_while_it_waits_is_not_said_to_have_the_event(
    tmp_path: Path, connect: Any
) -> None:
    with (
        RedisServer.start(tmp_path / "primary", config={"repl-diskless-sync-delay": "0"}) as primary,
        RedisServer.start(tmp_path / "replica", config={"replicaof": f"127.0.0.1 {primary.port}"}) as replica,
        redis.Redis.from_url(primary.url) as raw,
        redis.Redis.from_url(replica.url) as copy,
    ):
        await wait_until(lambda: copy.info("replication")["master_link_status"] == "up", timeout=30)
        spine = await connect(primary.url, durability="replicas")
        await spine.publish("a.b", {"i": 1}, key="k")
        spine.server.patience_s = 20.0
        replica.pause()
        publishing = asyncio.create_task(spine.publish("a.b", {"i": 2}, key="k"))
        await wait_until(lambda: raw.get(spine.server.keys.seq) == b"2")
        raw.replicaof("127.0.0.1", 1)
        await asyncio.sleep(0.1)
        raw.replicaof("NO", "ONE")  # primary again: the batch is known, and confirmed once the replica is back
        replica.cont()
        assert (await publishing).payload == {"i": 2}
        assert [event.payload["i"] async for event in spine.replay()] == [1, 2]

        spine.server.patience_s = 0.2
        replica.pause()
        publishing = asyncio.create_task(spine.publish("a.b", {"i": 3}, key="k"))
        await wait_until(lambda: b"%d" % spine.server.highest_seen < raw.get(spine.server.keys.seq))
        raw.replicaof("127.0.0.1", 1)
        with pytest.raises(Unavailable) as error:
            await publishing
        assert error.value.stored is None  # the replica may have it or not
        raw.replicaof("NO", "ONE")
        await spine.close()


async def test_a_durable_publish_does_not_hold_up_reads(tmp_path: Path, connect: Any) -> None:
    with RedisServer.start(tmp_path) as server:
        spine = await connect(server.url)
        await spine.publish("a.b", {"i": 1}, key="k")
        waiting = asyncio.create_task(spine.publish("a.b", {"i": 2}, key="k", durability="replicas"))
        await wait_until(lambda: spine.reader.head(), what="a head")
        assert [event.payload["i"] async for event in spine.replay(until=1)] == [1]
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        with redis.Redis.from_url(server.url) as raw:
            for client in raw.client_list(_type="normal"):
                raw.client_unblock(int(client["id"]))
        await spine.close()
