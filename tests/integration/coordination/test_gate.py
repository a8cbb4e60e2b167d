"""Gates: never early, once for each full set, and whoever dies in between nothing that came is forgotten."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
import redis.asyncio
from gate_agents import Events, Hasty, Scheduling
from pydantic import BaseModel
from seen_events import events_of, nothing_left_to_do, wait_for_events
from worker_processes import Processes, Serve

from spine import Agent, Context, Draft, Event, Handling, Priority, Retry, Spine, on, on_all, on_missing
from spine.keys import partition_of
from spine.testing.waiting import wait_until

R, P, F = "requirement.complete", "payment.cleared", "room.found"


async def nothing_waits(spine: Spine, raw: redis.asyncio.Redis) -> None:
    """Everything is handled, no gate holds anything and nothing is in the timetable."""
    await nothing_left_to_do(spine)
    keys = spine.server.keys
    assert [key async for key in raw.scan_iter(match=keys.own("gate", "*"), count=1000)] == []
    assert await raw.zcard(keys.due) == 0
    assert await raw.hlen(keys.scheduled) == 0


async def arrived(raw: redis.asyncio.Redis, spine: Spine, agent: str, *types: str, key: str = "k") -> None:
    """Wait until `types` stand in the gate `book` of an agent for a key."""

    async def there() -> bool:
        async for found in raw.scan_iter(match=spine.server.keys.own("gate", agent, "*", "book", key), count=1000):
            return {field.decode() for field in await raw.hkeys(found)} - {""} == set(types)
        return False

    await wait_until(there, 20, f"{types} in the gate")


def draft(type: str, n: int, key: str = "k") -> Draft:
    return Draft(type, {"n": n}, key=key)


class Three(Agent):
    name = "three"

    @on_all(R, P, F)
    async def book(self, events: Events, ctx: Handling) -> None:
        await ctx.publish("booking.made", {type: event.payload["n"] for type, event in events.items()})


async def test_any_order_and_every_key_by_itself(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    await serve(Three)
    await serve(Three)
    orders = list(itertools.permutations((R, P, F)))
    for place in range(3):
        await asyncio.gather(
            *(spine.publish(order[place], {"n": f"{n}"}, key=f"k-{n}") for n, order in enumerate(orders))
        )
        if place < 2:
            await nothing_left_to_do(spine)
            assert await events_of(spine, "booking.made") == []
    made = await wait_for_events(spine, len(orders), "booking.made")
    await nothing_waits(spine, raw)
    assert {event.key: event.payload for event in made} == {
        f"k-{n}": dict.fromkeys((R, P, F), f"{n}") for n in range(len(orders))
    }
    assert len(await events_of(spine, "booking.made")) == len(orders)


async def test_the_latest_counts_and_the_next_round_begins_empty(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    await serve(Three)
    for n, type in enumerate((R, P, P, R, F, F, P)):
        await spine.publish(type, {"n": n}, key="k")
    await nothing_left_to_do(spine)
    assert [event.payload for event in await events_of(spine, "booking.made")] == [{R: 3, P: 2, F: 4}]
    await spine.publish(R, {"n": 7}, key="k")
    await nothing_waits(spine, raw)
    assert [event.payload for event in await events_of(spine, "booking.made")][1:] == [{R: 7, P: 6, F: 5}]


class Whole(Agent):
    """Shows what a gate's handler sees."""

    name = "whole"
    seen: list[tuple[Events, Context]] = []

    @on_all(R, P)
    async def book(self, events: Events, ctx: Handling) -> None:
        Whole.seen.append((events, ctx.event.context))
        await ctx.reply({"after": ctx.event.type})


