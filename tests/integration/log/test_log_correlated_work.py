"""One correlation through agents, workers and keys: found whole, whoever stored which part of it."""

from __future__ import annotations

import asyncio
from typing import Any

from spine import Agent, Context, Event, Handling, on
from spine.testing.waiting import wait_until
from spine.worker import Worker


class Splitter(Agent):
    name = "splitter"

    @on("order.placed")
    async def split(self, event: Event[Any], ctx: Handling) -> None:
        for i in range(3):
            await ctx.publish("part.made", {"i": i}, key=f"part-{i}-{event.payload['n'] % 4}")
        await ctx.publish("order.split", {"n": event.payload["n"]})


class Packer(Agent):
    name = "packer"

    @on("part.made")
    async def pack(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("part.packed", event.payload)
        await ctx.publish("part.shipped", event.payload, key="dock")


async def test_all_of_it_is_found(connect: Any) -> None:
    spine, reader = await connect(), await connect()
    workers = [Worker(await connect(), Splitter, Packer) for _ in range(2)]
    for worker in workers:
        await worker.start()
    try:
        await asyncio.gather(
            *(
                spine.publish("order.placed", {"n": n}, key=f"s-{n % 5}", context=Context(correlation=f"c-{n % 12}"))
                for n in range(60)
            )
        )
        wanted = 60 * (1 + 4 + 6)
        await wait_until(lambda: _stored(reader, wanted), timeout=60)
        log = [event async for event in reader.replay()]
        for number in range(12):
            expected = [event for event in log if event.context.correlation == f"c-{number}"]
            assert [event async for event in reader.replay(correlation=f"c-{number}")] == expected
            assert len(expected) == wanted // 12
    finally:
        for worker in workers:
            await worker.stop()


async def _stored(reader: Any, wanted: int) -> bool:
    return len([event async for event in reader.replay(types=("order.*", "part.*"))]) >= wanted
