"""Thousands of callers at once, in one process and across two."""

import asyncio
from collections import defaultdict

import pytest
from processes import Script

from spine import MissingResponse, Spine
from spine.bus import AgentEventBus, EventData
from spine.testing.waiting import wait_until

CALLERS = 10_000
KEYS = 500


async def test_ten_thousand_callers_each_get_their_own_response_in_order(url: str, namespace: str) -> None:
    heard: dict[str, list[int]] = defaultdict(list)

    async with Spine(url, namespace=namespace) as spine, AgentEventBus(spine) as bus:

        async def answer(event: EventData) -> None:
            heard[event.key].append(event.data["n"])
            await bus.respond(event.event_id, {"n": event.data["n"], "to": event.event_id})

        await bus.subscribe("step.asked", answer)
        got = await asyncio.gather(
            *(bus.emit_and_wait("step.asked", {"n": n}, 60, key=f"k-{n % KEYS}") for n in range(CALLERS))
        )
        assert [response.response["n"] for response in got] == list(range(CALLERS))
        assert all(response.response["to"] == response.event_id for response in got)
        for key in range(KEYS):
            assert heard[f"k-{key}"] == list(range(key, CALLERS, KEYS))
        replies: dict[str, list[int]] = defaultdict(list)
        async for event in spine.replay(types="step.asked.reply"):
            replies[event.key].append(event.payload["n"])
        assert replies == heard
        found = bus.metrics()
        assert (found.responses.count, found.errors, found.waiting) == (CALLERS, {}, 0)


async def test_ten_thousand_callers_across_two_processes(url: str, namespace: str) -> None:
    with Script("subscriber.py", url, namespace) as subscriber:
        await wait_until(subscriber.said("ready"), 20)
        async with Spine(url, namespace=namespace) as spine, AgentEventBus(spine) as bus:
            got = await asyncio.gather(
                *(bus.emit_and_wait("sum.asked", {"a": n, "b": 1}, 60, key=f"k-{n % KEYS}") for n in range(CALLERS))
            )
            assert [response.response["sum"] for response in got] == list(range(1, CALLERS + 1))
            assert len(await bus.history("sum.asked", limit=CALLERS)) == CALLERS
            assert (await spine.history(types="sum.asked.reply", limit=1))[0].source == "Adder"
            assert subscriber.finish() == 0
            with pytest.raises(MissingResponse):
                await bus.emit_and_wait("sum.asked", {"a": 1, "b": 1}, 60)
