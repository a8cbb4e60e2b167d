"""nats-py with JetStream: publish, a durable pull consumer with explicit acks, an ordered consumer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.events import Envelopes
from scripts.bench.load import drain_rate, in_flight, rate_in_flight
from scripts.bench.processes import Counter, beside, new_counter

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

PACKAGES = ("nats", "msgpack")
STREAM, SUBJECT, DURABLE = "BENCH", "bench.requirement", "bench"
FLIGHTS = 512
FETCH = 512


async def _stream(js: JetStreamContext) -> None:
    """A stream as `add_stream` makes it: in files, synced by the server every so often."""
    await js.add_stream(name=STREAM, subjects=[SUBJECT])


def _publisher(js: JetStreamContext) -> Any:
    import msgpack

    envelopes, pack = Envelopes(), msgpack.packb

    async def publish(number: int) -> None:
        await (await js.publish_async(SUBJECT, pack(envelopes[number])))  # a quarter faster than `publish`

    return publish


@arm("nats.publish", server="nats", packages=PACKAGES, count=50_000, quick=5_000)
async def publish(setup: Setup) -> Sample:
    """Publishes with 512 acknowledgements outstanding."""
    import nats

    async with await nats.connect(setup.nats_url) as nc:
        js = nc.jetstream()
        await _stream(js)
        return await rate_in_flight(_publisher(js), setup, FLIGHTS)


@arm("nats.publish_awaited", server="nats", packages=PACKAGES, count=50_000, quick=5_000)
async def publish_awaited(setup: Setup) -> Sample:
    """512 callers that each await the plain `publish`."""
    import msgpack
    import nats

    envelopes = Envelopes()
    async with await nats.connect(setup.nats_url) as nc:
        js = nc.jetstream()
        await _stream(js)

        async def call(number: int) -> None:
            await js.publish(SUBJECT, msgpack.packb(envelopes[number]))

        return await rate_in_flight(call, setup, FLIGHTS)


@arm("nats.pull", server="nats", packages=PACKAGES, count=100_000, quick=10_000)
async def pull(setup: Setup) -> Sample:
    """fetch(512), unpack, ack each, in a consumer process on a backlog."""
    import nats

    counter = new_counter()
    async with await nats.connect(setup.nats_url) as nc:
        js = nc.jetstream()
        await _stream(js)
        await in_flight(_publisher(js), range(setup.total), FLIGHTS)
        with beside(_pull, setup.timeout, setup.nats_url, counter):
            return await drain_rate([counter], setup)


async def _pull(_: Connection, url: str, counter: Counter) -> None:
    import msgpack
    import nats

    async with await nats.connect(url) as nc:
        subscription = await nc.jetstream().pull_subscribe(SUBJECT, durable=DURABLE, stream=STREAM)
        while True:
            try:
                messages = await subscription.fetch(FETCH, timeout=1)
            except TimeoutError:
                continue
            for message in messages:
                msgpack.unpackb(message.data)
                await message.ack()
            counter.value += len(messages)


@arm("nats.ordered", server="nats", packages=PACKAGES, count=100_000, quick=10_000)
async def ordered(setup: Setup) -> Sample:
    """Replay with an ordered consumer, from the first message to the last, unpacked."""
    import msgpack
    import nats

    async with await nats.connect(setup.nats_url) as nc:
        js = nc.jetstream()
        await _stream(js)
        await in_flight(_publisher(js), range(setup.total), FLIGHTS)
        done, start, read = asyncio.Event(), time.monotonic(), 0

        async def handle(message: Msg) -> None:
            nonlocal start, read
            msgpack.unpackb(message.data)
            read += 1
            if read == setup.warmup:
                start = time.monotonic()
            if read == setup.total:
                done.set()

        await js.subscribe(SUBJECT, ordered_consumer=True, cb=handle)  # three times faster than iterating
        await done.wait()
        return {"rate": setup.count / (time.monotonic() - start)}
