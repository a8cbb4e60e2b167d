"""Urgent work goes first where an agent's rate or its limit over all workers holds work back."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from seen_events import nothing_left_to_do, wait_for_events
from worker_processes import Serve

from spine import Agent, Draft, Event, Handling, Priority, Spine, on
from spine.testing.waiting import wait_until

URGENT, NORMAL, BACKGROUND = Priority


class Slow(Agent):
    """May begin ten a second; notes what begins."""

    name = "slow"
    rate = "10/s"
    began: ClassVar[list[str]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.began = []

    @on("work.wanted", "alarm.raised")
    async def work(self, event: Event[Any], ctx: Handling) -> None:
        self.began.append(event.type)
        done = "work.done" if event.type == "work.wanted" else "alarm.over"
        await ctx.publish(done, {"n": event.payload.get("n"), "attempt": ctx.attempt})

    @classmethod
    def passed(cls, before: int) -> int:
        """Return how many began before the next alarm, when `before` had begun."""
        return cls.began.index("alarm.raised", before) - before


async def test_urgent_work_does_not_wait_for_all_that_the_rate_holds_back(spine: Spine, serve: Serve, raw: Any) -> None:
    class Rated(Slow):
        pass

    await serve(Rated, concurrency=32)
    await spine.publish_many([Draft("work.wanted", {"n": n}, key=f"k{n}") for n in range(60)])
    await wait_until(lambda: len(Rated.began) >= 12)
    for n in range(3):
        before = len(Rated.began)
        await spine.publish("alarm.raised", {}, key=f"a{n}", priority=URGENT)
        await wait_for_events(spine, n + 1, "alarm.over")
        assert Rated.passed(before) <= 2
    done = await wait_for_events(spine, 60, "work.done")
    await nothing_left_to_do(spine)
    assert sorted(event.payload["n"] for event in done) == list(range(60))
    assert {event.payload["attempt"] for event in done} == {1}


async def test_an_urgent_event_passes_one_of_its_key_that_has_not_begun(spine: Spine, serve: Serve) -> None:
    class OneKey(Slow):
        rate = "30/min"

    worker = await serve(OneKey, concurrency=4)
    await spine.publish_many([Draft("work.wanted", {"n": n}, key="k") for n in range(2)])
    await wait_until(lambda: OneKey.began and worker._agencies["slow"].limits.turns, 20, "the second to wait")
    await spine.publish("alarm.raised", {}, key="k", priority=URGENT)
    done = await wait_for_events(spine, 2, "work.done")
    assert OneKey.began == ["work.wanted", "alarm.raised", "work.wanted"]
    assert [event.payload["n"] for event in done] == [0, 1]


async def test_what_has_waited_long_is_not_passed_for_ever(spine: Spine, serve: Serve) -> None:
    class Aged(Slow):
        rate = "40/s"
        ageing_s = 0.5

    await serve(Aged, concurrency=4)

    async def flood() -> None:
        for n in range(10_000):
            await spine.publish("alarm.raised", {}, key=f"a{n}", priority=URGENT)
            await asyncio.sleep(0.01)

    flooding = asyncio.create_task(flood())
    try:
        await wait_until(lambda: len(Aged.began) > 60)
        await spine.publish_many([Draft("work.wanted", {"n": n}, f"k{n}", None, BACKGROUND) for n in range(5)])
        await wait_until(lambda: Aged.began.count("work.wanted") == 5, 20, "background work")
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_limit_over_all_workers_holds_while_work_gives_way(
    spine: Spine, serve: Serve, raw: Any, workers: int
) -> None:
    class Limited(Agent):
        name = "limited"
        concurrency = 2
        at_work, most, alarms = 0, 0, 0

        @on("work.wanted", preemptible=True)
        async def work(self, event: Event[Any], ctx: Handling) -> None:
            await self.be_at_work(0.02)
            await ctx.publish("work.done", {"n": event.payload["n"]})

        @on("alarm.raised")
        async def alarm(self, event: Event[Any]) -> None:
            Limited.alarms += 1
            await self.be_at_work(0.001)

        async def be_at_work(self, seconds: float) -> None:
            Limited.at_work += 1
            Limited.most = max(Limited.most, Limited.at_work)
            try:
                await asyncio.sleep(seconds)
            finally:
                Limited.at_work -= 1

    for _ in range(workers):
        await serve(Limited)
    await spine.publish_many([Draft("work.wanted", {"n": n}, key=f"k{n}") for n in range(60)])
    for n in range(20):
        await spine.publish("alarm.raised", {}, key=f"a{n}", priority=URGENT)
        await asyncio.sleep(0.01)
    done = await wait_for_events(spine, 60, "work.done")
    await nothing_left_to_do(spine)
    assert sorted(event.payload["n"] for event in done) == list(range(60))
    assert (Limited.alarms, Limited.most) == (20, 2)
