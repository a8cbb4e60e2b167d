"""FastStream on Redis Streams: publish, and a subscriber in a consumer group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.events import Envelopes
from scripts.bench.load import drain_rate, in_flight, rate_in_flight
from scripts.bench.processes import Counter, beside, new_counter

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from faststream.redis import RedisBroker

PACKAGES = ("faststream", "redis")
STREAM, GROUP = "faststream", "bench"
FLIGHTS = 64
"""More run into the limit of redis-py's pool or gain nothing."""


def _publisher(broker: RedisBroker) -> Any:
    envelopes = Envelopes()

    async def publish(number: int) -> None:
        await broker.publish(envelopes[number], stream=STREAM)

    return publish


def _broker(url: str) -> RedisBroker:
    from faststream.redis import RedisBroker

    return RedisBroker(url, logger=None)  # type: ignore[arg-type]  # as its docs say; else two lines an event


@arm("faststream.publish", packages=PACKAGES, count=30_000, quick=3_000)
async def publish(setup: Setup) -> Sample:
    """`broker.publish` of a dict, 64 in flight."""
    async with _broker(setup.redis_url) as broker:
        return await rate_in_flight(_publisher(broker), setup, FLIGHTS)


@arm("faststream.consume", packages=PACKAGES, count=15_000, quick=2_000)
async def consume(setup: Setup) -> Sample:
    """A subscriber with a no-op handler and the default acknowledgement, in a process on a backlog."""
    from redis.asyncio import Redis

    counter = new_counter()
    async with Redis.from_url(setup.redis_url) as redis:
        await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    async with _broker(setup.redis_url) as broker:
        await in_flight(_publisher(broker), range(setup.total), FLIGHTS)
        with beside(_consume, setup.timeout, setup.redis_url, counter):
            return await drain_rate([counter], setup)


async def _consume(_: Connection, url: str, counter: Counter) -> None:
    from faststream import FastStream
    from faststream.redis import StreamSub

    broker = _broker(url)

    @broker.subscriber(stream=StreamSub(STREAM, group=GROUP, consumer="c", max_records=100))
    async def handle(event: dict[str, Any]) -> None:
        counter.value += 1

    await FastStream(broker, logger=None).run()
