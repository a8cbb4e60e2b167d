"""A worker process of the tests: ``delivery_process.py URL NAMESPACE WORKER LEASE_S AGENT``; says ``ready``."""

import asyncio
import os
import signal
import sys
import time

from tenacity import wait_none

from spine import Agent, Event, Handling, Retry, Spine, on
from spine.worker import Worker, run


class Deadly(Agent):
    """Some of its events end the process that handles them."""

    name = "recorder"

    @on("a.b", retry=Retry(attempts=2, wait=wait_none(), kills=2))
    async def handle(self, event: Event, ctx: Handling) -> None:
        ctx.publish("a.c", {"of": event.seq})
        if event.payload.get("fail") and ctx.attempt == 1:
            raise ValueError("first this")
        if event.payload.get("kill"):
            os._exit(9)
        await asyncio.sleep(0.002)


class Slow(Agent):
    """Works for as long as the event says."""

    name = "recorder"

    @on("a.b")
    async def handle(self, event: Event, ctx: Handling) -> None:
        ctx.publish("a.started", {"of": event.seq}, key=f"s{event.seq}")
        await ctx.spine.publish("b.started", {"of": event.seq})
        await asyncio.sleep(event.payload.get("seconds", 0))
        ctx.publish("a.c", {"of": event.seq})

    @on("a.blocks")
    async def blocks(self, event: Event) -> None:
        time.sleep(event.payload["seconds"])  # noqa: ASYNC251 - that is what it is for


async def main(url: str, namespace: str, worker: str, lease_s: str, agent: str) -> None:
    started = asyncio.Event()
    async with Spine(url, namespace=namespace) as spine:
        start = Worker.start

        async def say_ready(self: Worker) -> None:
            await start(self)
            print("ready", flush=True)
            started.set()

        Worker.start = say_ready  # type: ignore[method-assign]
        await run(spine, globals()[agent], worker=worker, lease_s=float(lease_s))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(main(*sys.argv[1:]))
