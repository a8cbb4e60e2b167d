"""History is the newest first: what has just happened, or what happened last to one session."""

from __future__ import annotations

from spine import Context, Spine


async def test_the_last_events(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        events = [await spine.publish("tick", {"i": i}) for i in range(10)]

        assert await spine.history(limit=3) == [events[9], events[8], events[7]]


async def test_the_last_events_of_one_session(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        for i in range(20):
            await spine.publish("message.received", {"i": i}, context=Context(session_id=f"session-{i % 4}"))

        last = await spine.history(key="session-2", limit=2)
        assert [event.payload["i"] for event in last] == [18, 14]
