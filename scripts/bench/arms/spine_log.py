"""The spine's log: publish, publish_many, replay, bytes per event."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.arms.raw_log import BATCH, add_plainly, connect, used_memory
from scripts.bench.events import KEYS, TOPIC, payload_of
from scripts.bench.load import rate_in_batches, rate_in_flight

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from spine import Spine

NAMESPACE = "bench"
FLIGHTS = 512
MOST_ROUNDS = 25
"""Rounds over all keys that are made beforehand; then they repeat."""


def topic_of(number: int, topics: Sequence[str]) -> str:
    """The topic of event `number`: topics are used in turn, and the events of a key go over all of them."""
    return topics[(number + number // KEYS) % len(topics)]


def batches(spine: Spine, topics: Sequence[str] = (TOPIC,)) -> Callable[[range], Awaitable[object]]:
    """A call that publishes a range of numbers as one batch."""
    from scripts.bench.arms.spine_events import draft

    drafts = [draft(number, topic_of(number, topics)) for number in range(KEYS * min(len(topics), MOST_ROUNDS))]

    async def publish(numbers: range) -> None:
        await spine.publish_many([drafts[number % len(drafts)] for number in numbers])

    return publish


def publisher(spine: Spine, topics: Sequence[str] = (TOPIC,)) -> Callable[[int], Awaitable[object]]:
    """A call that publishes one event."""
    from scripts.bench.arms.spine_events import context

    contexts = [context(number) for number in range(KEYS)]
    payloads = [payload_of(number) for number in range(KEYS)]

    async def publish(number: int) -> None:
        place = number % KEYS
        await spine.publish(topic_of(number, topics), payloads[place], context=contexts[place])

    return publish


async def fill(spine: Spine, numbers: range, topics: Sequence[str] = (TOPIC,)) -> None:
    """Publish all numbers in batches."""
    publish = batches(spine, topics)
    for low in range(numbers.start, numbers.stop, BATCH):
        await publish(range(low, min(low + BATCH, numbers.stop)))


@arm("spine.publish_many", count=100_000, quick=10_000)
async def publish_many(setup: Setup) -> Sample:
    """256 events a call, with context, indexes on."""
    from spine import Spine

    async with Spine(setup.redis_url, namespace=NAMESPACE) as spine:
        return await rate_in_batches(batches(spine), setup, BATCH)


@arm("spine.publish", count=60_000, quick=6_000)
async def publish(setup: Setup) -> Sample:
    """512 publishes in flight from one process."""
    from spine import Spine

    async with Spine(setup.redis_url, namespace=NAMESPACE) as spine:
        return await rate_in_flight(publisher(spine), setup, FLIGHTS)


@arm("spine.replay", count=200_000, quick=20_000)
async def replay(setup: Setup) -> Sample:
    """Every event of the log as an `Event`, in seq order over all partitions."""
    from spine import Spine

    async with Spine(setup.redis_url, namespace=NAMESPACE) as spine:
        await fill(spine, range(setup.total))
        read, start = 0, time.monotonic()
        async for _event in spine.replay():
            read += 1
            if read == setup.warmup:
                start = time.monotonic()
        if read != setup.total:
            raise RuntimeError(f"{read} of {setup.total} events replayed")
        return {"rate": setup.count / (time.monotonic() - start)}


@arm("spine.bytes", packages=("redis",), count=100_000, quick=20_000)
async def bytes_per_event(setup: Setup) -> Sample:
    """All that an event takes (entry, index, bells), and a plain XADD of the same stored bytes."""
    from spine import Spine

    async with Spine(setup.redis_url, namespace=NAMESPACE) as spine, connect(setup.redis_url) as redis:
        await fill(spine, range(setup.warmup))
        before = await used_memory(redis)
        await fill(spine, range(setup.warmup, setup.total))
        used = (await used_memory(redis) - before) / setup.count
        stored = await _stored(redis)
        size = sum(map(len, stored)) / len(stored)
        return {"bytes": used, "plain_bytes": await add_plainly(redis, stored), "envelope": size}


async def _stored(redis: Redis) -> list[bytes]:
    """The bytes of every event in the log: entries of streams long enough to be one."""
    values: list[bytes] = []
    async for stream in redis.scan_iter(_type="stream", count=1_000):
        entries: Any = await redis.xrange(stream)
        for _id, fields in entries:
            values.extend(value for value in fields.values() if len(value) > 100)
    return values
