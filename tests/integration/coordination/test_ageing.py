"""Ageing: less urgent work is not starved, however much urgent work there is, in hand and unread."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from worker_processes import Serve

from spine import Agent, Draft, Event, Priority, Spine, on
from spine.delivery.hand import PASSED_BY
from spine.testing.waiting import wait_until
from spine.worker.room import BEYOND

URGENT, NORMAL, BACKGROUND = Priority
AGEING_S = 0.5


class Flooded(Agent):
    """Has urgent work all the time. Notes the lanes as they begin, and how long the others waited."""

    name = "flooded"
    ageing_s = AGEING_S
    prefetch = 64
    began: ClassVar[list[Priority]]
    waits_s: ClassVar[list[float]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.began, cls.waits_s = [], []

    @on("*.urgent")
    async def urgent(self, event: Event[Any]) -> None:
        self.began.append(URGENT)
        await asyncio.sleep(0.01)

    @on("*.other", preemptible=True)
    async def other(self, event: Event[Any]) -> None:
        self.began.append(event.context.priority)
        self.waits_s.append(time.monotonic() - event.payload["at"])
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def flood(spine: Spine, agent: type[Flooded], ahead: int) -> AsyncIterator[None]:
    """Keep `ahead` urgent events waiting, of many keys."""

    async def publish_for_ever() -> None:
        published = 0
        while True:
            missing = agent.began.count(URGENT) + ahead - published
            if missing > 0:
                drafts = [Draft("a.urgent", {}, f"u{n % 97}", None, URGENT) for n in range(missing)]
                published += len(await spine.publish_many(drafts))
            await asyncio.sleep(0.005)

    flooding = asyncio.create_task(publish_for_ever())
    try:
        await wait_until(lambda: agent.began.count(URGENT) > 10)
        yield
    finally:
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


@pytest.mark.parametrize("ordering", ["key", "none"])
async def test_a_hand_full_of_urgent_events_and_more_of_them_unread(spine: Spine, serve: Serve, ordering: str) -> None:
    class Full(Flooded):
        pass

    Full.ordering = ordering  # type: ignore[assignment]
    count = (BEYOND - 1) * Full.prefetch
    await serve(Full, concurrency=2)
    await spine.publish_many([Draft("a.urgent", {}, f"u{n % 97}", None, URGENT) for n in range(count)])
    await spine.publish("a.other", {"at": time.monotonic()}, key="k", priority=BACKGROUND)
    await wait_until(lambda: len(Full.began) == count + 1)
    assert Full.began.index(BACKGROUND) < count - 2 * Full.prefetch


@pytest.mark.parametrize("lane", [NORMAL, BACKGROUND])
async def test_the_rest_goes_on_while_urgent_work_never_ends(spine: Spine, serve: Serve, lane: Priority) -> None:
    class Never(Flooded):
        pass

    await serve(Never, concurrency=2)
    async with flood(spine, Never, ahead=5 * Never.prefetch):
        await spine.publish_many([Draft("a.other", {"at": time.monotonic()}, f"k{n}", None, lane) for n in range(20)])
        await wait_until(lambda: len(Never.waits_s) >= 20, 20, "all of the less urgent lane begun")
    first, last = Never.began.index(lane), len(Never.began) - Never.began[::-1].index(lane)
    urgent = Never.began[first:last].count(URGENT)
    assert urgent >= PASSED_BY * 15  # and urgent work had most of the slots meanwhile
    assert min(Never.waits_s) < AGEING_S + 3.0


async def test_two_less_urgent_lanes_at_once(spine: Spine, serve: Serve) -> None:
    class Both(Flooded):
        pass

    await serve(Both, concurrency=2)
    async with flood(spine, Both, ahead=100):
        for n in range(40):
            lane = NORMAL if n % 2 else BACKGROUND
            await spine.publish("a.other", {"at": time.monotonic()}, key=f"k{n}", priority=lane)
        await wait_until(lambda: len(Both.waits_s) >= 40, 20, "both less urgent lanes begun")


@pytest.mark.soak
async def test_how_long_the_others_wait_under_twice_the_load_that_can_be_borne(spine: Spine, serve: Serve) -> None:
    class Overrun(Flooded):
        ageing_s = 2.0
        prefetch = 1024

    await serve(Overrun, concurrency=4)
    ends = time.monotonic() + 20

    async def publish(type: str, lane: Priority, pace_s: float) -> int:
        count = 0
        while time.monotonic() < ends:
            await spine.publish(type, {"at": time.monotonic()}, key=f"{lane}{count}", priority=lane)
            await asyncio.sleep(pace_s)
            count += 1
        return count

    urgent = [publish("a.urgent", URGENT, 0.005) for _ in range(4)]
    *_, others = await asyncio.gather(*urgent, publish("a.other", BACKGROUND, 0.05))
    await wait_until(lambda: len(Overrun.waits_s) >= others, 20)
    waits = sorted(Overrun.waits_s)
    print(f"background under overload: {others} waited {waits[0]:.2f} to {waits[-1]:.2f} s, ageing 2 s")
    assert waits[-1] < 2.0 + 1.0
