"""The bus in two processes, the one that asks: tells of messages, then wants the context of the conversation.

python -m examples.bus_emitter, while python -m examples.bus_subscriber runs.
"""

import asyncio

from spine import MissingResponse, Spine
from spine.bus import AgentEventBus, AgentEventType


async def main() -> None:
    async with Spine() as spine, AgentEventBus(spine, agent_type="Concierge") as bus:
        for number, text in enumerate(["Good morning!", "I need a table for two."], start=1):
            message = {"message_id": f"m-{number}", "conversation_id": "c-1", "text": text}
            await bus.emit(AgentEventType.MESSAGE_RECEIVED, message)
        try:
            answer = await bus.emit_and_wait(AgentEventType.CONTEXT_REQUESTED, {"conversation_id": "c-1"}, timeout=5)
        except MissingResponse as error:
            raise SystemExit(f"{error}. Start examples.bus_subscriber first.") from error
        print(answer.response)
        print([event.type for event in await bus.history(key="c-1", limit=3)])
        print(f"answered within {bus.metrics().responses.max_ms:.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
