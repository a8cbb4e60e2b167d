"""Preemption: urgent work takes the slot of work that may be interrupted; that runs again later, and ends once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from seen_events import events_of, nothing_left_to_do, wait_for_events
from worker_processes import Serve

from spine import Agent, Draft, Event, Handling, Priority, Retry, Spine, on
from spine.coordination.preemption import TIMES
from spine.testing.waiting import wait_until

URGENT = Priority.URGENT


class Place:
    """What the handlers of a test say, and what lets them go on."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.go = asyncio.Event()

    def count(self, word: str) -> int:
        return self.said.count(word)

    async def heard(self, word: str, times: int = 1) -> None:
        await wait_until(lambda: self.count(word) >= times, 20, f"{word!r} said {times} times, of {self.said}")


here: Place


@pytest.fixture(autouse=True)
def _place() -> None:
    global here
    here = Place()


class Desk(Agent):
    """Reports may be interrupted; alarms are urgent, and so is what a report is asked for in a hurry."""

    name = "desk"

    @on("report.wanted", preemptible=True)
    async def report(self, event: Event[Any], ctx: Handling) -> None:
        name = event.payload["name"]
        here.said.append(name)
        await ctx.step("figures", here.said.append, "figures")
        await here.go.wait()
        await ctx.publish("report.done", {"name": name, "attempt": ctx.attempt})

    @on("alarm.raised")
    async def alarm(self, event: Event[Any]) -> None:
        here.said.append("alarm")
        here.go.set()


async def test_a_handler_gives_way_and_runs_again_as_if_it_had_not_begun(spine: Spine, serve: Serve, raw: Any) -> None:
    await serve(Desk, concurrency=1)
    await spine.publish("report.wanted", {"name": "first"}, key="k")
    await here.heard("figures")
    await spine.publish("report.wanted", {"name": "second"}, key="k")
    await spine.publish("alarm.raised", {}, key="other", priority=URGENT)
    done = await wait_for_events(spine, 2, "report.done")
    await nothing_left_to_do(spine)
    assert here.said == ["first", "figures", "alarm", "first", "second", "figures"]
    assert [event.payload for event in done] == [{"name": "first", "attempt": 1}, {"name": "second", "attempt": 1}]
    assert not [key async for key in raw.scan_iter(match=spine.server.keys.own("steps", "*"))]


async def test_the_one_that_began_last_gives_way_and_no_more_than_are_needed(spine: Spine, serve: Serve) -> None:
    await serve(Desk, concurrency=3)
    for name in ("first", "second", "third"):
        await spine.publish("report.wanted", {"name": name}, key=name)
        await here.heard(name)
    await spine.publish("alarm.raised", {}, key="other", priority=URGENT)
    await wait_for_events(spine, 3, "report.done")
    assert [here.count(name) for name in ("first", "second", "third")] == [1, 1, 2]


async def test_nothing_gives_way_while_a_slot_is_free(spine: Spine, serve: Serve) -> None:
    await serve(Desk, concurrency=2)
    await spine.publish("report.wanted", {"name": "first"}, key="k")
    await here.heard("first")
    await spine.publish("alarm.raised", {}, key="other", priority=URGENT)
    await wait_for_events(spine, 1, "report.done")
    assert here.count("first") == 1


async def test_urgent_work_gives_way_to_none(spine: Spine, serve: Serve) -> None:
    worker = await serve(Desk, concurrency=1)
    await spine.publish("report.wanted", {"name": "first"}, key="k1", priority=URGENT)
    await here.heard("first")
    await spine.publish("report.wanted", {"name": "second"}, key="k2", priority=URGENT)
    await wait_until(lambda: worker._agencies["desk"].hand.size == 2)
    here.go.set()
    await wait_for_events(spine, 2, "report.done")
    assert (here.count("first"), here.count("second")) == (1, 1)


