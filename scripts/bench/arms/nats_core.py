"""nats-py's request/reply: no durability, and the shortest way to an answer from another process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.events import Envelopes
from scripts.bench.load import latencies_one_by_one, rate_in_flight
from scripts.bench.processes import beside, receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from multiprocessing.connection import Connection

PACKAGES = ("nats", "msgpack")
SUBJECT = "bench.ask"
FLIGHTS = 256


@asynccontextmanager
async def _asker(setup: Setup) -> AsyncIterator[Callable[[int], Coroutine[Any, Any, None]]]:
    """A client beside a responder process."""
    import msgpack
    import nats

    envelopes = Envelopes()
    with beside(_respond, setup.timeout, setup.nats_url) as responder:
        await receive(responder)
        async with await nats.connect(setup.nats_url) as nc:

            async def ask(number: int) -> None:
                reply = await nc.request(SUBJECT, msgpack.packb(envelopes[number]), timeout=10)
                msgpack.unpackb(reply.data)

            yield ask


async def _respond(connection: Connection, url: str) -> None:
    import msgpack
    import nats
    from nats.aio.msg import Msg

    async def answer(message: Msg) -> None:
        await message.respond(msgpack.packb(msgpack.unpackb(message.data)))

    async with await nats.connect(url) as nc:
        await nc.subscribe(SUBJECT, cb=answer)
        await nc.flush()
        connection.send("ready")
        await asyncio.Event().wait()


@arm("nats.request_one", server="nats", packages=PACKAGES, count=5_000, quick=500)
async def request_one(setup: Setup) -> Sample:
    """One request at a time."""
    async with _asker(setup) as ask:
        return await latencies_one_by_one(ask, setup)


@arm("nats.request_many", server="nats", packages=PACKAGES, count=50_000, quick=5_000)
async def request_many(setup: Setup) -> Sample:
    """256 requests in flight."""
    async with _asker(setup) as ask:
        return await rate_in_flight(ask, setup, FLIGHTS)
