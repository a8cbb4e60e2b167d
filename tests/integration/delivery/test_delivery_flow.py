"""Flow control: bounded prefetch, limits over all workers, pausing."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import pytest
import redis.asyncio
from recording import Recorder, pending

from spine import Draft, Event, InvalidInput, Priority, Spine, on
from spine.testing.waiting import wait_until
from spine.worker import Worker


def hand_of(worker: Worker) -> Any:
    return worker._agencies["recorder"].hand


async def publish(spine: Spine, count: int, event_type: str = "a.b", size: int = 0, keys: int = 7) -> list[Event[Any]]:
    events: list[Event[Any]] = []
    for start in range(0, count, 200):
        drafts = [
            Draft(event_type, {"x": "y" * size}, key=f"k{i % keys}") for i in range(start, min(count, start + 200))
        ]
        events += await spine.publish_many(drafts)
    return events


async def test_a_worker_holds_no_more_than_its_prefetch_over_all_topics(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Waiting(Recorder):
        prefetch = 24
        start = "beginning"
        go: ClassVar[asyncio.Event]

        @on("a.*")
        async def handle(self, event: Event[Any]) -> None:
            await self.go.wait()
            self.note(event)

    Waiting.go = asyncio.Event()
    for topic in ("a.one", "a.two", "a.three"):
        await publish(spine, 200, topic)
    worker = await serve(Waiting, concurrency=4)
    await wait_until(lambda: hand_of(worker).size >= 8)
    most = 0
    for _ in range(20):
        await asyncio.sleep(0.005)
        most = max(most, await pending(raw, spine, "recorder"))
    assert most <= 24 + 8  # each partition may be owed one
    Waiting.go.set()
    await wait_until(lambda: Waiting.count == 600)


async def test_large_events_are_taken_by_their_bytes(spine: Spine, serve: Any) -> None:
    class Waiting(Recorder):
        start = "beginning"
        go: ClassVar[asyncio.Event]

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            await self.go.wait()
            self.note(event)

    Waiting.go = asyncio.Event()
    for _ in range(6):
        await publish(spine, 100, size=100_000)
    worker = await serve(Waiting, concurrency=4)
    await wait_until(lambda: hand_of(worker).bytes > 30_000_000)
    for _ in range(20):
        await asyncio.sleep(0.005)
        assert hand_of(worker).bytes < 32 * 1024 * 1024 + 8 * 10_000_000
    assert hand_of(worker).size < 600
    Waiting.go.set()
    await wait_until(lambda: Waiting.count == 600)
    assert hand_of(worker).bytes == 0


async def test_the_concurrency_of_an_agent_counts_over_all_workers(spine: Spine, serve: Any) -> None:
    class Limited(Recorder):
        concurrency = 3
        running: ClassVar[int] = 0
        most: ClassVar[int] = 0

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            type(self).running += 1
            type(self).most = max(self.most, self.running)
            await asyncio.sleep(0.01)
            type(self).running -= 1
            self.note(event)

    await asyncio.gather(serve(Limited), serve(Limited))
    await publish(spine, 60, keys=60)
    await wait_until(lambda: Limited.count == 60, timeout=20)
    assert Limited.most == 3


async def test_a_rate_counts_over_all_workers(spine: Spine, serve: Any) -> None:
    class Rated(Recorder):
        rate = "50/s"
        starts: ClassVar[list[float]] = []

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.starts.append(time.monotonic())
            self.note(event)

    await asyncio.gather(serve(Rated), serve(Rated))
    began = time.monotonic()
    await publish(spine, 120, keys=120)
    await wait_until(lambda: Rated.count == 120, timeout=20)
    took = time.monotonic() - began
    assert 2.3 < took < 6.0
    for i in range(len(Rated.starts) - 60):  # some more than 50: a start takes a moment to be noted here
        assert Rated.starts[i + 60] - Rated.starts[i] > 1.0


async def test_a_handler_that_waits_for_its_turn_ends_with_its_worker(spine: Spine, serve: Any) -> None:
    class Rated(Recorder):
        rate = "1/h"

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    worker = await serve(Rated, shutdown_timeout_s=30.0)
    await publish(spine, 10, keys=10)
    await wait_until(lambda: Rated.count == 1)
    began = time.monotonic()
    assert await worker.stop()
    worker.dead = True
    assert time.monotonic() - began < 3
    assert sum(lag.pending + lag.not_taken for lag in await spine.lag("recorder")) == 9


async def test_a_paused_agent_takes_nothing_until_it_is_resumed(spine: Spine, serve: Any) -> None:
    class Pausing(Recorder):
        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    first = await serve(Pausing)
    await publish(spine, 5)
    await wait_until(lambda: Pausing.count == 5)
    await spine.pause("recorder")
    await wait_until(lambda: first._agencies["recorder"].paused)
    late = await serve(Pausing)
    events = await publish(spine, 20)
    assert (await spine.agents("recorder"))[0].paused
    await wait_until(lambda: late._agencies["recorder"].partitions)
    for _ in range(10):
        await asyncio.sleep(0.01)
        assert Pausing.count == 5
    await spine.resume("recorder")
    await wait_until(lambda: Pausing.count == 25)
    for key, seqs in Pausing.seen.items():
        assert seqs == sorted(seqs), key
    assert {event.seq for event in events} <= {seq for seqs in Pausing.seen.values() for seq in seqs}


@pytest.mark.parametrize("call", ["pause", "resume", "lag", "remove_agent"])
async def test_an_agent_that_never_ran_is_named(spine: Spine, call: str) -> None:
    with pytest.raises(InvalidInput, match="nobody"):
        await getattr(spine, call)("nobody")


async def test_urgent_events_pass_a_backlog(spine: Spine, serve: Any) -> None:
    class Slow(Recorder):
        start = "beginning"
        prefetch = 64
        order: ClassVar[list[int]] = []

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            await asyncio.sleep(0.002)
            self.order.append(event.seq)
            self.note(event)

    await publish(spine, 2000, keys=50)
    await serve(Slow, concurrency=4)
    await wait_until(lambda: Slow.count > 50)
    urgent = await spine.publish("a.b", {}, key="k1", priority=Priority.URGENT)
    await wait_until(lambda: urgent.seq in Slow.order)
    assert Slow.order.index(urgent.seq) < 1000
    await wait_until(lambda: Slow.count == 2001, timeout=30)