async def test_what_may_not_be_interrupted_is_not(spine: Spine, serve: Serve) -> None:
    class Firm(Desk):
        name = "firm"

        @on("report.wanted")
        async def report(self, event: Event[Any], ctx: Handling) -> None:
            here.said.append("firm")
            await asyncio.sleep(0.05)
            here.said.append("through")

    await serve(Firm, concurrency=1)
    await spine.publish("report.wanted", {}, key="k")
    await here.heard("firm")
    await spine.publish("alarm.raised", {}, key="other", priority=URGENT)
    await here.heard("alarm")
    assert here.said == ["firm", "through", "alarm"]


async def test_an_urgent_event_does_not_wait_for_one_of_its_own_key_that_may_be_interrupted(
    spine: Spine, serve: Serve
) -> None:
    await serve(Desk, concurrency=8)
    await spine.publish("report.wanted", {"name": "first"}, key="k")
    await here.heard("first")
    await spine.publish("alarm.raised", {}, key="k", priority=URGENT)
    await wait_for_events(spine, 1, "report.done")
    assert here.said == ["first", "figures", "alarm", "first"]


async def test_nothing_is_interrupted_for_ever(spine: Spine, serve: Serve) -> None:
    class Busy(Agent):
        name = "busy"
        ageing_s = 60.0

        @on("long.wanted", preemptible=True)
        async def long(self, event: Event[Any]) -> None:
            here.said.append("begun")
            await here.go.wait()
            here.said.append("through")

        @on("alarm.raised")
        async def alarm(self, event: Event[Any]) -> None:
            here.said.append("alarm")

    worker = await serve(Busy, concurrency=1)
    await spine.publish("long.wanted", {}, key="k")
    for round in range(1, TIMES + 1):
        await here.heard("begun", round)
        await spine.publish("alarm.raised", {}, key=f"a{round}", priority=URGENT)
    await here.heard("begun", TIMES + 1)
    await spine.publish("alarm.raised", {}, key="last", priority=URGENT)
    await wait_until(lambda: worker._agencies["busy"].hand.urgent_ready(1))
    here.go.set()
    await here.heard("alarm", TIMES + 1)
    assert here.said == [*["begun", "alarm"] * TIMES, "begun", "through", "alarm"]


class Stubborn(Agent):
    """Its handlers take a cancellation as they like."""

    name = "stubborn"

    @on("work.wanted", preemptible=True, retry=Retry(attempts=1), timeout_s=30)
    async def work(self, event: Event[Any], ctx: Handling) -> None:
        here.said.append("begun")
        how = event.payload["how"]
        if how == "makes its own":
            raise asyncio.CancelledError
        try:
            await here.go.wait()
        except asyncio.CancelledError:
            here.said.append("cancelled")
            if how == "raises":
                raise ValueError("of its own") from None
            if how == "blocks":
                time.sleep(0.05)  # noqa: ASYNC251 - it is a bad one
            elif how == "goes on":
                await here.go.wait()
            elif how == "cleans up":
                await asyncio.sleep(0.03)
                raise
        await ctx.publish("work.done", {"attempt": ctx.attempt})

    @on("alarm.raised")
    async def alarm(self, event: Event[Any]) -> None:
        here.said.append("alarm")
        here.go.set()


@pytest.mark.parametrize(("how", "runs"), [("raises", 2), ("cleans up", 2), ("blocks", 1), ("returns", 1)])
async def test_however_a_handler_takes_it_its_event_is_handled_once(
    spine: Spine, serve: Serve, raw: Any, how: str, runs: int
) -> None:
    await serve(Stubborn, concurrency=1)
    await spine.publish("work.wanted", {"how": how}, key="k")
    await here.heard("begun")
    await spine.publish("alarm.raised", {}, key="other", priority=URGENT)
    await here.heard("alarm")
    await wait_for_events(spine, 1, "work.done")
    await nothing_left_to_do(spine)
    assert (here.count("begun"), here.count("cancelled")) == (runs, 1)
    assert [event.payload for event in await events_of(spine, "work.done")] == [{"attempt": 1}]


async def test_another_one_gives_way_for_one_that_goes_on(spine: Spine, serve: Serve, raw: Any) -> None:
    await serve(Stubborn, concurrency=2)
    for how in ("cleans up", "goes on"):
        await spine.publish("work.wanted", {"how": how}, key=how)
        await here.heard("begun", 1 + (how == "goes on"))
    await spine.publish("alarm.raised", {}, key="other", priority=URGENT)
    await wait_for_events(spine, 2, "work.done")
    await nothing_left_to_do(spine)
    assert (here.count("begun"), here.count("cancelled")) == (3, 2)
    assert len(await events_of(spine, "work.done")) == 2


