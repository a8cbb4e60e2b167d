"""Scheduled events: on time, once, cancellable, and not lost when nobody is there."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio
from recording import Recorder, everything

from spine import Context, Event, Handling, InvalidInput, Spine, on
from spine.testing.waiting import wait_until

ON_TIME_S = 0.1


class Stutter:
    """Measures how late the machine itself is: no event can come before this process has its turn."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def watch(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            self.worst_s = max(self.worst_s, time.monotonic() - began - 0.005)


async def test_events_come_on_time_and_once_whoever_is_there(spine: Spine, connect: Any) -> None:
    stutter = Stutter()
    watching = asyncio.create_task(stutter.watch())
    others = [await connect() for _ in range(3)]
    now = time.time()
    due = {}
    for number in range(40):
        at = now + 0.5 + number * 0.02
        client = [spine, *others][number % 4]
        scheduled = await client.schedule("a.due", {"n": number}, key="k", at=datetime.fromtimestamp(at, UTC))
        due[scheduled.id] = at
    arrived: dict[str, float] = {}
    async with asyncio.timeout(10):
        async for event in spine.tail(types="a.due", after=0):
            arrived[event.id] = event.ts.timestamp()
            if len(arrived) == 40:
                break
    watching.cancel()
    late = {name: arrived[name] - at for name, at in due.items()}
    assert all(-0.01 <= delay <= ON_TIME_S + stutter.worst_s for delay in late.values()), (late, stutter.worst_s)
    assert len(await everything(spine)) == 40


async def test_a_sooner_event_is_noticed_by_everybody(spine: Spine, connect: Any) -> None:
    other = await connect()
    await spine.schedule("a.later", {}, delay=3600)
    began = time.monotonic()
    await other.schedule("a.sooner", {}, delay=0.2)
    await wait_until(lambda: _count(spine, 1))
    assert 0.15 < time.monotonic() - began < 0.2 + 2 * ON_TIME_S


async def test_a_scheduled_event_can_be_cancelled_once(spine: Spine, connect: Any) -> None:
    other = await connect()
    one = await spine.schedule("a.b", {"n": 1}, delay=timedelta(seconds=0.3))
    two = await spine.schedule("a.b", {"n": 2}, delay=timedelta(seconds=0.3))
    assert await one.cancel()
    assert not await one.cancel()
    assert not await other.unschedule(one.id)
    await wait_until(lambda: _count(spine, 1))
    assert [event.id for event in await everything(spine)] == [two.id]
    assert not await two.cancel()


async def test_it_is_not_lost_when_nobody_is_there(url: str, namespace: str, raw: redis.asyncio.Redis) -> None:
    async with Spine(url, namespace=namespace) as spine:
        scheduled = await spine.schedule("a.b", {}, key="k", delay=0.2)
    await wait_until(lambda: datetime.now(UTC) > scheduled.due + timedelta(seconds=0.1))
    async with Spine(url, namespace=namespace) as spine:
        await wait_until(lambda: _count(spine, 1), timeout=2)
        (event,) = await everything(spine)
        assert event.id == scheduled.id
        assert await raw.hlen(spine.server.keys.scheduled) == 0


async def test_a_handler_schedules_with_its_commit(spine: Spine, serve: Any) -> None:
    class Reminding(Recorder):
        @on("a.ask")
        async def ask(self, event: Event[Any], ctx: Handling) -> None:
            ctx.schedule("a.remind", {"of": event.seq}, delay=0.1)

        @on("a.remind")
        async def remind(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(Reminding)
    asked = await spine.publish("a.ask", {}, key="k")
    await wait_until(lambda: Reminding.count == 1)
    (reminder,) = await everything(spine, types="a.remind")
    assert (reminder.key, reminder.context.causation) == ("k", asked.seq)


async def test_bytes_and_deep_payloads_come_as_they_were_scheduled(
    spine: Spine, raw: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    deep: Any = b"\xff"
    for _ in range(30):
        deep = {"a": deep}
    await spine.schedule("a.due", {"raw": b"\xff\x00", "deep": deep}, delay=0)
    await wait_until(lambda: _count(spine, 1))
    assert [event.payload for event in await everything(spine)] == [{"raw": b"\xff\x00", "deep": deep}]
    scheduled = await spine.schedule("a.due", {"raw": b"\xff"}, context=Context(correlation="c"), delay=3600)
    await spine.cancel("c")
    assert not await scheduled.cancel()
    assert not await raw.exists(spine.server.keys.due)
    assert caplog.text == ""


async def test_when_is_said_once(spine: Spine) -> None:
    for wrong in ({}, {"delay": 1, "at": datetime.now(UTC)}):
        with pytest.raises(InvalidInput, match="either delay= or at="):
            await spine.schedule("a.b", {}, **wrong)


async def test_what_is_damaged_in_the_timetable_stops_nothing(spine: Spine, raw: redis.asyncio.Redis) -> None:
    keys = spine.server.keys
    await raw.zadd(keys.due, {"rubbish": 1, "missing": 2})
    await raw.hset(keys.scheduled, "rubbish", b"\xff\x00")
    scheduled = await spine.schedule("a.b", {}, delay=0)
    await wait_until(lambda: _count(spine, 1))
    assert [event.id for event in await everything(spine)] == [scheduled.id]
    await wait_until(lambda: _is_empty(raw, keys.due))


async def _count(spine: Spine, count: int) -> bool:
    return len(await everything(spine)) == count


async def _is_empty(raw: redis.asyncio.Redis, key: str) -> bool:
    return not await raw.exists(key)
