"""A worker in a process of its own: an agent that answers `sum.asked`, until its input is closed.

worker.py URL NAMESPACE
"""

import asyncio
import sys

from spine import Agent, Event, Handling, Spine, Worker, on


class Adder(Agent):
    name = "adder"

    @on("sum.asked")
    async def add(self, event: Event, ctx: Handling) -> None:
        await ctx.reply({"sum": event.payload["a"] + event.payload["b"]})


async def main(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine, Worker(spine, Adder, lease_s=1.0):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
