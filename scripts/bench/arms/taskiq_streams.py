"""taskiq with the Redis Streams broker: the one of its brokers that acknowledges."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.events import Envelopes
from scripts.bench.load import drain_rate, in_flight, rate_in_flight
from scripts.bench.processes import Counter, beside, new_counter

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from taskiq_redis import RedisStreamBroker

PACKAGES = ("taskiq", "taskiq_redis")
FLIGHTS = 64


def _broker(url: str) -> RedisStreamBroker:
    from taskiq_redis import RedisStreamBroker

    return RedisStreamBroker(url, consumer_id="0")


def _task(broker: RedisStreamBroker, counter: Counter) -> Any:
    @broker.task(task_name="handle")
    async def handle(event: dict[str, Any]) -> None:
        counter.value += 1

    return handle


def _enqueuer(task: Any) -> Any:
    envelopes = Envelopes()

    async def enqueue(number: int) -> None:
        await task.kiq(envelopes[number])

    return enqueue


@arm("taskiq.enqueue", packages=PACKAGES, count=15_000, quick=2_000)
async def enqueue(setup: Setup) -> Sample:
    """`task.kiq(event)`, 64 in flight."""
    broker = _broker(setup.redis_url)
    await broker.startup()
    try:
        return await rate_in_flight(_enqueuer(_task(broker, new_counter())), setup, FLIGHTS)
    finally:
        await broker.shutdown()


@arm("taskiq.consume", packages=PACKAGES, count=15_000, quick=2_000)
async def consume(setup: Setup) -> Sample:
    """One worker process with a no-op task on a backlog."""
    counter = new_counter()
    broker = _broker(setup.redis_url)
    await broker.startup()
    try:
        await in_flight(_enqueuer(_task(broker, counter)), range(setup.total), FLIGHTS)
        with beside(_consume, setup.timeout, setup.redis_url, counter):
            return await drain_rate([counter], setup)
    finally:
        await broker.shutdown()


async def _consume(_: Connection, url: str, counter: Counter) -> None:
    from taskiq.api import run_receiver_task

    logging.getLogger("taskiq").setLevel(logging.WARNING)
    broker = _broker(url)
    _task(broker, counter)
    await run_receiver_task(broker, run_startup=True)
