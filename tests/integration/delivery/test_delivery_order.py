"""Order: the events of one key in seq order, across topics, lanes and workers; different keys side by side."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, ClassVar

from recording import Recorder

from spine import Draft, Event, Priority, Spine, on
from spine.testing.waiting import wait_until


async def test_the_events_of_a_key_come_in_seq_order_across_topics_and_workers(spine: Spine, serve: Any) -> None:
    class Mixed(Recorder):
        @on("a.one", "a.two", "b.three")
        async def handle(self, event: Event[Any]) -> None:
            await asyncio.sleep(0.0005 * (event.seq % 3))
            self.note(event)

    await serve(Mixed)
    await serve(Mixed)
    sent: dict[str, list[int]] = defaultdict(list)
    for _ in range(20):
        drafts = [Draft(("a.one", "a.two", "b.three")[i % 3], {}, key=f"k{i % 7}") for i in range(50)]
        for event in await spine.publish_many(drafts):
            sent[event.key].append(event.seq)
    await wait_until(lambda: Mixed.count == 1000, what="every event handled")
    assert Mixed.seen == sent


async def test_a_backlog_over_many_topics_comes_in_seq_order(spine: Spine, serve: Any) -> None:
    class Behind(Recorder):
        start = "beginning"
        prefetch = 32

        @on("t.*")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    sent: dict[str, list[int]] = defaultdict(list)
    for topic in (0, 1, 2, 0):
        drafts = [Draft(f"t.n{topic}", {}, key=f"k{i % 5}") for i in range(400)]
        for event in await spine.publish_many(drafts):
            sent[event.key].append(event.seq)
    await serve(Behind)
    await wait_until(lambda: Behind.count == 1600, what="every event handled")
    assert Behind.seen == sent


async def test_different_keys_run_side_by_side_up_to_the_concurrency(spine: Spine, serve: Any) -> None:
    class Wide(Recorder):
        running: ClassVar[int] = 0
        most: ClassVar[int] = 0
        go: ClassVar[asyncio.Event]

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            type(self).running += 1
            type(self).most = max(self.most, self.running)
            await self.go.wait()
            type(self).running -= 1
            self.note(event)

    Wide.go = asyncio.Event()
    await serve(Wide, concurrency=6)
    await spine.publish_many([Draft("a.b", {}, key=f"k{i}") for i in range(40)])
    await wait_until(lambda: Wide.running == 6)
    Wide.go.set()
    await wait_until(lambda: Wide.count == 40)
    assert Wide.most == 6


async def test_an_urgent_event_overtakes_by_its_lane_and_not_what_runs(spine: Spine, serve: Any) -> None:
    class Lanes(Recorder):
        order: ClassVar[list[tuple[str, int]]] = []
        first: ClassVar[asyncio.Event]

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.order.append(("start", event.seq))
            await self.first.wait()
            self.order.append(("end", event.seq))
            self.note(event)

    Lanes.first = asyncio.Event()
    await serve(Lanes)
    one = await spine.publish("a.b", key="k")
    await wait_until(lambda: Lanes.order == [("start", one.seq)])
    background = await spine.publish("a.b", key="k", priority=Priority.BACKGROUND)
    normal = await spine.publish("a.b", key="k")
    urgent = await spine.publish("a.b", key="k", priority=Priority.URGENT)
    other = await spine.publish("a.b", key="another", priority=Priority.URGENT)
    await wait_until(lambda: ("start", other.seq) in Lanes.order)
    assert ("start", urgent.seq) not in Lanes.order
    Lanes.first.set()
    await wait_until(lambda: Lanes.count == 5)
    assert Lanes.seen["k"] == [one.seq, urgent.seq, normal.seq, background.seq]


async def test_without_ordering_the_events_of_a_key_run_side_by_side(spine: Spine, serve: Any) -> None:
    class Plain(Recorder):
        ordering = "none"
        running: ClassVar[int] = 0
        go: ClassVar[asyncio.Event]

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            type(self).running += 1
            await self.go.wait()
            self.note(event)

    Plain.go = asyncio.Event()
    await serve(Plain)
    await spine.publish_many([Draft("a.b", {}, key="k") for _ in range(5)])
    await wait_until(lambda: Plain.running == 5)
    Plain.go.set()
    await wait_until(lambda: Plain.count == 5)


async def test_two_agents_each_get_every_event(spine: Spine, serve: Any) -> None:
    class First(Recorder):
        name = "first"

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    class Second(Recorder):
        name = "second"

        @on("a.*")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(First, Second)
    events = await spine.publish_many([Draft("a.b", {}, key="k") for _ in range(10)])
    await wait_until(lambda: First.count == 10 == Second.count)
    assert First.seen["k"] == Second.seen["k"] == [event.seq for event in events]
