"""Handoffs and sequences: the whole context goes along, and whoever dies on the way, the work ends once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from seen_events import events_of, nothing_left_to_do, wait_for_events
from worker_processes import Processes, Serve

from spine import (
    Agent,
    Context,
    Event,
    Handling,
    HandoffLoop,
    NoHandler,
    RequestFailed,
    Retry,
    Spine,
    on,
)
from spine.testing.waiting import wait_until


class Front(Agent):
    name = "front"

    @on("case.opened")
    async def open(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.session.update(seen_by="front")
        await ctx.handoff("back", {"case": 2}, type="case.taken", reason="beyond me")


class Back(Agent):
    name = "back"

    @on("case.taken")
    async def take(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("case.solved", {"handoffs": len(ctx.context.handoffs)})
        await ctx.reply({"session": dict(ctx.session)})


async def test_the_whole_context_goes_along(spine: Spine, serve: Serve) -> None:
    await serve(Front, Back)
    await spine.update_session("s-1", {"lang": "de"})
    context = Context(correlation="c-1", session_id="s-1", constraints={"budget": 90})
    answer = await spine.request("case.opened", {"case": 1}, context=context, timeout=10)
    (taken,) = await events_of(spine, "case.taken")
    (opened,) = await events_of(spine, "case.opened")
    assert (taken.topic, taken.key, taken.payload) == ("@back", "s-1", {"case": 2})
    assert taken.context.correlation == "c-1"
    assert taken.context.constraints == {"budget": 90}
    assert taken.context.deadline == opened.context.deadline
    assert taken.context.reply_to == opened.context.reply_to
    assert taken.context.path == ("front",)
    assert taken.context.causation == opened.seq
    assert [(hop.source, hop.to, hop.reason) for hop in taken.context.handoffs] == [("front", "back", "beyond me")]
    assert answer.payload == {"session": {"lang": "de", "seen_by": "front"}}
    assert answer.source == "back"
    (solved,) = await events_of(spine, "case.solved")
    assert solved.payload == {"handoffs": 1}
    assert solved.context.handoffs == ()


async def test_initiator_killed_before_its_commit(spine: Spine, processes: Processes, raw: Any) -> None:
    await processes.start("handoff_agents", "Expert")
    await processes.let_pass("expert")
    desk = await processes.start("handoff_agents", "Desk")
    await spine.publish("case.opened", {"case": 7})
    await processes.reached("desk")
    await desk.kill()
    assert await events_of(spine, "case.referred") == []
    await processes.let_pass("desk")
    await processes.start("handoff_agents", "Desk")
    await wait_for_events(spine, 1, "case.solved")
    await nothing_left_to_do(spine)
    assert [event.topic for event in await events_of(spine, "case.referred")] == ["@expert"]
    assert len(await events_of(spine, "case.solved")) == 1


async def test_initiator_killed_for_good_when_it_has_handed_over(spine: Spine, processes: Processes, raw: Any) -> None:
    await processes.let_pass("desk")
    await processes.start("handoff_agents", "Expert")
    desk = await processes.start("handoff_agents", "Desk")
    answering = asyncio.create_task(spine.request("case.opened", {"case": 7}, timeout=30))
    await processes.reached("expert")
    await desk.kill()
    await processes.let_pass("expert")
    assert (await answering).payload == {"by": "expert"}
    await processes.start("handoff_agents", "Desk")
    await nothing_left_to_do(spine)
    assert len(await events_of(spine, "case.referred")) == len(await events_of(spine, "case.solved")) == 1


async def test_participant_killed_with_the_work_in_hand(spine: Spine, processes: Processes, raw: Any) -> None:
    await processes.let_pass("desk")
    await processes.start("handoff_agents", "Desk")
    expert = await processes.start("handoff_agents", "Expert")
    answering = asyncio.create_task(spine.request("case.opened", {"case": 7}, timeout=30))
    await processes.reached("expert")
    await expert.kill()
    await processes.let_pass("expert")
    await processes.start("handoff_agents", "Expert")
    assert (await answering).payload == {"by": "expert"}
    await nothing_left_to_do(spine)
    assert len(await events_of(spine, "case.solved")) == 1


async def test_both_late(spine: Spine, processes: Processes, raw: Any) -> None:
    for place in ("desk", "expert"):
        await processes.let_pass(place)
    both = await processes.start("handoff_agents", "Desk", "Expert")
    await both.kill()
    answering = asyncio.create_task(spine.request("case.opened", {"case": 7}, timeout=30))
    await wait_for_events(spine, 1, "case.opened")
    await processes.start("handoff_agents", "Expert")
    await processes.start("handoff_agents", "Desk")
    assert (await answering).payload == {"by": "expert"}
    await nothing_left_to_do(spine)
    assert len(await events_of(spine, "case.solved")) == 1


class Ping(Agent):
    name = "ping"

    @on("ball.served", retry=Retry(attempts=5))
    async def hit(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.handoff("pong")


class Pong(Agent):
    name = "pong"

    @on("ball.served")
    async def hit(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.handoff("ping")


async def test_a_loop_is_refused_at_once_and_the_asker_told(spine: Spine, serve: Serve) -> None:
    await serve(Ping, Pong)
    with pytest.raises(RequestFailed, match=f"{HandoffLoop.__name__}.*ping → pong → ping → pong"):
        await spine.request("ball.served", {}, to="ping", timeout=10)
    assert len(await events_of(spine, "ball.served")) == 3


class Lost(Agent):
    name = "lost"

    @on("letter.sent", retry=Retry(attempts=1))
    async def send(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.handoff(event.payload["to"])


async def test_work_for_nobody_is_refused(spine: Spine, serve: Serve) -> None:
    await serve(Lost, Ping)
    with pytest.raises(RequestFailed, match=f"{NoHandler.__name__}.*'@nobody'"):
        await spine.request("letter.sent", {"to": "nobody"}, timeout=10)
    with pytest.raises(RequestFailed, match=f"{NoHandler.__name__}.*ping has no handler for 'letter.sent'"):
        await spine.request("letter.sent", {"to": "ping"}, timeout=10)


class Asker(Agent):
    name = "asker"

    @on("question.asked", retry=Retry(attempts=1))
    async def ask(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.request("question.passed", {}, timeout=10)

    @on("question.passed")
    async def never(self, event: Event[Any]) -> None:
        raise AssertionError("never comes here")


class Passer(Agent):
    name = "passer"

    @on("question.passed", retry=Retry(attempts=1))
    async def give_back(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.handoff("asker")


async def test_work_cannot_go_back_to_who_waits_for_it(spine: Spine, serve: Serve) -> None:
    class Only(Asker):
        """The same, without the handler that would answer the question itself."""

        name = "asker"

        async def never(self, event: Event[Any]) -> None: ...

    await serve(Only, Passer)
    with pytest.raises(RequestFailed, match=r"RequestCycle.*'asker' waits"):
        await spine.request("question.asked", {}, timeout=10)


class Both(Agent):
    name = "both"

    @on("case.opened", retry=Retry(attempts=1))
    async def open(self, event: Event[Any], ctx: Handling) -> None:
        for what in event.payload["does"]:
            if what == "reply":
                await ctx.reply({"by": "both"})
            else:
                await ctx.handoff("back", {}, type="case.taken")


@pytest.mark.parametrize("does", [["reply", "handoff"], ["handoff", "reply"]])
async def test_who_hands_work_over_and_replies_has_answered(spine: Spine, serve: Serve, does: list[str]) -> None:
    await serve(Both, Back)
    reply = await spine.request("case.opened", {"does": does}, timeout=10)
    assert (reply.payload, reply.source) == ({"by": "both"}, "both")
    (taken,) = await events_of(spine, "case.taken")
    assert taken.context.reply_to is None
    assert [hop.to for hop in taken.context.handoffs] == ["back"]
    await wait_until(lambda: is_handled(spine))
    assert [event.source async for event in spine.replay(types="*.reply")] == ["both"]


class Changing(Agent):
    """Goes on with a payload that it has emitted, handed over and answered with."""

    name = "changing"

    @on("case.opened")
    async def open(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("case.noted", event.payload)
        await ctx.handoff("back", type="case.taken")
        event.payload["list"].append(2)
        await ctx.reply(event.payload)
        event.payload["list"].append(3)


async def test_what_a_handler_changes_afterwards_is_not_in_what_it_did(spine: Spine, serve: Serve) -> None:
    await serve(Changing, Back)
    reply = await spine.request("case.opened", {"list": [1]}, timeout=10)
    assert reply.payload == {"list": [1, 2]}
    for event_type in ("case.noted", "case.taken"):
        (event,) = await events_of(spine, event_type)
        assert event.payload == {"list": [1]}


@pytest.mark.parametrize("does", [["reply", "reply"], ["handoff", "handoff"], ["handoff", "reply", "handoff"]])
async def test_one_agent_answers_and_one_goes_on(spine: Spine, serve: Serve, does: list[str]) -> None:
    await serve(Both, Back)
    with pytest.raises(RequestFailed, match="answered, done or handed over already"):
        await spine.request("case.opened", {"does": does}, timeout=10)
    assert await events_of(spine, "case.taken") == []


async def is_handled(spine: Spine) -> bool:
    return not sum(lag.total for lag in await spine.lag())


async def test_a_long_chain_keeps_its_context_small(spine: Spine, serve: Serve) -> None:
    class Ticker(Agent):
        name = "ticker"

        @on("clock.tick")
        async def tick(self, event: Event[Any], ctx: Handling) -> None:
            if event.payload["n"]:
                await ctx.publish("clock.tick", {"n": event.payload["n"] - 1})
            else:
                await ctx.publish("clock.stopped", {})

    await serve(Ticker)
    await spine.publish("clock.tick", {"n": 100})
    (stopped,) = await wait_until(lambda: events_of(spine, "clock.stopped"), 20)
    assert len(stopped.context.path) <= 65
