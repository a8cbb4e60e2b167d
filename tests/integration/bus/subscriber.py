"""A subscriber in a process of its own: answers `sum.asked`, shows what it heard, ends when its input is closed.

subscriber.py URL NAMESPACE
"""

import asyncio
import sys

from spine import Spine
from spine.bus import AgentEventBus, EventData


async def main(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine, AgentEventBus(spine, agent_type="Adder") as bus:

        async def answer(event: EventData) -> None:
            await bus.respond(event.event_id, {"sum": event.data["a"] + event.data["b"]})

        await bus.subscribe("sum.asked", answer)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
