"""The bus in two processes, the one that answers: keeps the messages of each conversation and hands them out.

python -m examples.bus_subscriber, then python -m examples.bus_emitter in another terminal; Ctrl-C ends it.
"""

import asyncio
import signal
from collections import defaultdict

from spine import Spine
from spine.bus import AgentEventBus, AgentEventType, EventData


async def main() -> None:
    said: dict[str, list[str]] = defaultdict(list)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    async with Spine() as spine, AgentEventBus(spine, agent_type="Librarian") as bus:

        async def hear(event: EventData) -> dict[str, list[str]] | None:
            if event.type == AgentEventType.CONTEXT_REQUESTED:
                return {"messages": said[event.key]}
            said[event.key].append(event.data["text"])
            print(f"{event.agent_type} in {event.key}: {event.data['text']}", flush=True)
            return None

        # One subscription for both: the question comes after the messages that went before it.
        await bus.subscribe((AgentEventType.MESSAGE_RECEIVED, AgentEventType.CONTEXT_REQUESTED), hear)
        print("listening", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