async def test_what_came_is_whole_though_the_log_was_trimmed(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    Whole.seen.clear()
    await serve(Whole)
    context = Context(correlation="c-1", session_id="k", constraints={"budget": 90}, deadline=None)
    first = await spine.publish(R, {"deep": [{"er": None}], "n": 1}, context=context, priority=Priority.URGENT)
    await nothing_left_to_do(spine)
    async for stream in raw.scan_iter(match=spine.server.keys.own("log", "*", R), count=1000):
        await raw.xtrim(stream, maxlen=0)
    answer = await spine.request(P, {"n": 2}, key="k", timeout=10)
    assert answer.payload == {"after": P}
    ((events, context),) = Whole.seen
    assert list(events) == [R, P]
    assert events[R] == first
    assert context == events[P].context


class Requirement(BaseModel):
    guests: int


class Typed(Agent):
    name = "typed"

    @on_all(R, P, models={R: Requirement}, retry=Retry(attempts=1))
    async def book(self, events: dict[str, Any], ctx: Handling) -> None:
        await ctx.publish("booking.made", {"guests": events[R].payload.guests + 1, "n": events[P].payload["n"]})


async def test_models_are_validated_when_they_come(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    await serve(Typed)
    for key, guests in (("bad", "many"), ("good", "7")):
        await spine.publish(R, {"guests": guests}, key=key)
        await spine.publish(P, {"n": 1}, key=key)
    (made,) = await wait_for_events(spine, 1, "booking.made")
    assert (made.key, made.payload) == ("good", {"guests": 8, "n": 1})
    await arrived(raw, spine, "typed", P, key="bad")
    assert await raw.hlen(spine.server.keys.dead("typed")) == 1
    await spine.publish(R, {"guests": 3}, key="bad")
    await wait_for_events(spine, 2, "booking.made")
    await nothing_waits(spine, raw)


async def test_when_the_time_is_over_another_handler_learns_what_is_missing(
    spine: Spine, serve: Serve, processes: Processes, raw: redis.asyncio.Redis
) -> None:
    await processes.let_pass("remind")
    await serve(Hasty)
    context = Context(correlation="c-1", session_id="k")
    await spine.publish_many([Draft(P, {"n": 1}, context=context, priority=Priority.URGENT), draft(R, 2)])
    (reminded,) = await wait_for_events(spine, 1, "customer.reminded")
    await nothing_waits(spine, raw)
    assert reminded.payload == {"came": [R, P], "missing": [F]}
    assert (reminded.key, reminded.context.correlation, reminded.context.session_id) == ("k", "c-1", "k")
    assert reminded.context.priority is Priority.URGENT
    await spine.publish(F, {"n": 3}, key="k")
    await wait_for_events(spine, 2, "customer.reminded")
    await nothing_waits(spine, raw)
    assert await events_of(spine, "booking.made") == []


async def test_a_time_out_of_an_earlier_round_does_nothing(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    """The time-out is in the log already when its round ends and the next begins."""

    class Blocked(Agent):
        name = "blocked"

        @on_all(R, P, within=0.2)
        async def book(self, events: Events, ctx: Handling) -> None:
            await wait_until(lambda: events_of(ctx.spine, "spine.gate.book"), 20)
            await ctx.publish("booking.made", {})

        @on_missing("book")
        async def remind(self, events: Events, missing: tuple[str, ...], ctx: Handling) -> None:
            await ctx.publish("customer.reminded", {"came": list(events), "by": ctx.event.type})

    await serve(Blocked)
    await spine.publish_many([draft(R, 1), draft(P, 2)])
    await wait_until(lambda: events_of(spine, "spine.gate.book"), 20)
    await spine.publish(R, {"n": 3}, key="k")
    await wait_for_events(spine, 1, "booking.made")
    (reminded,) = await wait_for_events(spine, 1, "customer.reminded")
    await nothing_waits(spine, raw)
    assert reminded.payload == {"came": [R], "by": "spine.gate.book"}
    assert len(await events_of(spine, "spine.gate.book")) == 2
    assert len(await events_of(spine, "booking.made")) == 1


class Failing(Agent):
    name = "failing"
    attempts: list[int] = []

    @on_all(R, P, within=60, retry=Retry(attempts=5))
    async def book(self, events: Events, ctx: Handling) -> None:
        Failing.attempts.append(ctx.attempt)
        await ctx.publish("booking.made", {"attempt": ctx.attempt})
        if ctx.attempt < 3:
            raise ValueError("the calendar is closed")


async def test_a_handler_that_fails_is_tried_again_with_all_that_came(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    Failing.attempts.clear()
    await serve(Failing)
    await spine.publish_many([draft(P, 1), draft(R, 2)])
    (made,) = await wait_for_events(spine, 1, "booking.made")
    await nothing_waits(spine, raw)
    assert made.payload == {"attempt": 3}
    assert Failing.attempts == [1, 2, 3]


async def test_what_was_given_up_is_not_missing_and_a_redrive_finds_all_that_came(
    spine: Spine, serve: Serve, raw: redis.asyncio.Redis
) -> None:
    class Broken(Agent):
        name = "broken"
        mended = False

        @on_all(R, P, within=0.5, retry=Retry(attempts=1))
        async def book(self, events: Events, ctx: Handling) -> None:
            if not Broken.mended:
                raise ValueError("no room yet")
            await ctx.publish("booking.made", {type: event.payload["n"] for type, event in events.items()})

        @on_missing("book")
        async def remind(self, events: Events, missing: tuple[str, ...], ctx: Handling) -> None:
            await ctx.publish("customer.reminded", {"key": ctx.event.key})

    async def given_up() -> bool:
        return len(await spine.dead_letters("broken")) == 1

    await serve(Broken)
    await spine.publish_many([draft(R, 1), draft(P, 2), draft(R, 3, "other")])
    await wait_until(given_up, 20, "the dead letter")
    await wait_for_events(spine, 1, "customer.reminded")
    Broken.mended = True
    await spine.redrive("broken")
    await wait_for_events(spine, 1, "booking.made")
    assert [event.payload for event in await events_of(spine, "booking.made")] == [{R: 1, P: 2}]
    assert [event.payload for event in await events_of(spine, "customer.reminded")] == [{"key": "other"}]
    await nothing_waits(spine, raw)


async def test_what_was_cancelled_does_not_count(
    spine: Spine, serve: Serve, processes: Processes, raw: redis.asyncio.Redis
) -> None:
    await processes.let_pass("book")
    worker = await serve(Scheduling)
    first = await spine.publish(R, {"n": 1}, key="k", context=Context(correlation="gone"))
    await arrived(raw, spine, "scheduling", R)
    await spine.cancel("gone")
    await wait_until(lambda: worker._agencies["scheduling"].is_cancelled(first), 20, "the worker to hear of it")
    await spine.publish(P, {"n": 2}, key="k")
    await arrived(raw, spine, "scheduling", P)
    await spine.publish(R, {"n": 3}, key="k")
    (made,) = await wait_for_events(spine, 1, "booking.made")
    await nothing_waits(spine, raw)
    assert made.payload == {R: 3, P: 2}


async def test_an_expired_deadline_does_not_take_the_time_out_along(
    spine: Spine, serve: Serve, processes: Processes, raw: redis.asyncio.Redis
) -> None:
    await processes.let_pass("remind")
    await serve(Hasty)
    with pytest.raises(TimeoutError):
        await spine.request(R, {"n": 1}, key="k", timeout=0.3)
    await wait_for_events(spine, 1, "customer.reminded")
    await nothing_waits(spine, raw)


async def test_killed_between_the_arrivals_and_in_the_opened_handler(
    spine: Spine, processes: Processes, raw: redis.asyncio.Redis
) -> None:
    worker = await processes.start("gate_agents", "Scheduling")
    await spine.publish(P, {"n": 1}, key="k")
    await arrived(raw, spine, "scheduling", P)
    await worker.kill()
    await spine.publish(R, {"n": 2}, key="k")
    worker = await processes.start("gate_agents", "Scheduling")
    await processes.reached("book")
    await worker.kill()
    await arrived(raw, spine, "scheduling", P)
    assert await events_of(spine, "booking.made") == []
    await processes.let_pass("book")
    await processes.start("gate_agents", "Scheduling")
    (made,) = await wait_for_events(spine, 1, "booking.made")
    await nothing_waits(spine, raw)
    assert made.payload == {R: 2, P: 1}
    assert len(await events_of(spine, "booking.made")) == 1


async def test_killed_while_it_is_told_what_is_missing(
    spine: Spine, processes: Processes, raw: redis.asyncio.Redis
) -> None:
    worker = await processes.start("gate_agents", "Hasty")
    await spine.publish(P, {"n": 1}, key="k")
    await processes.reached("remind")
    await worker.kill()
    await processes.let_pass("remind")
    await processes.start("gate_agents", "Hasty")
    (reminded,) = await wait_for_events(spine, 1, "customer.reminded")
    await nothing_waits(spine, raw)
    assert reminded.payload == {"came": [P], "missing": [R, F]}


async def test_a_second_worker_goes_on_where_the_first_was_killed(
    spine: Spine, processes: Processes, raw: redis.asyncio.Redis
) -> None:
    first = await processes.start("gate_agents", "Scheduling")
    await processes.start("gate_agents", "Scheduling")
    keys = [f"k-{n}" for n in range(24)]
    for n, key in enumerate(keys):
        await spine.publish((R, P)[n % 2], {"n": n}, key=key)
    await nothing_left_to_do(spine)
    for n, key in enumerate(keys):
        await spine.publish((P, R)[n % 2], {"n": n}, key=key)
    await processes.reached("book", len(keys))
    await first.kill()
    await processes.let_pass("book")
    await wait_for_events(spine, len(keys), "booking.made")
    await nothing_waits(spine, raw)
    made = await events_of(spine, "booking.made")
    assert sorted((event.key, event.payload[R], event.payload[P]) for event in made) == sorted(
        (key, n, n) for n, key in enumerate(keys)
    )


async def test_what_came_in_time_counts_though_all_workers_were_down(
    spine: Spine, processes: Processes, raw: redis.asyncio.Redis
) -> None:
    worker = await processes.start("gate_agents", "Hasty")
    await worker.kill()
    whole = [draft(type, n, "whole") for n, type in enumerate((R, P, F))]
    last = await spine.publish_many([*whole, draft(R, 3, "part"), draft(P, 4, "part")])
    await wait_until(lambda: spine.server.now_ms() > last[0].ts_ms + 1100, 20)
    late = await spine.publish(F, {"n": 9}, key="part")
    assert late.ts_ms > last[0].ts_ms + 1000
    await processes.let_pass("remind")
    await processes.start("gate_agents", "Hasty")
    made = await wait_for_events(spine, 1, "booking.made")
    reminded = await wait_for_events(spine, 2, "customer.reminded")
    await nothing_waits(spine, raw)
    assert [(event.key, event.payload) for event in made] == [("whole", {R: 0, P: 1, F: 2})]
    assert [(event.key, event.payload["missing"]) for event in reminded] == [("part", [F]), ("part", [R, P])]


class Busy(Agent):
    """Has one slot, and is busy with something else until a time-out is in the log."""

    name = "busy"

    @on("work.found")
    async def work(self, event: Event[Any], ctx: Handling) -> None:
        await wait_until(lambda: events_of(ctx.spine, "spine.gate.book"), 20)

    @on_all(R, P, within=0.2)
    async def book(self, events: Events, ctx: Handling) -> None:
        await ctx.publish("booking.made", {})

    @on_missing("book")
    async def remind(self, events: Events, missing: tuple[str, ...], ctx: Handling) -> None:
        await ctx.publish("customer.reminded", {"missing": list(missing)})


async def test_what_waits_in_a_slower_lane_is_not_missing(spine: Spine, serve: Serve, raw: redis.asyncio.Redis) -> None:
    partitions = spine.server.partitions
    beside = next(f"o-{n}" for n in range(1000) if partition_of(f"o-{n}", partitions) == partition_of("k", partitions))
    await serve(Busy, concurrency=1)
    await spine.publish_many(
        [
            Draft(P, {}, key="k", priority=Priority.URGENT),
            Draft("work.found", {}, key=beside, priority=Priority.URGENT),
            Draft(R, {}, key="k", priority=Priority.BACKGROUND),
        ]
    )
    await wait_for_events(spine, 1, "booking.made")
    await nothing_waits(spine, raw)
    assert len(await events_of(spine, "spine.gate.book")) == 1
    assert await events_of(spine, "customer.reminded") == []
