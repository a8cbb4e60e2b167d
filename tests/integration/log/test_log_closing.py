"""A client that is closed while others use it: what was begun ends, what comes later is refused, nobody waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from spine import Agent, Event, Handling, Spine, Unavailable, Worker, on
from spine.testing.waiting import wait_until


class Partial(Agent):
    name = "partial"

    @on("question.asked")
    async def answer(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.stream({"part": 1})


async def test_closing_ends_though_others_go_on_publishing(url: str, connect: Any) -> None:
    spine, other = await connect(), await connect()
    acknowledged: list[str] = []

    async def for_ever(call: Callable[[], Awaitable[Any]]) -> Unavailable:
        while True:
            try:
                acknowledged.append((await call()).id)
            except Unavailable as error:
                return error

    users = [
        asyncio.create_task(for_ever(lambda: spine.publish("a.b", key="k"))),
        asyncio.create_task(for_ever(lambda: spine.schedule("a.b", key="k", delay=0))),
        asyncio.create_task(for_ever(lambda: spine.update_session("s", {"a": 1}))),
    ]
    await wait_until(lambda: len(acknowledged) > 50)
    async with asyncio.timeout(10):
        await spine.close()
        errors = await asyncio.gather(*users)
    assert [error.stored for error in errors] == [False] * 3

    async def all_there() -> bool:
        return set(acknowledged) == {event.id async for event in other.replay()}

    await wait_until(all_there)


async def test_a_stream_of_answers_that_is_left_leaves_no_task_behind(spine: Spine) -> None:
    async with Worker(spine, Partial):

        async def ask() -> None:
            async for _ in spine.request_stream("question.asked", timeout=30):
                heard.set()

        for _ in range(5):
            heard = asyncio.Event()
            asking = asyncio.create_task(ask())
            await heard.wait()
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert not [task for task in asyncio.all_tasks() if "Queue.get" in repr(task) or "request" in task.get_name()]
