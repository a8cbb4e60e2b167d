"""Steady work leaves nothing to the garbage collector: what it kept alive until then would be every event of a call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from spine import Agent, Context, Draft, Event, Handling, RequestFailed, Retry, Spine, on, reduces
from spine.testing.waiting import wait_until
from spine.worker import Worker

ROUNDS = 30


class Count(BaseModel):
    n: int = 0


class Busy(Agent[Count]):
    """Does what handlers do, or answers where it is asked."""

    name = "busy"
    handled = 0

    @reduces("work.do")
    def counted(self, state: Count, event: Event[Any]) -> Count:
        return Count(n=state.n + 1)

    @on("work.do")
    async def emit(self, event: Event[Any], ctx: Handling) -> None:
        number = await ctx.step("count", lambda: ctx.state.n)
        await ctx.session.update(number=number)
        await ctx.publish("work.done", {"session": ctx.session.as_dict()})
        Busy.handled += 1

    @on("work.ask")
    async def answer(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.reply(event.payload)

    @on("work.fail", retry=Retry(attempts=1))
    async def fail(self, event: Event[Any], ctx: Handling) -> None:
        raise RuntimeError("no")


@pytest.fixture
def seldom() -> Iterator[None]:
    """Garbage is collected only where the test says so."""
    gc.disable()
    yield
    gc.enable()


def session(name: str) -> Context:
    return Context(session_id=name)


async def left_by(step: Callable[[], Awaitable[object]]) -> int:
    """Return how many objects in cycles `ROUNDS` steps leave, after some that warm caches up."""
    for _ in range(3):
        await step()
    gc.collect()
    for _ in range(ROUNDS):
        await step()
    return gc.collect()


@pytest.mark.usefixtures("seldom")
async def test_publishing_and_reading_leave_no_cycles(spine: Spine) -> None:
    async def publish() -> None:
        await spine.publish("a.b", {"list": [1, {"deep": 2}]}, key="k")

    async def publish_many() -> None:
        await spine.publish_many([Draft("a.b", {"n": n}, key=f"k-{n}") for n in range(20)])

    async def read() -> None:
        assert [event async for event in spine.replay(key="k")]
        assert await spine.history(limit=5)

    for step in (publish, publish_many, read):
        assert await left_by(step) < ROUNDS, step.__name__


@pytest.mark.usefixtures("seldom")
async def test_handling_and_asking_leave_no_cycles(spine: Spine) -> None:
    async with Worker(spine, Busy):

        async def handle() -> None:
            before = Busy.handled
            await spine.publish_many([Draft("work.do", {}, context=session(f"k-{n}")) for n in range(20)])
            await wait_until(lambda: Busy.handled == before + 20, what="all handled")

        async def ask() -> None:
            await asyncio.gather(*(spine.request("work.ask", {}, timeout=10) for _ in range(5)))

        async def fail() -> None:
            with contextlib.suppress(RequestFailed):
                await spine.request("work.fail", {}, timeout=10)

        for step in (handle, ask, fail):
            assert await left_by(step) < ROUNDS, step.__name__
