"""`tail` yields what is published from now on, for ever; `subscribe` calls a function with it."""

from __future__ import annotations

import asyncio
from typing import Any

from spine import Event, Spine
from spine.testing.waiting import wait_until


async def test_a_tail_goes_on_where_a_replay_ends(url: str, namespace: str) -> None:
    async with Spine(url, namespace=namespace) as spine:
        old = await spine.publish("tick", {"i": 0})
        tail = spine.tail(after=0)
        assert await anext(tail) == old

        waiting = asyncio.create_task(anext(tail))
        new = await spine.publish("tick", {"i": 1})
        assert await waiting == new
        await tail.aclose()


async def test_a_subscription_hears_of_topics_that_did_not_exist_when_it_began(url: str, namespace: str) -> None:
    heard: list[Event[Any]] = []
    async with Spine(url, namespace=namespace) as spine:
        subscription = await spine.subscribe("order.*", heard.append)

        event = await spine.publish("order.invented.just.now")
        await wait_until(lambda: heard == [event])
        await subscription.stop()


async def test_a_subscriber_that_fails_hurts_no_other(url: str, namespace: str) -> None:
    heard: list[int] = []

    def broken(event: Event[Any]) -> None:
        raise RuntimeError("this one is broken")

    async with Spine(url, namespace=namespace) as spine:
        failing = await spine.subscribe("tick", broken)
        await spine.subscribe("tick", lambda event: heard.append(event.seq))

        for i in range(3):
            await spine.publish("tick", {"i": i})
        await wait_until(lambda: heard == [1, 2, 3] and failing.errors == 3)
