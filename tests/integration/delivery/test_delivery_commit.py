"""Committing: what a handler did happens with its acknowledgement or not at all; odd handlers harm only themselves."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar

import pytest
import redis.asyncio
from pydantic import BaseModel
from recording import Recorder, die, everything, outcomes, pending
from tenacity import wait_none

from spine import Agent, Context, Event, Handling, InvalidPayload, Retry, Spine, on, reduces
from spine.keys import partition_of
from spine.testing.waiting import wait_until

ONCE = Retry(attempts=1)


class Count(BaseModel):
    handled: int = 0


async def test_what_a_handler_did_is_stored_in_one_go(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Doing(Recorder):
        @on("order.placed")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.publish("order.checked", {"n": 1})
            await ctx.publish("order.billed", {"n": 2}, key="another")
            ctx.schedule("order.remind", {}, delay=timedelta(hours=1))
            ctx.session.update(city="Ulm")
            await ctx.reply({"ok": True})

    await serve(Doing)
    reply = await spine.request("order.placed", {"sku": 7}, key="k", timeout=10)
    assert reply.payload == {"ok": True}
    log = await everything(spine)
    assert [event.type for event in log] == [
        "order.placed",
        "order.checked",
        "order.billed",
        "spine.session.updated",
        "order.placed.reply",
    ]
    placed, checked, *_ = log
    assert [event.seq for event in log[1:]] == list(range(checked.seq, checked.seq + 4))
    assert checked.context.causation == placed.seq
    assert checked.context.path == ("recorder",)
    assert checked.key == "k"
    assert await spine.session("k") == {"city": "Ulm"}
    assert await raw.zcard(spine.server.keys.due) == 1
    assert (await outcomes(spine, raw, "recorder"))[placed.seq].outcome == "done"
    assert await pending(raw, spine, "recorder") == 0


async def test_a_handler_that_raises_leaves_nothing_behind(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Failing(Recorder):
        @on("order.placed", retry=ONCE)
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.publish("order.checked", {})
            ctx.schedule("order.remind", {}, delay=timedelta(hours=1))
            ctx.session.update(city="Ulm")
            raise ValueError("after all that")

    await serve(Failing)
    event = await spine.publish("order.placed", {}, key="k")
    (letter,) = await wait_until(lambda: spine.dead_letters("recorder"))
    assert (letter.seq, letter.error_type, letter.error) == (event.seq, "ValueError", "after all that")
    assert [one.type for one in await everything(spine)] == ["order.placed"]
    assert await raw.zcard(spine.server.keys.due) == 0
    assert await spine.session("k") == {}


async def test_a_step_is_done_once_however_often_its_handler_is_tried(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    calls: list[str] = []

    class Stepping(Recorder):
        @on("a.b", retry=Retry(attempts=3, wait=wait_none()))
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            async def ask(what: str) -> dict[str, str]:
                calls.append(what)
                return {"answer": what}

            first = await ctx.step("ask", ask, "one")
            second = await ctx.step("ask", ask, "two")
            assert (first, second) == ({"answer": "one"}, {"answer": "two"})
            if ctx.attempt < 3:
                raise ValueError("again")
            self.note(event)

    await serve(Stepping)
    await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Stepping.count == 1)
    assert calls == ["one", "two"]
    await wait_until(lambda: _no_keys(raw, spine.server.keys.own("steps", "*")))


async def test_a_step_that_returns_a_model_gives_its_dict_in_every_attempt(spine: Spine, serve: Any) -> None:
    class Verdict(BaseModel):
        agreed: bool
        on: date

    class Stepping(Recorder):
        @on("a.b", retry=Retry(attempts=2, wait=wait_none()))
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            verdict = await ctx.step("ask", lambda: Verdict(agreed=True, on=date(2026, 11, 3)))
            assert verdict == {"agreed": True, "on": "2026-11-03"}
            if ctx.attempt == 1:
                raise ValueError("again")
            with pytest.raises(InvalidPayload, match=r"step 'when/1' returned .* payload\.result is a date"):
                await ctx.step("when", date.today)
            self.note(event)

    await serve(Stepping)
    await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Stepping.count == 1)


async def test_a_step_is_known_to_the_worker_that_takes_over(spine: Spine, serve: Any) -> None:
    calls: list[int] = []

    class Dying(Recorder):
        first: ClassVar[bool] = True

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.step("pay", lambda: calls.append(event.seq))
            if self.first:
                type(self).first = False
                await asyncio.Event().wait()
            self.note(event)

    worker = await serve(Dying, lease_s=0.5)
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: not Dying.first)
    await die(worker)
    await serve(Dying)
    await wait_until(lambda: Dying.seen["k"] == [event.seq])
    assert calls == [event.seq]


async def test_a_step_is_known_to_the_worker_that_an_event_is_handed_over_to_in_order(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis
) -> None:
    calls: list[int] = []

    class Stopped(Recorder):
        first: ClassVar[bool] = True

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.step("pay", lambda: calls.append(event.seq))
            if self.first:
                type(self).first = False
                await asyncio.Event().wait()
            self.note(event)

    worker = await serve(Stopped, shutdown_timeout_s=0.05)
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: not Stopped.first)
    assert not await worker.stop()
    await serve(Stopped)
    await wait_until(lambda: Stopped.seen["k"] == [event.seq])
    assert calls == [event.seq]
    await wait_until(lambda: _no_keys(raw, spine.server.keys.own("steps", "*")))


async def test_a_commit_that_was_overtaken_stores_nothing(spine: Spine, serve: Any, raw: redis.asyncio.Redis) -> None:
    class Slow(Recorder):
        go: ClassVar[asyncio.Event]
        runs: ClassVar[int] = 0

        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            type(self).runs += 1
            await ctx.publish("a.c", {})
            await self.go.wait()

    Slow.go = asyncio.Event()
    await serve(Slow)
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Slow.runs == 1)
    (stream,) = [key async for key in raw.scan_iter(match=spine.server.keys.own("log", "*"))]
    assert await raw.xack(stream, "recorder", f"{event.seq}-0") == 1
    Slow.go.set()
    second = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: _done(spine, raw, second.seq))
    assert [one.type for one in await everything(spine)] == ["a.b", "a.b", "a.c"]


async def test_one_acknowledged_by_hand_spoils_nothing_for_those_committed_with_it(
    spine: Spine, serve: Any, raw: redis.asyncio.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()

    class Waiting(Recorder):
        @on("a.b")
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            self.note(event)
            await gate.wait()
            if event.payload:
                ctx.publish("a.c", {})

    await serve(Waiting)
    keys = [key for key in map(str, range(1_000)) if partition_of(key, 8) == 0][:4]
    events = [await spine.publish("a.b", {"says": 1} if key == keys[3] else {}, key=key) for key in keys]
    await wait_until(lambda: Waiting.count == 4)
    await wait_until(lambda: _are_pending(raw, spine, 4))
    assert await raw.xack(spine.server.keys.log(0, 1, "a.b"), "recorder", f"{events[1].seq}-0") == 1
    gate.set()
    await wait_until(lambda: _are_done(spine, raw, 4), what="all four done")
    assert await pending(raw, spine, "recorder") == 0
    assert [event.type for event in await everything(spine)].count("a.c") == 1
    assert "acknowledged elsewhere" in caplog.text
    last = await spine.publish("a.b", {}, key=keys[1])
    await wait_until(lambda: _are_done(spine, raw, 5), what="the next of the key done")
    assert Waiting.seen[keys[1]] == [events[1].seq, last.seq]
    assert Waiting.count == 5


async def _are_pending(raw: redis.asyncio.Redis, spine: Spine, count: int) -> bool:
    return await pending(raw, spine, "recorder") == count


async def _are_done(spine: Spine, raw: redis.asyncio.Redis, count: int) -> bool:
    return len(await outcomes(spine, raw, "recorder")) == count


async def test_a_payload_that_is_not_of_its_model_fails_its_event_alone(spine: Spine, serve: Any) -> None:
    class Order(BaseModel):
        sku: int

    class Typed(Recorder):
        @on("order.placed", retry=ONCE)
        async def handle(self, event: Event[Order]) -> None:
            assert isinstance(event.payload, Order)
            self.note(event)

    await serve(Typed)
    bad = await spine.publish("order.placed", {"sku": "many"}, key="k")
    good = await spine.publish("order.placed", {"sku": 7}, key="k")
    await wait_until(lambda: Typed.seen["k"] == [good.seq])
    (letter,) = await spine.dead_letters("recorder")
    assert (letter.seq, letter.error_type) == (bad.seq, "ValidationError")


async def test_plain_functions_run_in_threads_as_many_as_the_concurrency(spine: Spine, serve: Any) -> None:
    barrier = threading.Barrier(12)

    class Plain(Recorder):
        @on("a.b")
        def handle(self, event: Event[Any], ctx: Handling) -> None:
            barrier.wait(timeout=10)
            ctx.publish("a.c", {"thread": threading.current_thread().name})
            self.note(event)

    await serve(Plain, concurrency=12)
    for number in range(12):
        await spine.publish("a.b", {}, key=f"k{number}")
    await wait_until(lambda: Plain.count == 12)
    emitted = await wait_until(lambda: _of_type(spine, "a.c", 12))
    assert threading.main_thread().name not in {event.payload["thread"] for event in emitted}


async def test_an_error_that_ends_loops_and_programs_is_an_error_like_any_other(spine: Spine, serve: Any) -> None:
    class Odd(Recorder):
        @on("odd.stop", retry=ONCE)
        def stops(self, event: Event[Any]) -> None:
            raise StopIteration

        @on("odd.exit", retry=ONCE)
        async def exits(self, event: Event[Any]) -> None:
            sys.exit(3)

        @on("odd.cancelled", retry=ONCE)
        async def lets_a_cancellation_out(self, event: Event[Any]) -> None:
            task = asyncio.ensure_future(asyncio.sleep(60))
            asyncio.get_running_loop().call_soon(task.cancel)
            await task

        @on("odd.fine")
        async def is_fine(self, event: Event[Any]) -> None:
            self.note(event)

    await serve(Odd, concurrency=1)
    for event_type in ("odd.stop", "odd.exit", "odd.cancelled", "odd.fine"):
        last = await spine.publish(event_type, {}, key="k")
    await wait_until(lambda: Odd.seen["k"] == [last.seq])
    letters = await spine.dead_letters("recorder")
    assert [letter.type for letter in letters] == ["odd.stop", "odd.exit", "odd.cancelled"]
    assert "sys.exit(3)" in letters[1].error


async def test_an_attempt_that_takes_too_long_counts_as_failed(spine: Spine, serve: Any) -> None:
    class Late(Recorder):
        @on("a.b", retry=Retry(attempts=2, wait=wait_none()), timeout_s=0.05)
        async def handle(self, event: Event[Any], ctx: Handling) -> None:
            if ctx.attempt == 1:
                await asyncio.sleep(60)
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            self.note(event)

    await serve(Late, concurrency=1)
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Late.seen["k"] == [event.seq])


async def test_the_state_holds_every_event_whatever_became_of_it(spine: Spine, serve: Any) -> None:
    states: list[int] = []

    class Counted(Agent[Count]):
        name = "counted"

        @reduces("a.*")
        def fold(self, state: Count, event: Event[Any]) -> Count:
            return Count(handled=state.handled + 1)

        @on("a.good")
        async def good(self, event: Event[Any], ctx: Handling) -> None:
            states.append(ctx.state.handled)

        @on("a.bad", retry=ONCE)
        async def bad(self, event: Event[Any]) -> None:
            raise ValueError("no")

    await serve(Counted)
    await spine.publish("a.good", {}, key="k")
    await spine.publish("a.bad", {}, key="k")
    await spine.publish("a.good", {}, key="k", context=Context(deadline=datetime.now(UTC) - timedelta(seconds=5)))
    await spine.publish("a.only-folded", {}, key="k")
    await spine.publish("a.good", {}, key="k")
    await wait_until(lambda: states == [1, 5])


async def test_an_agent_that_blocks_the_loop_keeps_its_lease(spine: Spine, serve: Any) -> None:
    class Blocking(Recorder):
        @on("a.b")
        async def handle(self, event: Event[Any]) -> None:
            time.sleep(1.5)  # noqa: ASYNC251
            self.note(event)

    worker = await serve(Blocking, lease_s=0.5)
    before = {number: partition.lease for number, partition in worker._agencies["recorder"].partitions.items()}
    event = await spine.publish("a.b", {}, key="k")
    await wait_until(lambda: Blocking.count == 1)
    await wait_until(lambda: _done_by(spine, worker.id, event.seq))
    assert before == {number: partition.lease for number, partition in worker._agencies["recorder"].partitions.items()}


async def _no_keys(raw: redis.asyncio.Redis, pattern: str) -> bool:
    return not [key async for key in raw.scan_iter(match=pattern)]


async def _of_type(spine: Spine, event_type: str, count: int) -> list[Event[Any]]:
    found = await everything(spine, types=event_type)
    return found if len(found) == count else []


async def _done(spine: Spine, raw: redis.asyncio.Redis, seq: int) -> bool:
    return seq in await outcomes(spine, raw, "recorder")


async def _done_by(spine: Spine, worker: str, seq: int) -> bool:
    async with redis.asyncio.Redis.from_url(spine.server.url) as raw:
        found = await outcomes(spine, raw, "recorder")
    return seq in found and found[seq].worker == worker
