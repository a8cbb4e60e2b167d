"""Urgent events pass a hold, and may fail themselves: the hold stays as it is."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import pytest
import redis.asyncio
from recording import Recorder, die
from tenacity import wait_fixed

from spine import Event, Handling, Priority, Retry, Spine, on
from spine.delivery.dead import DeadLetters
from spine.delivery.holds import FOREVER, decode_hold
from spine.keys import partition_of
from spine.testing.waiting import wait_until


class Acting(Recorder):
    """Fails for as often as its events say; notes what it tried."""

    tried: ClassVar[list[tuple[int, int]]]
    mended: ClassVar[bool]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.tried, cls.mended = [], False

    def act(self, event: Event[Any], ctx: Handling) -> None:
        self.tried.append((event.seq, ctx.attempt))
        if ctx.attempt <= event.payload.get("fails", 0) and not self.mended:
            raise ValueError("as told")
        self.note(event)


async def until_ms(spine: Spine, raw: redis.asyncio.Redis, key: str) -> int:
    found = await raw.hget(spine.server.keys.holds("recorder", partition_of(key, 8)), key)
    return 0 if found is None else decode_hold(found).until_ms


async def parked(spine: Spine, raw: redis.asyncio.Redis, key: str) -> bool:
    return await until_ms(spine, raw, key) == FOREVER


async def test_an_urgent_event_that_fails_leaves_a_key_parked(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Parking(Acting):
        @on("a.b", retry=Retry(attempts=1), on_dead="park")
        async def parks(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)

        @on("a.urgent", retry=Retry(attempts=3, wait=wait_fixed(0.02)))
        async def goes_on(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)

    await serve(Parking)
    dead = await spine.publish("a.b", {"fails": 1}, key="k")
    await wait_until(lambda: parked(spine, raw, "k"))
    handled: list[int] = []
    for fails in (1, 2, 3, 1):  # with an empty waiting list, and with one that others stand in
        urgent = await spine.publish("a.urgent", {"fails": fails}, key="k", priority=Priority.URGENT)
        await wait_until(lambda urgent=urgent, fails=fails: (urgent.seq, min(fails + 1, 3)) in Parking.tried)
        handled += [urgent.seq] if fails < 3 else []
        await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _waiting(spine, 4))
    assert await parked(spine, raw, "k")
    assert Parking.seen["k"] == handled
    Parking.mended = True
    await spine.redrive(seq=dead.seq)
    await wait_until(lambda: Parking.count == 8)
    assert Parking.seen["k"][3:] == [dead.seq, *sorted(Parking.seen["k"][4:])]


async def test_nothing_begins_before_it_is_known_again_which_keys_are_held(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Limited(Acting):
        concurrency = 4

        @on("a.b", retry=Retry(attempts=1), on_dead="park")
        async def parks(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)

        @on("a.urgent", retry=Retry(attempts=3, wait=wait_fixed(0.02)))
        async def goes_on(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)

    worker = await serve(Limited)
    agency = worker._agencies["recorder"]
    await spine.publish("a.b", {"fails": 1}, key="k")
    await wait_until(lambda: parked(spine, raw, "k"))
    enter, room = agency.limits.enter, asyncio.Event()

    async def enter_later(*args: Any, **options: Any) -> bool:
        await room.wait()
        return await enter(*args, **options)

    monkeypatch.setattr(agency.limits, "enter", enter_later)
    urgent = await spine.publish("a.urgent", {"fails": 1}, key="k", priority=Priority.URGENT)
    await wait_until(lambda: agency.hand.is_running("k"))  # it waits for the limits

    load, loading = agency.held.load, asyncio.Event()

    async def load_later(*args: Any) -> bool:
        await loading.wait()
        return await load(*args)

    monkeypatch.setattr(agency.held, "load", load_later)
    agency.reload_holds(partition_of("k", 8))
    room.set()
    await wait_until(lambda: not agency.hand.is_running("k"))
    assert urgent.seq not in [seq for seq, _ in Limited.tried]
    loading.set()
    await wait_until(lambda: (urgent.seq, 2) in Limited.tried)
    assert await parked(spine, raw, "k")


async def _waiting(spine: Spine, count: int) -> bool:
    return sum(lag.waiting for lag in await spine.lag("recorder")) == count


async def test_an_urgent_event_that_fails_shortens_no_wait(spine: Spine, serve: Any) -> None:
    class Waiting(Acting):
        @on("a.b", retry=Retry(attempts=2, wait=wait_fixed(0.6)))
        async def slow(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)
            self.at = time.monotonic()

        @on("a.urgent", retry=Retry(attempts=2, wait=wait_fixed(0.05)))
        async def quick(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)

    await serve(Waiting)
    slow = await spine.publish("a.b", {"fails": 1}, key="k")
    await wait_until(lambda: Waiting.tried == [(slow.seq, 1)])
    failed_at = time.monotonic()
    later = await spine.publish("a.b", {}, key="k")
    urgent = await spine.publish("a.urgent", {"fails": 1}, key="k", priority=Priority.URGENT)
    await wait_until(lambda: Waiting.count == 1)
    assert time.monotonic() - failed_at < 0.5
    await wait_until(lambda: Waiting.count == 3)
    assert time.monotonic() - failed_at > 0.55
    assert Waiting.seen["k"] == [urgent.seq, slow.seq, later.seq]


async def test_who_takes_over_goes_on_with_what_passed_a_parked_key(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Parking(Acting):
        @on("a.b", retry=Retry(attempts=1), on_dead="park")
        async def parks(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)

        @on("a.urgent", retry=Retry(attempts=3, wait=wait_fixed(1.0)))
        async def goes_on(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)

    worker = await serve(Parking)
    await spine.publish("a.b", {"fails": 1}, key="k")
    await wait_until(lambda: parked(spine, raw, "k"))
    await spine.publish("a.b", {}, key="k")
    urgent = [await spine.publish("a.urgent", {"fails": 1}, key="k", priority=Priority.URGENT) for _ in range(2)]
    await wait_until(lambda: {(event.seq, 1) for event in urgent} <= set(Parking.tried))
    await wait_until(lambda: _waiting(spine, 3))
    await die(worker)
    await spine.expire_worker(worker.id)
    await serve(Parking)
    await wait_until(lambda: Parking.count == 2)
    assert sorted(Parking.seen["k"]) == [event.seq for event in urgent]
    assert (urgent[0].seq, 2) in Parking.tried
    assert await parked(spine, raw, "k")


async def test_a_redrive_leaves_a_key_parked_that_another_event_parks_meanwhile(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Both(Acting):
        @on("a.goes", retry=Retry(attempts=1))
        async def goes_on(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)

        @on("a.parks", retry=Retry(attempts=1), on_dead="park")
        async def parks(self, event: Event[Any], ctx: Handling) -> None:
            self.act(event, ctx)

    await serve(Both)
    dead = await spine.publish("a.goes", {"fails": 1}, key="k")
    await wait_until(lambda: _letters(spine, 1))
    look_up = DeadLetters._parked

    async def looks_up_too_early(self: DeadLetters, agents: Any, but: Any = ()) -> Any:
        found = await look_up(self, agents, but)
        if not await parked(spine, raw, "k"):
            await spine.publish("a.parks", {"fails": 1}, key="k")
            await wait_until(lambda: parked(spine, raw, "k"))
        return found

    monkeypatch.setattr(DeadLetters, "_parked", looks_up_too_early)
    Both.mended = False
    assert [letter.seq for letter in await spine.redrive(seq=dead.seq)] == [dead.seq]
    assert await parked(spine, raw, "k")


async def _letters(spine: Spine, count: int) -> bool:
    return len(await spine.dead_letters("recorder")) == count
