"""Bare redis-py where one side waits for the other: the least that a wake-up and a request can cost."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.arms.raw_log import PACKAGES, all_entries, connect
from scripts.bench.events import Envelopes
from scripts.bench.load import latencies_one_by_one, paced, percentiles
from scripts.bench.processes import beside, receive

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

REQUESTS, REPLIES, GROUP = "raw:requests", "raw:replies", "raw"
LIGHT_LOAD = 200.0
"""Events per second at which nothing ever queues."""


@arm("raw.chain", packages=PACKAGES, count=5_000, quick=500)
async def chain(setup: Setup) -> Sample:
    """XADD, XREADGROUP wake, XACK + XADD, XREAD wake: a durable request with nothing around it."""
    import msgpack

    envelopes = Envelopes()
    async with connect(setup.redis_url) as redis:
        await redis.xgroup_create(REQUESTS, GROUP, id="0", mkstream=True)
        with beside(_respond, setup.timeout, setup.redis_url) as responder:
            await receive(responder)
            last = b"0-0"

            async def ask(number: int) -> None:
                nonlocal last
                await redis.xadd(REQUESTS, {b"e": msgpack.packb(envelopes[number])})
                last, fields = _first(await redis.xread({REPLIES: last}, count=1, block=5_000))
                msgpack.unpackb(fields[b"e"])

            return await latencies_one_by_one(ask, setup)


async def _respond(connection: Connection, url: str) -> None:
    import msgpack

    async with connect(url) as redis:
        connection.send("ready")
        while True:
            streams = await redis.xreadgroup(GROUP, "c", {REQUESTS: ">"}, count=1, block=1_000)
            if not streams:
                continue
            entry_id, fields = _first(streams)
            request = msgpack.unpackb(fields[b"e"])
            async with redis.pipeline(transaction=False) as pipe:
                pipe.xack(REQUESTS, GROUP, entry_id)
                pipe.xadd(REPLIES, {b"e": msgpack.packb(request)})
                await pipe.execute()


@arm("raw.wake", packages=PACKAGES, count=2_000, quick=300)
async def wake(setup: Setup) -> Sample:
    """From before the XADD to the return of a blocking XREADGROUP in another process, 200 a second."""
    import msgpack

    envelopes = Envelopes()
    async with connect(setup.redis_url) as redis:
        await redis.xgroup_create(REQUESTS, GROUP, id="0", mkstream=True)
        with beside(_time_wakes, setup.timeout, setup.redis_url, setup.total) as waiter:
            await receive(waiter)

            async def publish(number: int) -> None:
                event = envelopes[number] | {"sent": time.monotonic()}
                await redis.xadd(REQUESTS, {b"e": msgpack.packb(event)})

            await paced(publish, setup, LIGHT_LOAD)
            times: list[float] = await receive(waiter)
            return percentiles(times[setup.warmup :])


async def _time_wakes(connection: Connection, url: str, total: int) -> None:
    import msgpack

    times: list[float] = []
    async with connect(url) as redis:
        connection.send("ready")
        while len(times) < total:
            streams = await redis.xreadgroup(GROUP, "c", {REQUESTS: ">"}, count=512, block=1_000)
            now = time.monotonic()
            for entry_id, fields in all_entries(streams):
                times.append(now - msgpack.unpackb(fields[b"e"])["sent"])
                await redis.xack(REQUESTS, GROUP, entry_id)
    connection.send(times)
    await asyncio.Event().wait()  # until the other side has read


def _first(streams: Any) -> tuple[bytes, dict[bytes, bytes]]:
    """The first entry of a reply of XREAD."""
    return next(all_entries(streams))