async def test_one_that_goes_on_is_still_ended_by_its_time_out(spine: Spine, serve: Serve, raw: Any) -> None:
    class Hasty(Stubborn):
        name = "hasty"

        @on("work.wanted", preemptible=True, retry=Retry(attempts=1), timeout_s=0.3)
        async def work(self, event: Event[Any], ctx: Handling) -> None:
            await super().work(event, ctx)

        @on("alarm.raised")
        async def alarm(self, event: Event[Any]) -> None:
            here.said.append("alarm")

    await serve(Hasty, concurrency=1)
    await spine.publish("work.wanted", {"how": "goes on"}, key="k")
    await here.heard("begun")
    await spine.publish("alarm.raised", {}, key="other", priority=URGENT)
    await here.heard("alarm")
    await nothing_left_to_do(spine)
    assert here.said == ["begun", "cancelled", "alarm"]
    assert await raw.hlen(spine.server.keys.dead("hasty")) == 1
    await spine.publish("work.wanted", {"how": "makes its own"}, key="k")  # nothing of the old ones sticks to the slot
    await nothing_left_to_do(spine)
    assert await raw.hlen(spine.server.keys.dead("hasty")) == 2


async def test_one_that_waits_for_others_has_no_slot_to_give(spine: Spine, serve: Serve) -> None:
    told = {name: asyncio.Event() for name in ("first", "second")}

    class Asking(Agent):
        name = "asking"

        @on("quote.wanted", preemptible=True)
        async def quote(self, event: Event[Any], ctx: Handling) -> None:
            here.said.append(f"{event.key} begins")
            await ctx.request("price.wanted", {}, to="pricing", timeout=20)
            here.said.append(f"{event.key} knows")
            await here.go.wait()
            here.said.append(f"{event.key} ends")

        @on("alarm.raised")
        async def alarm(self, event: Event[Any]) -> None:
            here.said.append("alarm")
            here.go.set()

    class Pricing(Agent):
        name = "pricing"

        @on("price.wanted")
        async def price(self, event: Event[Any], ctx: Handling) -> None:
            here.said.append(f"{event.key} asks")
            await told[event.key].wait()
            await ctx.reply({"price": 12})

    await serve(Pricing)
    await serve(Asking, concurrency=1)
    for name in told:
        await spine.publish("quote.wanted", {}, key=name)
        await here.heard(f"{name} asks")
    told["first"].set()
    await here.heard("first knows")
    await spine.publish("alarm.raised", {}, key="other", priority=URGENT)
    await here.heard("first ends")
    told["second"].set()
    await here.heard("second ends")
    assert (here.count("first begins"), here.count("second begins")) == (2, 1)


async def test_everything_that_gave_way_is_done_later_and_once(spine: Spine, serve: Serve, raw: Any) -> None:
    class Sums(Agent):
        name = "sums"
        prefetch = 32

        @on("sum.wanted", preemptible=True)
        async def work(self, event: Event[Any], ctx: Handling) -> None:
            here.said.append("begun")
            await asyncio.sleep(0.01)
            await ctx.publish("sum.done", {"n": event.payload["n"]})

        @on("alarm.raised")
        async def alarm(self, event: Event[Any]) -> None:
            here.said.append("alarm")

    await serve(Sums, concurrency=4)
    await spine.publish_many([Draft("sum.wanted", {"n": n}, key=f"k{n % 50}") for n in range(300)])
    for n in range(100):
        await spine.publish("alarm.raised", {}, key=f"a{n}", priority=URGENT)
        await asyncio.sleep(0.002)
    done = await wait_for_events(spine, 300, "sum.done")
    await nothing_left_to_do(spine)
    assert sorted(event.payload["n"] for event in done) == list(range(300))
    assert here.count("alarm") == 100
    assert here.count("begun") > 300  # some did give way
