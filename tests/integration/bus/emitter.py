"""An emitter in a process of its own: emits and asks, and prints what it knows became of each.

emitter.py URL NAMESPACE COUNT: prints ``emitted N EVENT_ID`` once event N is stored, then ``answered N EVENT_ID`` or
``failed N ERROR`` for the question that it waited for.
"""

import asyncio
import sys

from spine import RequestError, Spine
from spine.bus import AgentEventBus


async def main(url: str, namespace: str, count: str) -> None:
    async with Spine(url, namespace=namespace) as spine, AgentEventBus(spine) as bus:

        async def ask(n: int) -> None:
            event = await bus.emit("step.done", {"n": n}, key=f"k-{n % 7}")
            print("emitted", n, event.event_id, flush=True)
            try:
                got = await bus.emit_and_wait("sum.asked", {"a": n, "b": 1}, 1.0, key=f"k-{n % 7}")
            except RequestError as error:
                print("failed", n, type(error).__name__, flush=True)
            else:
                assert got.response == {"sum": n + 1}
                print("answered", n, got.event_id, flush=True)

        for n in range(0, int(count), 20):
            await asyncio.gather(*(ask(n + i) for i in range(20)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
