"""What a death leaves behind: which events are suspected, which are not, and the slots of the dead."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import redis.asyncio
from recording import Recorder, die
from tenacity import wait_fixed

from spine import Draft, Event, Retry, Spine, on
from spine.keys import partition_of
from spine.testing.waiting import wait_until
from spine.worker import Worker


class Stuck(Recorder):
    """Hangs until it is told to go on."""

    go: ClassVar[asyncio.Event]
    at_work: ClassVar[list[int]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.go, cls.at_work = asyncio.Event(), []

    async def work(self, event: Event[Any]) -> None:
        self.at_work.append(event.seq)
        await self.go.wait()
        self.note(event)


async def deaths_at(spine: Spine, raw: redis.asyncio.Redis, event: Event[Any]) -> int:
    found = await raw.hget(spine.server.keys.crashes("recorder", partition_of(event.key, 8)), str(event.seq))
    return int(found or 0)


def begun(agent: type[Stuck], seq: int) -> bool:
    return seq in agent.at_work


async def fall(spine: Spine, worker: Worker) -> None:
    await die(worker)
    await spine.expire_worker(worker.id)


async def test_deaths_are_counted_across_a_hand_over_in_order(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Deadly(Stuck):
        @on("a.b", retry=Retry(kills=3))
        async def handle(self, event: Event[Any]) -> None:
            await self.work(event)

    worker = await serve(Deadly)
    event = await spine.publish("a.b", {}, key="k")
    for counted in (0, 1, 2, 3):
        await wait_until(lambda: begun(Deadly, event.seq))
        assert await deaths_at(spine, raw, event) == counted
        await fall(spine, worker)
        await spine.pause("recorder")
        between = await serve(Deadly)  # takes over what was cut off, and gives it back in order
        await wait_until(lambda between=between: len(between._agencies["recorder"].partitions) == 8)
        assert await between.stop()
        between.dead = True
        await spine.resume("recorder")
        Deadly.at_work.clear()
        worker = await serve(Deadly)
    (letter,) = await wait_until(lambda: spine.dead_letters("recorder"))
    assert (letter.seq, letter.error_type) == (event.seq, "WorkerDied")
    assert not Deadly.at_work
    assert await deaths_at(spine, raw, event) == 0


async def test_an_interruption_is_no_death(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Interrupted(Stuck):
        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            await self.work(event)

    worker = await serve(Interrupted)
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: begun(Interrupted, event.seq))
    await fall(spine, worker)
    for _ in range(3):
        Interrupted.at_work.clear()
        worker = await serve(Interrupted, shutdown_timeout_s=0.05)
        await wait_until(lambda: begun(Interrupted, event.seq))
        assert await deaths_at(spine, raw, event) <= 1
        assert not await worker.stop()
        worker.dead = True
        assert await deaths_at(spine, raw, event) == 0
    Interrupted.go.set()
    await serve(Interrupted)
    await wait_until(lambda: Interrupted.count == 1)


async def test_a_failure_is_no_death(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Failing(Stuck):
        @on("a.b", retry=Retry(attempts=3, wait=wait_fixed(0.2)))
        async def handle(self, event: Event[Any]) -> None:
            await self.work(event)
            raise ValueError("no")

    worker = await serve(Failing)
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: begun(Failing, event.seq))
    await fall(spine, worker)
    Failing.at_work.clear()
    await serve(Failing)
    await wait_until(lambda: begun(Failing, event.seq))
    assert await deaths_at(spine, raw, event) == 1
    Failing.go.set()
    await wait_until(lambda: _count(Failing, 2))
    assert await deaths_at(spine, raw, event) == 0
    (letter,) = await wait_until(lambda: spine.dead_letters("recorder"))
    assert (letter.error_type, letter.attempts) == ("ValueError", 3)


def _count(agent: type[Stuck], count: int) -> bool:
    return agent.count >= count


async def test_waiting_for_the_rate_is_not_being_at_work(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Rated(Stuck):
        rate = "1/h"

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    worker = await serve(Rated)
    events = await spine.publish_many([Draft("a.b", {}, key=f"k{i}") for i in range(5)])
    await wait_until(lambda: _count(Rated, 1))
    for _ in range(4):
        await wait_until(lambda worker=worker: worker._agencies["recorder"].limits.turns)
        await fall(spine, worker)
        worker = await serve(Rated)
    assert [await deaths_at(spine, raw, event) for event in events] == [0] * 5
    assert await spine.dead_letters("recorder") == []


async def test_what_waits_to_run_alone_does_not_begin_after_its_lease_is_lost(spine: Spine, serve: Any) -> None:
    class Alone(Stuck):
        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            await self.work(event)

    worker = await serve(Alone)
    first, second = await spine.publish_many([Draft("a.b", {}, key="k"), Draft("a.b", {}, key="k2")])
    for _ in range(2):
        await wait_until(lambda: begun(Alone, first.seq) and begun(Alone, second.seq))
        await wait_until(lambda: len(Alone.at_work) == 2)
        await fall(spine, worker)
        Alone.at_work.clear()
        worker = await serve(Alone)
    await wait_until(lambda: len(Alone.at_work) == 1)  # each had a death: the other one waits
    for partition in list(worker._agencies["recorder"].partitions.values()):
        worker._agencies["recorder"].lose(partition.lease)
    worker._task.cancel()
    await asyncio.sleep(0.1)
    assert len(Alone.at_work) == 1


async def test_the_slots_of_the_dead_are_free_at_once(spine: Spine, serve: Any) -> None:
    class Single(Stuck):
        concurrency = 1

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            await self.work(event)

    worker = await serve(Single)
    await spine.publish_many([Draft("a.b", {}, key=f"k{i}") for i in range(3)])
    await wait_until(lambda: len(Single.at_work) == 1)
    Single.go.set()
    await die(worker)
    began, Single.count = time.monotonic(), 0
    await spine.expire_worker(worker.id)
    await serve(Single)
    await wait_until(lambda: Single.count == 3)
    assert time.monotonic() - began < 2.0


async def test_a_handler_that_blocks_the_loop_keeps_its_slot(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Single(Stuck):
        concurrency = 1

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            await self.work(event)

    worker = await serve(Single, lease_s=0.4)
    await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: len(Single.at_work) == 1)
    time.sleep(1.2)  # noqa: ASYNC251 - three times its lease
    keys = spine.server.keys
    slots, workers = keys.slots("recorder"), keys.workers("recorder")
    args = ["", 1, 1, "another:1"]
    assert await spine.server.run("enter", [keys.rate("recorder"), slots, workers], args) > 0
    assert len(await raw.smembers(slots)) == 1
    Single.go.set()
    await wait_until(lambda: Single.count == 1)
    await wait_until(lambda: _is_free(worker, raw, slots))
    assert await spine.server.run("enter", [keys.rate("recorder"), slots, workers], args) == 0
    await raw.srem(slots, "another:1")


async def _is_free(worker: Worker, raw: redis.asyncio.Redis, slots: str) -> bool:
    return not await raw.exists(slots)
