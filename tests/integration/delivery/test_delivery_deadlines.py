"""Deadlines and cancelling: what comes too late is recorded and not handled, what runs is cancelled."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import redis.asyncio
from recording import Recorder, outcomes
from tenacity import wait_fixed

from spine import Context, Draft, Event, Handling, Retry, Spine, on
from spine.testing.waiting import wait_until


class Ended(Recorder):
    """Handlers that never end by themselves; notes how they ended."""

    started: ClassVar[list[int]]
    ended: ClassVar[dict[int, str]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.started, cls.ended = [], {}

    async def hang(self, event: Event[Any]) -> None:
        self.started.append(event.seq)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended[event.seq] = "cancelled"
            raise


def by(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def recorded(spine: Spine, raw: redis.asyncio.Redis) -> dict[int, str]:
    return {seq: done.outcome for seq, done in (await outcomes(spine, raw, "recorder")).items()}


async def test_an_expired_event_is_recorded_and_not_handled(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Late(Recorder):
        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(Late)
    expired = await spine.publish("a.b", {}, key="k", context=Context(deadline=by(-1)))
    fine = await spine.publish("a.b", {}, key="k", context=Context(deadline=by(60)))
    await wait_until(lambda: Late.seen["k"] == [fine.seq])
    assert await recorded(spine, raw) == {expired.seq: "expired", fine.seq: "done"}


async def test_a_handler_is_cancelled_at_the_deadline_of_its_event(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Hanging(Ended):
        @on("a.hang")
        async def handle(self, event: Event[Any]) -> None:
            await self.hang(event)

        @on("a.next")
        async def next(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(Hanging, concurrency=1)
    deadline = by(0.3)
    hanging = await spine.publish("a.hang", {}, key="k", context=Context(deadline=deadline))
    behind = await spine.publish("a.next", {}, key="k")
    await wait_until(lambda: Hanging.seen["k"] == [behind.seq])
    assert -0.05 < (datetime.now(UTC) - deadline).total_seconds() < 0.5
    assert Hanging.ended == {hanging.seq: "cancelled"}
    assert (await recorded(spine, raw))[hanging.seq] == "expired"
    assert await spine.dead_letters() == []


async def test_a_retry_does_not_outlive_the_deadline(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Failing(Recorder):
        attempts: ClassVar[int] = 0

        @on("a.b", retry=Retry(attempts=100, wait=wait_fixed(0.1)))
        async def handle(self, event: Event[Any]) -> None:
            type(self).attempts += 1
            raise ValueError("no")

    await serve(Failing)
    event = await spine.publish("a.b", {}, key="k", context=Context(deadline=by(0.35)))
    await wait_until(lambda: _is_recorded(spine, raw, event.seq))
    assert (await recorded(spine, raw))[event.seq] == "expired"
    assert 1 <= Failing.attempts <= 5


async def test_cancelling_a_correlation_ends_what_runs_and_what_waits(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Hanging(Ended):
        @on("a.hang")
        async def handle(self, event: Event[Any]) -> None:
            await self.hang(event)

        @on("a.next")
        async def next(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(Hanging)
    await serve(Hanging)
    context = Context(correlation="c-1")
    drafts = [Draft("a.hang", {}, key=f"k{i}", context=context) for i in range(4)]
    drafts += [Draft("a.next", {}, key=f"k{i}", context=context) for i in range(4)]
    events = await spine.publish_many(drafts)
    other = await spine.publish("a.next", {}, key="k0", context=Context(correlation="c-2"))
    await wait_until(lambda: len(Hanging.started) == 4)
    assert await spine.cancel("c-1") == other.seq
    later = await spine.publish("a.next", {}, key="k1", context=context)
    await wait_until(lambda: Hanging.count == 2)
    assert Hanging.seen == {"k0": [other.seq], "k1": [later.seq]}
    await wait_until(lambda: _are_recorded(spine, raw, 10))
    found = await recorded(spine, raw)
    assert {found[event.seq] for event in events} == {"cancelled"}
    assert found[other.seq] == found[later.seq] == "done"


async def test_what_is_scheduled_is_cancelled_with_its_correlation(spine: Spine, serve: Any) -> None:
    class Reminding(Ended):
        @on("a.next")
        async def next(self, event: Event[Any], ctx: Handling) -> None:
            self.note(event)
            if event.payload.get("remind"):
                scheduled = await ctx.schedule("a.next", {}, delay=0.5)
                assert scheduled.due > event.ts

    await serve(Reminding)
    context = Context(correlation="c-1")
    first = await spine.publish("a.next", {"remind": True}, key="k", context=context)
    await spine.schedule("a.next", {}, key="k", delay=0.5, context=context)
    other = await spine.schedule("a.next", {}, key="k", delay=0.5, context=Context(correlation="c-2"))
    await wait_until(lambda: Reminding.count == 1)
    await wait_until(lambda: _scheduled(spine, 3))
    await spine.cancel("c-1")
    assert await _scheduled(spine, 1)
    await wait_until(lambda: Reminding.count == 2)
    (came,) = [event async for event in spine.replay(after=first.seq, types="a.next")]
    assert came.id == other.id


async def _scheduled(spine: Spine, count: int) -> bool:
    return await spine.server.command("HLEN", spine.server.keys.scheduled) == count


async def test_a_worker_that_starts_later_knows_what_was_cancelled(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    class Late(Recorder):
        start = "beginning"

        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            self.note(event)

    cancelled = await spine.publish("a.b", {}, key="k", context=Context(correlation="c-1"))
    await spine.cancel("c-1")
    fine = await spine.publish("a.b", {}, key="k", context=Context(correlation="c-1"))
    await serve(Late)
    await wait_until(lambda: Late.seen["k"] == [fine.seq])
    assert (await recorded(spine, raw))[cancelled.seq] == "cancelled"


async def _is_recorded(spine: Spine, raw: redis.asyncio.Redis, seq: int) -> bool:
    return seq in await recorded(spine, raw)


async def _are_recorded(spine: Spine, raw: redis.asyncio.Redis, count: int) -> bool:
    return len(await recorded(spine, raw)) == count
