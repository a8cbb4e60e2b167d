"""Something that spine did not write stands in the way: the culprit is named, nothing is stored by halves."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio

from spine import Draft, Event, Spine, StreamBlocked
from spine.keys import Keys, partition_of

PARTITION = partition_of("k", 8)


async def everything(spine: Spine, **selection: Any) -> list[Event[Any]]:
    return [event async for event in spine.replay(**selection)]


def keys_in_the_way(keys: Keys) -> dict[str, tuple[str, str]]:
    """The keys that a publish of `a.b` under key `k` with correlation `c` writes, and a type each must not have."""
    return {
        "stream": (keys.log(PARTITION, 1, "a.b"), "string"),
        "index by key": (keys.by_key(PARTITION, "k"), "string"),
        "index by correlation": (keys.by_correlation("c"), "string"),
        "bell": (keys.bell(PARTITION), "string"),
        "stray in the stream": (keys.log(PARTITION, 1, "a.b"), "stray"),
        "stray in the bell": (keys.bell(PARTITION), "stray"),
    }


async def put(raw: redis.asyncio.Redis, key: str, kind: str) -> None:
    if kind == "stray":
        await raw.xadd(key, {"by": "hand"})
    else:
        await raw.set(key, "by hand")


async def events_and_references(spine: Spine, raw: redis.asyncio.Redis) -> tuple[int, int]:
    """How many entries the streams hold, and how many the indexes."""
    prefix = spine.server.keys.prefix
    entries = references = 0
    async for key in raw.scan_iter(f"{spine.server.keys.all()}", count=1000):
        name = key.decode().removeprefix(prefix)
        kind = await raw.type(key)
        if name.startswith("log:") and kind == b"stream":
            entries += await raw.xlen(key)
        elif name.startswith(("key:", "corr:")) and kind == b"list":
            references += await raw.llen(key)
    return entries, references


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", list(keys_in_the_way(Keys("x"))))
async def test_a_batch_that_meets_it_stores_nothing_and_names_the_key(
    spine: Spine, raw: redis.asyncio.Redis, name: str, place: str
) -> None:
    context = {"context": (await spine.publish("x.y", key="k-1")).context.replace(correlation="c")}
    good = [Draft(f"x.{i % 3}", {"i": i}, key=f"k-{i}", **context) for i in range(1, 20)]
    before = await events_and_references(spine, raw)
    key, kind = keys_in_the_way(spine.server.keys)[name]
    await put(raw, key, kind)
    strays = 1 if name == "stray in the stream" else 0

    bad = Draft("a.b", {"i": "bad"}, key="k", **context)
    batch = {"first": [bad, *good], "middle": [*good[:9], bad, *good[9:]], "last": [*good, bad]}[place]
    with pytest.raises(StreamBlocked) as error:
        await spine.publish_many(batch)
    assert key in str(error.value)
    assert "spine doctor" in str(error.value)
    assert error.value.stored is False
    assert await events_and_references(spine, raw) == (before[0] + strays, before[1])

    await raw.delete(key)
    stored = await spine.publish_many(batch)
    assert (await everything(spine))[-len(batch) :] == stored
    assert await everything(spine, key="k") == [event for event in stored if event.key == "k"]


async def test_others_in_the_same_call_are_stored(spine: Spine, raw: redis.asyncio.Redis) -> None:
    await spine.publish("a.b", key="k")
    await raw.xadd(spine.server.keys.log(PARTITION, 1, "a.b"), {"by": "hand"})
    calls = [spine.publish("a.b" if i % 10 == 3 else "c.d", {"i": i}, key="k") for i in range(100)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [i for i, result in enumerate(results) if isinstance(result, StreamBlocked)]
    stored = [result for result in results if isinstance(result, Event)]
    assert refused == list(range(3, 100, 10))
    assert len(stored) == 90
    assert [event for event in await everything(spine) if event.type == "c.d"] == stored
    assert [event.payload["i"] for event in stored] == sorted(event.payload["i"] for event in stored)


async def test_readers_pass_over_a_stray_and_say_so(
    spine: Spine, raw: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    start = datetime.now(UTC)
    events = await spine.publish_many([Draft("a.b", {"i": i}, key="k") for i in range(5)])
    stream = spine.server.keys.log(PARTITION, 1, "a.b")
    await raw.delete(stream)
    for event in events:
        await raw.xadd(stream, {str(event.ts_ms): b"not an event"}, id=f"{event.seq}-0")
    await raw.xadd(stream, {"by": "hand"})
    others = await spine.publish_many([Draft("c.d", {"i": i}, key="k") for i in range(5)])
    with caplog.at_level(logging.WARNING, "spine"):
        assert await everything(spine) == others
        assert await spine.history(limit=50) == others[::-1]
        assert await everything(spine, key="k") == others
    assert "wrong checksum" in caplog.text
    assert "not an event" not in caplog.text
    assert await everything(spine, after=start - timedelta(hours=1)) == others
    assert await everything(spine, after=datetime.now(UTC) + timedelta(hours=1)) == []


@pytest.mark.parametrize("what", ["seq", "clock", "streams", "producer", "dedupe"])
async def test_a_wrong_type_anywhere_else_stores_nothing_either(
    connect: Any, raw: redis.asyncio.Redis, what: str
) -> None:
    spine, other = await connect(), await connect()
    await other.publish("x.y", key="k")
    keys = spine.server.keys
    key = {
        "seq": keys.seq,
        "clock": keys.clock,
        "streams": keys.streams,
        "producer": keys.producer(spine.drafts.producer),
        "dedupe": keys.dedupe("d"),
    }[what]
    kept = await raw.dump(key)
    await raw.delete(key)
    await raw.sadd(key, "by hand")
    with pytest.raises(Exception, match="WRONGTYPE") as error:
        await spine.publish("a.b", key="k", dedupe_key="d")
    assert getattr(error.value, "stored", None) is False
    await raw.delete(key)
    if kept is not None:
        await raw.restore(key, 0, kept)
    event = await spine.publish("a.b", key="k", dedupe_key="d")
    assert [found async for found in spine.replay(types="a.b")] == [event]
