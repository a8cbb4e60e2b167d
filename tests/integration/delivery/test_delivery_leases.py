"""Who holds what: fair shares, hand-overs that lose and repeat nothing, fencing, versions, shutdown."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any, ClassVar

import redis.asyncio
from recording import Recorder, die, everything, outcomes, pending

from spine import Draft, Event, Handling, LeaseLost, Spine, on
from spine.delivery.commits import Held
from spine.keys import partition_of
from spine.testing.waiting import wait_until
from spine.worker import Worker


def held(worker: Worker) -> set[int]:
    return set(worker._agencies["recorder"].partitions)


def shares(*workers: Worker) -> list[int]:
    return sorted(len(held(worker)) for worker in workers)


def key_in(partition: int, partitions: int = 8) -> str:
    return next(f"k{i}" for i in range(10_000) if partition_of(f"k{i}", partitions) == partition)


class Plain(Recorder):
    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)

    @on("a.b")
    async def handle(self, event: Event[Any]) -> None:
        self.note(event)


async def test_ten_workers_over_eight_partitions_leave_two_standing_by(serve: Any) -> None:
    class Ten(Plain):
        pass

    workers = await asyncio.gather(*(serve(Ten) for _ in range(10)))
    await wait_until(lambda: shares(*workers) == [0, 0] + [1] * 8)
    busy = [worker for worker in workers if held(worker)]
    await busy[0].stop()
    busy[0].dead = True
    rest = [worker for worker in workers if worker is not busy[0]]
    await wait_until(lambda: shares(*rest) == [0] + [1] * 8, timeout=2)


async def test_a_worker_that_joins_has_its_share_within_two_seconds(spine: Spine, serve: Any) -> None:
    class Working(Recorder):
        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            await asyncio.sleep(0.05)
            self.note(event)

    async def publish_for_ever() -> None:
        while True:
            await wait_until(
                lambda: sum(map(len, sent.values())) < Working.count + 200
            )  # never far ahead of the workers
            for event in await spine.publish_many([Draft("a.b", {}, key=f"k{i}") for i in range(20)]):
                sent[event.key].append(event.seq)
            await asyncio.sleep(0.02)

    sent: dict[str, list[int]] = defaultdict(list)
    first = await serve(Working)
    publishing = asyncio.create_task(publish_for_ever())
    await wait_until(lambda: Working.count > 50)
    began = time.monotonic()
    second = await serve(Working)
    await wait_until(lambda: shares(first, second) == [4, 4], timeout=5)
    assert time.monotonic() - began < 2.0
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    total = sum(map(len, sent.values()))
    await wait_until(lambda: Working.count == total, timeout=20)
    assert Working.seen == sent


async def test_partitions_with_long_handlers_move_last_and_drained(spine: Spine, serve: Any) -> None:
    class Long(Recorder):
        go: ClassVar[asyncio.Event]
        at_work: ClassVar[set[int]] = set()

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.at_work.add(event.seq)
            await self.go.wait()
            self.note(event)

    Long.go = asyncio.Event()
    first = await serve(Long)
    for partition in range(4):
        await spine.publish("a.b", {}, key=key_in(partition))
    await wait_until(lambda: len(Long.at_work) == 4)
    second = await serve(Long)
    await wait_until(lambda: shares(first, second) == [4, 4], timeout=3)
    assert held(first) == {0, 1, 2, 3}
    third = await serve(Long)
    await wait_until(lambda: len(held(third)) >= 1, timeout=3)
    assert held(first) == {0, 1, 2, 3}
    Long.go.set()
    await wait_until(lambda: shares(first, second, third) == [2, 3, 3], timeout=15)
    assert Long.count == 4


async def test_what_a_dead_worker_had_in_hand_is_handled_by_another(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Dying(Recorder):
        hang: ClassVar[bool] = True

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            ctx.publish("a.c", {})
            if self.hang:
                await asyncio.Event().wait()
            self.note(event)

    first = await serve(Dying, lease_s=1.0, concurrency=4)
    events = await spine.publish_many([Draft("a.b", {}, key=f"k{i % 5}") for i in range(40)])
    await wait_until(lambda: _pending_are(raw, spine, 40))
    await die(first)
    Dying.hang = False
    began = time.monotonic()
    await serve(Dying)
    await wait_until(lambda: Dying.count == 40)
    assert time.monotonic() - began < 1.0 + 1.0
    for key, seqs in Dying.seen.items():
        assert seqs == [event.seq for event in events if event.key == key]
    assert len(await everything(spine, types="a.c")) == 40
    assert not await raw.exists(*(spine.server.keys.crashes("recorder", number) for number in range(8)))


async def test_the_leases_of_a_worker_known_to_be_dead_are_free_at_once(spine: Spine, serve: Any) -> None:
    class Dying(Plain):
        pass

    first = await serve(Dying, lease_s=60.0)
    second = await serve(Dying)
    await wait_until(lambda: shares(first, second) == [4, 4])
    await die(first)
    assert await spine.expire_worker(first.id) == 4
    await wait_until(lambda: len(held(second)) == 8, timeout=2)


async def test_a_stale_generation_can_neither_take_nor_commit(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Frozen(Recorder):
        go: ClassVar[asyncio.Event]
        cancelled: ClassVar[list[int]] = []
        hang: ClassVar[bool] = True

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            ctx.publish("a.c", {"by": ctx.attempt})
            if self.hang:
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    self.cancelled.append(event.seq)
                    raise
            self.note(event)

    Frozen.go = asyncio.Event()
    stale = await serve(Frozen, worker="stale", lease_s=0.6)
    agency = stale._agencies["recorder"]
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: agency.is_busy)
    number = partition_of("k", 8)
    partition = agency.partitions[number]
    stale._leases._stop.set()  # no sign of life any more
    stale._task.cancel()
    Frozen.hang = False
    await serve(Frozen, worker="new")
    await wait_until(lambda: Frozen.seen["k"] == [event.seq])
    more = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Frozen.seen["k"] == [event.seq, more.seq])
    refused: list[BaseException | None] = []
    try:
        await partition.take("recorder", [10, 10, 10], stalled=False)
    except LeaseLost as error:
        refused.append(error)
    try:
        await agency.outcomes._committer.commit(
            lease=partition.lease.key, generation=partition.lease.generation, held=Held()
        )
    except LeaseLost as error:
        refused.append(error)
    assert len(refused) == 2
    await spine.publish("a.b", {}, key="k")  # rings the stale worker, who finds out
    await wait_until(lambda: Frozen.cancelled == [event.seq])
    await wait_until(lambda: Frozen.count == 3)
    assert len(await everything(spine, types="a.c")) == 3
    stale.dead = True
    await die(stale)


async def test_a_partition_that_comes_back_waits_no_longer_than_for_what_still_runs_of_before(
    spine: Spine, serve: Any
) -> None:
    class Stubborn(Recorder):
        began: ClassVar[asyncio.Event] = asyncio.Event()
        ends: ClassVar[asyncio.Event] = asyncio.Event()

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            if self.began.is_set():
                self.note(event)
                return
            self.began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await self.ends.wait()
                raise

    agency = (await serve(Stubborn))._agencies["recorder"]
    number = partition_of("k", 8)
    event = await spine.publish("a.b", {}, key="k")
    await Stubborn.began.wait()
    lost = agency.partitions[number]
    agency.lose(lost.lease)
    await wait_until(lambda: agency.partitions.get(number, lost) is not lost)
    await asyncio.sleep(0.1)  # whatever was to wake it has done so
    assert not agency.partitions[number].opened
    Stubborn.ends.set()
    await wait_until(lambda: Stubborn.seen["k"] == [event.seq], timeout=5)


async def test_a_take_that_arrives_after_a_recovery_takes_nothing(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Idle(Plain):
        pass

    worker = await serve(Idle)
    await spine.pause("recorder")  # the test takes, not the worker
    await wait_until(lambda: worker._agencies["recorder"].paused)
    event = await spine.publish("a.b", {}, key="k")
    partition = worker._agencies["recorder"].partitions[partition_of("k", 8)]
    await spine.streams.refresh()
    partition.subscribe([stream for stream in spine.streams.all() if stream.topic == "a.b"], set())
    late = partition.ask([10, 10, 10], stalled=False)
    args = partition.args_of(late, 1_000_000)
    await partition.recover("recorder")
    keys = [spine.server.keys.seq, *partition.keys_of(late)]
    answers = await spine.server.evaluate(spine.server.link, "take", keys, ["recorder", 1, *args])
    assert answers[0][2] == 0
    assert await pending(raw, spine, "recorder") == 0
    taken = await partition.take("recorder", [10, 10, 10], stalled=False)
    assert [entry[0] for read in taken for entry in read.entries] == [f"{event.seq}-0".encode()]


async def test_a_lease_that_ran_out_and_that_nobody_took_is_renewed(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Alone(Recorder):
        go: ClassVar[asyncio.Event]

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            await self.go.wait()
            self.note(event)

    Alone.go = asyncio.Event()
    worker = await serve(Alone)
    agency = worker._agencies["recorder"]
    sent = [await spine.publish("a.b", {}, key="k") for _ in range(2)]
    await wait_until(lambda: agency.is_busy)
    lease = agency.partitions[partition_of("k", 8)].lease
    await raw.hset(lease.key, "until", 1)
    worker._balance_now.set()
    await wait_until(lambda: _until(raw, lease.key))
    assert agency.partitions[lease.partition].lease is lease
    Alone.go.set()
    await wait_until(lambda: Alone.seen["k"] == [event.seq for event in sent])


async def _until(raw: redis.asyncio.Redis, key: str) -> bool:
    return int(await raw.hget(key, "until") or 0) > 1


async def test_a_worker_that_stops_finishes_what_runs_and_gives_all_back(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Slow(Recorder):
        started: ClassVar[int] = 0

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            type(self).started += 1
            await asyncio.sleep(0.1)
            self.note(event)

    worker = await serve(Slow, concurrency=4)
    await spine.publish_many([Draft("a.b", {}, key=f"k{i}") for i in range(40)])
    await wait_until(lambda: Slow.started >= 4)
    assert await worker.stop()
    worker.dead = True
    assert Slow.count == Slow.started < 40
    assert await raw.hlen(spine.server.keys.workers("recorder")) == 0
    for number in range(8):
        assert await raw.hget(spine.server.keys.lease("recorder", number), "owner") is None
    handled = len(await outcomes(spine, raw, "recorder"))
    assert handled == Slow.count
    await serve(Slow)
    await wait_until(lambda: Slow.count == 40)


async def test_a_handler_that_does_not_end_is_cut_off_after_the_shutdown_timeout(spine: Spine, serve: Any) -> None:
    class Stuck(Recorder):
        hang: ClassVar[bool] = True
        attempts: ClassVar[list[int]] = []

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            self.attempts.append(ctx.attempt)
            if self.hang:
                await asyncio.Event().wait()
            self.note(event)

    worker = await serve(Stuck, shutdown_timeout_s=0.2)
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Stuck.attempts == [1])
    assert not await worker.stop()
    worker.dead = True
    Stuck.hang = False
    await serve(Stuck)
    await wait_until(lambda: Stuck.seen["k"] == [event.seq])
    assert Stuck.attempts == [1, 1]


async def test_the_newest_version_alive_does_the_work(spine: Spine, serve: Any) -> None:
    class Old(Recorder):
        version = "1"

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            await asyncio.sleep(0.001)
            self.note(event)

    class New(Recorder):
        version = "2"

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    old = await serve(Old)
    await spine.publish_many([Draft("a.b", {}, key=f"k{i % 3}") for i in range(200)])
    await wait_until(lambda: Old.count > 20)
    new = await serve(New)
    await wait_until(lambda: (len(held(old)), len(held(new))) == (0, 8), timeout=3)
    await wait_until(lambda: Old.count + New.count == 200)
    for key in ("k0", "k1", "k2"):
        seqs = Old.seen[key] + New.seen[key]
        assert seqs == sorted(seqs)
    (status,) = await spine.agents("recorder")
    assert (status.version, status.versions) == ("2", ("1", "2"))
    assert {serving.version: len(serving.partitions) for serving in status.workers} == {"1": 0, "2": 8}
    await new.stop()
    new.dead = True
    await wait_until(lambda: len(held(old)) == 8, timeout=3)
    before = Old.count
    await spine.publish("a.b", {}, key="k0")
    await wait_until(lambda: Old.count == before + 1)


async def test_a_topic_that_is_added_begins_at_the_present(spine: Spine, serve: Any) -> None:
    class First(Recorder):
        version = "1"

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    class Second(Recorder):
        version = "2"

        @on("a.b", "a.new", "b.*")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    first = await serve(First)
    one = await spine.publish("a.b", {}, key="k")
    await spine.publish("a.new", {}, key="k")
    await spine.publish("b.x", {}, key="k")
    await wait_until(lambda: First.seen["k"] == [one.seq])
    await first.stop()
    first.dead = True
    two = await spine.publish("a.b", {}, key="k")
    await spine.publish("a.new", {}, key="k")
    await serve(Second)
    three = await spine.publish("a.new", {}, key="k")
    four = await spine.publish("b.x", {}, key="k")
    five = await spine.publish("b.born", {}, key="k")
    await wait_until(lambda: Second.seen["k"] == [two.seq, three.seq, four.seq, five.seq])


async def test_a_topic_that_is_dropped_keeps_its_place_for_when_it_comes_back(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Both(Recorder):
        version = "1"

        @on("a.b", "a.c")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    class One(Recorder):
        version = "2"

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    class Again(Recorder):
        version = "3"

        @on("a.b", "a.c")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    first = await serve(Both)
    one = await spine.publish("a.c", {}, key="k")
    await wait_until(lambda: Both.seen["k"] == [one.seq])
    await first.stop()
    first.dead = True
    second = await serve(One)
    missed = await spine.publish("a.c", {}, key="k")
    two = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: One.seen["k"] == [two.seq])
    assert sum(lag.total for lag in await spine.lag("recorder")) == 0
    await second.stop()
    second.dead = True
    await serve(Again)
    await wait_until(lambda: Again.seen["k"] == [missed.seq])
    assert await pending(raw, spine, "recorder") == 0


async def _pending_are(raw: redis.asyncio.Redis, spine: Spine, count: int) -> bool:
    return await pending(raw, spine, "recorder") == count
