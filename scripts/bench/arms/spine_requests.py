"""The spine's requests: one at a time, 256 in flight, 10,000 at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.arms.raw_log import connect
from scripts.bench.arms.spine_log import NAMESPACE
from scripts.bench.events import KEYS, payload_of
from scripts.bench.load import latencies_one_by_one, rate_in_flight
from scripts.bench.processes import beside, new_counter

if TYPE_CHECKING:
    from redis.asyncio import Redis

FLIGHTS = 256
TIMEOUT = 30.0
PROBE_TIMEOUT = 2.0

Ask = Callable[[int], Awaitable[object]]


@asynccontextmanager
async def asker(setup: Setup, namespace: str = NAMESPACE) -> AsyncIterator[Ask]:
    """A client beside a responder process that is ready; a wrong answer raises."""
    from scripts.bench.arms.spine_agents import work
    from scripts.bench.arms.spine_events import ASK, context
    from spine import NoHandler, RequestTimeout, Spine

    contexts = [context(number) for number in range(KEYS)]
    with beside(work, setup.timeout, setup.redis_url, namespace, "answering", new_counter()):
        async with Spine(setup.redis_url, namespace=namespace) as spine:

            async def ask(number: int, timeout: float = TIMEOUT) -> None:
                payload = payload_of(number)
                reply = await spine.request(ASK, payload, context=contexts[number % KEYS], timeout=timeout)
                if reply.payload["n"] != number:
                    raise RuntimeError(f"request {number} got the answer to {reply.payload['n']}")

            while True:
                try:
                    await ask(0, PROBE_TIMEOUT)
                    break
                except (NoHandler, RequestTimeout):  # the responder is still starting
                    await asyncio.sleep(0.02)
            yield ask


@arm("spine.request_one", count=5_000, quick=500)
async def request_one(setup: Setup) -> Sample:
    """One request at a time."""
    async with asker(setup) as ask:
        return await latencies_one_by_one(ask, setup)


@arm("spine.request_many", count=30_000, quick=3_000)
async def request_many(setup: Setup) -> Sample:
    """256 requests in flight."""
    async with asker(setup) as ask:
        return await rate_in_flight(ask, setup, FLIGHTS)


@arm("spine.requests_10k", packages=("redis",), count=10_000, quick=10_000)
async def requests_10k(setup: Setup) -> Sample:
    """All at once: how many were answered, with how many errors, over how many connections of the client."""
    async with connect(setup.redis_url) as redis, asker(setup) as ask:
        over = asyncio.Event()
        peak = asyncio.create_task(_most_connections(redis, over), name="connections")
        results = await asyncio.gather(*(ask(number) for number in range(setup.count)), return_exceptions=True)
        over.set()
        errors = [result for result in results if isinstance(result, BaseException)]
        sample = {
            "answered_share": (setup.count - len(errors)) / setup.count,
            "errors": float(len(errors)),
            "connections": float(await peak),
        }
        if errors:
            print(f"first error: {errors[0]!r}")
        return sample


async def _most_connections(redis: Redis, over: asyncio.Event) -> int:
    """Until it is `over`: the highest number of connections that the server has from this process, but for `redis`."""
    most = 0
    while not over.is_set():
        ours = _local_ports()
        clients = await redis.client_list()
        most = max(most, sum(client["addr"].rpartition(":")[2] in ours for client in clients) - 1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await over.wait()
    return most


def _local_ports() -> set[str]:
    """The ports of this process's TCP connections (Linux: `/proc` says which sockets are ours)."""
    links = [_target(name) for name in os.listdir("/proc/self/fd")]
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
    lines = (line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:])
    return {str(int(line[1].rpartition(":")[2], 16)) for line in lines if line[9] in inodes}


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:  # closed since it was listed
        return ""
