"""What is known of held keys follows the server, whoever held their partition meanwhile and whatever was at work."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
import redis.asyncio
from pydantic import BaseModel
from recording import Recorder
from tenacity import wait_fixed

from spine import Agent, Draft, Event, Handling, Priority, Retry, Spine, on, reduces
from spine.delivery.dead import DeadLetters
from spine.delivery.holds import Hold, decode_hold
from spine.keys import partition_of
from spine.testing.waiting import wait_until

AT_ONCE = wait_fixed(0.01)


async def test_a_key_that_was_parked_elsewhere_is_parked_where_its_partition_comes_back(
    spine: Spine, serve: Any
) -> None:
    """The first worker knew of a retry when it gave the partition away; the second one parked the key."""

    class Old(Recorder):
        began: ClassVar[asyncio.Event] = asyncio.Event()
        fails: ClassVar[asyncio.Event] = asyncio.Event()

        @on("a.b", retry=Retry(attempts=2, wait=AT_ONCE), on_dead="park")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            if event.payload.get("dies"):
                self.began.set()
                await self.fails.wait()
                raise ValueError("as told")
            self.note(event)

    class New(Old):
        version = "2"

    old = await serve(Old)
    partition = partition_of("k", 8)
    await spine.publish("a.b", {"dies": True}, key="k")
    await Old.began.wait()
    new = await serve(New)
    await wait_until(lambda: old._agencies["recorder"].partitions[partition].draining)
    Old.fails.set()
    await wait_until(lambda: _letters(spine, 1))
    later = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _waiting(spine, 1))

    await new.stop()
    await wait_until(lambda: _is_open(old, partition), timeout=15)
    other = next(f"o{n}" for n in range(1000) if partition_of(f"o{n}", 8) == partition)
    for n in range(5):
        await spine.publish("a.b", {}, key=other)
        await wait_until(lambda n=n: len(Old.seen[other]) == n + 1)
    assert Old.seen["k"] == []
    assert await _waiting(spine, 1)
    await spine.discard()
    await wait_until(lambda: Old.seen["k"] == [later.seq])


async def test_an_event_that_is_not_urgent_passes_no_hold_that_began_after_it_was_taken(
    spine: Spine, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Limited(Recorder):
        concurrency = 4
        mended: ClassVar[bool] = False

        @on("a.b", retry=Retry(attempts=1))
        async def handle(self, event: Event[Any]) -> None:
            if event.payload.get("dies") and not self.mended:
                raise ValueError("as told")
            self.note(event)

    worker = await serve(Limited)
    agency = worker._agencies["recorder"]
    dead = await spine.publish("a.b", {"dies": True}, key="k")
    await wait_until(lambda: _letters(spine, 1))
    enter, entering, room = agency.limits.enter, asyncio.Event(), asyncio.Event()

    async def enter_later(*args: Any, **options: Any) -> bool:
        entering.set()
        await room.wait()
        return await enter(*args, **options)

    monkeypatch.setattr(agency.limits, "enter", enter_later)
    later = await spine.publish("a.b", {}, key="k")
    await entering.wait()
    opening = agency.partitions[partition_of("k", 8)].opening
    Limited.mended = True
    await spine.redrive()
    partition = agency.partitions[partition_of("k", 8)]
    await wait_until(lambda: partition.opened and partition.opening > opening)
    room.set()
    await wait_until(lambda: Limited.seen["k"] == [dead.seq, later.seq])


async def test_what_is_interrupted_while_its_partition_is_opened_is_taken_again(spine: Spine, serve: Any) -> None:
    class Limited(Recorder):
        concurrency = 4

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    worker = await serve(Limited)
    agency = worker._agencies["recorder"]
    partition = agency.partitions[partition_of("k", 8)]
    await wait_until(lambda: partition.opened)
    enter, entering, room = agency.limits.enter, asyncio.Event(), asyncio.Event()
    recover, recovering, go_on = partition.recover, asyncio.Event(), asyncio.Event()

    async def enter_later(*args: Any, **options: Any) -> bool:
        entering.set()
        await room.wait()
        return await enter(*args, **options)

    async def recover_later(*args: Any) -> Any:
        reads = await recover(*args)
        recovering.set()
        await go_on.wait()
        return reads

    agency.limits.enter, partition.recover = enter_later, recover_later  # type: ignore[method-assign]
    published = [await spine.publish("a.b", {"n": n}, key="k") for n in range(3)]
    await entering.wait()
    agency.reload_holds(partition.number)
    await recovering.wait()
    room.set()
    await wait_until(lambda: not agency.hand.is_running("k"))
    go_on.set()
    await wait_until(lambda: Limited.seen["k"] == [event.seq for event in published])


async def test_a_hold_lets_nothing_run_that_what_was_just_read_comes_before(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    """A stream was read to its end, and the first event of the key is on its way to hand."""

    class Two(Recorder):
        began: ClassVar[asyncio.Event] = asyncio.Event()
        fails: ClassVar[asyncio.Event] = asyncio.Event()

        @on("a.fails", retry=Retry(attempts=2, wait=wait_fixed(10)))
        async def fail(self, event: Event[Any]) -> None:
            self.began.set()
            await self.fails.wait()
            raise ValueError("as told")

        @on("a.one", "a.two")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    agency = (await serve(Two))._agencies["recorder"]
    partition = agency.partitions[partition_of("k", 8)]
    other = next(f"o{n}" for n in range(1000) if partition_of(f"o{n}", 8) == partition.number)
    for topic in ("a.one", "a.two"):
        await spine.publish(topic, {}, key=other)
    await spine.publish("a.fails", {}, key=other)
    await Two.began.wait()
    worth_reading, prepare = partition._worth_reading, agency.prepare
    on_its_way, go_on = asyncio.Event(), asyncio.Event()
    seen: list[int] = []

    def second_stream_first() -> list[int]:
        numbers = worth_reading()
        two = [number for number in numbers if partition._subscribed[number].topic == "a.two"]
        return two or numbers

    async def prepare_later(taken: list[Any]) -> None:
        await prepare(taken)
        seen.extend(one.event.seq for one in taken)
        if any(one.event.topic == "a.one" for one in taken):
            on_its_way.set()
            await go_on.wait()

    partition._worth_reading, agency.prepare = second_stream_first, prepare_later  # type: ignore[method-assign]
    first, second = await spine.publish_many([Draft("a.one", {}, key="k"), Draft("a.two", {}, key="k")])
    await on_its_way.wait()
    assert seen == [second.seq, first.seq]
    Two.fails.set()
    await wait_until(lambda: raw.hexists(spine.server.keys.holds("recorder", partition.number), other))
    await wait_until(lambda: not agency.hand.is_running(other))
    go_on.set()
    await wait_until(lambda: len(Two.seen["k"]) == 2)
    assert Two.seen["k"] == [first.seq, second.seq]


async def test_an_urgent_event_that_fails_while_the_holds_are_read_is_tried_again(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Passing(Recorder):
        began: ClassVar[asyncio.Event] = asyncio.Event()
        fails: ClassVar[asyncio.Event] = asyncio.Event()

        @on("a.b", retry=Retry(attempts=1), on_dead="park")
        async def parks(self, event: Event[Any]) -> None:
            raise ValueError("as told")

        @on("a.urgent", retry=Retry(attempts=2, wait=AT_ONCE))
        async def fails_once(self, event: Event[Any], ctx: Handling) -> None:
            self.began.set()
            await self.fails.wait()
            if ctx.attempt == 1:
                raise ValueError("as told")
            self.note(event)

    worker = await serve(Passing)
    agency = worker._agencies["recorder"]
    await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _letters(spine, 1))
    urgent = await spine.publish("a.urgent", {}, key="k", priority=Priority.URGENT)
    await Passing.began.wait()
    commands, reading = agency.server.commands, asyncio.Event()

    async def commands_later(*sent: Any) -> Any:
        replies = await commands(*sent)
        if sent and sent[0][0] == "LINDEX" and not reading.is_set():
            reading.set()
            await wait_until(lambda: not agency.hand.is_running("k"))
        return replies

    agency.server.commands = commands_later  # type: ignore[method-assign]
    agency.reload_holds(partition_of("k", 8))
    await reading.wait()
    Passing.fails.set()
    await wait_until(lambda: Passing.seen["k"] == [urgent.seq])
    assert (await _hold(spine, raw, "k")).reason == "parked"


async def test_a_redrive_notices_an_event_that_parks_a_parked_key_meanwhile(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Parking(Recorder):
        @on("a.b", "a.urgent", retry=Retry(attempts=1), on_dead="park")
        async def parks(self, event: Event[Any]) -> None:
            raise ValueError("as told")

    await serve(Parking)
    dead = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _letters(spine, 1))
    look_up = DeadLetters._parked

    async def looks_up_too_early(self: DeadLetters, agents: Any, but: Any = ()) -> Any:
        found = await look_up(self, agents, but)
        if not await _letters(spine, 2):
            await spine.publish("a.urgent", {}, key="k", priority=Priority.URGENT)
            await wait_until(lambda: _letters(spine, 2))
        return found

    monkeypatch.setattr(DeadLetters, "_parked", looks_up_too_early)
    assert [letter.seq for letter in await spine.redrive(seq=dead.seq)] == [dead.seq]
    assert (await _hold(spine, raw, "k")).reason == "parked"


async def test_a_key_stays_parked_when_what_passed_it_was_trimmed_away(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Parking(Recorder):
        @on("a.b", retry=Retry(attempts=1), on_dead="park")
        async def parks(self, event: Event[Any]) -> None:
            raise ValueError("as told")

        @on("a.urgent", retry=Retry(attempts=2, wait=wait_fixed(0.3)))
        async def fails(self, event: Event[Any]) -> None:
            raise ValueError("as told")

    await serve(Parking)
    await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _letters(spine, 1))
    urgent = await spine.publish("a.urgent", {}, key="k", priority=Priority.URGENT)
    await wait_until(lambda: _waiting(spine, 1))
    stream = spine.server.keys.log(partition_of("k", 8), int(Priority.URGENT), "a.urgent")
    assert await raw.xdel(stream, f"{urgent.seq}-0") == 1
    await wait_until(lambda: _letters(spine, 2))
    assert (await _hold(spine, raw, "k")).reason == "parked"


async def test_a_reducer_that_raises_leaves_a_key_parked_that_a_dead_letter_parks(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Count(BaseModel):
        count: int = 0

    class Folding(Agent[Count]):
        name = "recorder"
        seen: ClassVar[list[int]] = []

        @reduces("a.urgent")
        def fold(self, state: Count, event: Event[Any]) -> Count:
            if self.version == "1":
                raise ValueError("not yet")
            return Count(count=state.count + 1)

        @on("a.b", retry=Retry(attempts=1), on_dead="park")
        async def parks(self, event: Event[Any]) -> None:
            if event.payload.get("dies"):
                raise ValueError("as told")
            self.seen.append(event.seq)

        @on("a.urgent")
        async def works(self, event: Event[Any]) -> None:
            self.seen.append(event.seq)

    class Mended(Folding):
        version = "2"

    worker = await serve(Folding)
    await spine.publish("a.b", {"dies": True}, key="k")
    await wait_until(lambda: _letters(spine, 1))
    await spine.publish("a.urgent", {}, key="k", priority=Priority.URGENT)
    later = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _waiting(spine, 2))
    await worker.stop()
    newer = await serve(Mended)
    await wait_until(lambda: _is_open(newer, partition_of("k", 8)))
    assert (await _hold(spine, raw, "k")).reason == "parked"
    assert later.seq not in Folding.seen


def _is_open(worker: Any, partition: int) -> bool:
    found = worker._agencies["recorder"].partitions.get(partition)
    return found is not None and found.opened and not found.draining


async def _letters(spine: Spine, count: int) -> bool:
    return len(await spine.dead_letters("recorder")) == count


async def _waiting(spine: Spine, count: int) -> bool:
    return sum(lag.waiting for lag in await spine.lag("recorder")) == count


async def _hold(spine: Spine, raw: redis.asyncio.Redis, key: str) -> Hold:
    found = await raw.hget(spine.server.keys.holds("recorder", partition_of(key, 8)), key)
    assert found is not None
    return decode_hold(found)
