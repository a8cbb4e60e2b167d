"""Sequences: each agent once and in order, whoever is killed or late, and it may stop early."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from handoff_agents import TRIP
from seen_events import events_of, nothing_left_to_do, wait_for_events
from worker_processes import Processes, Serve

from spine import Agent, Answers, Event, Handling, InvalidInput, Sequence, Spine, on

STEPS = {"gather": "Gather", "book": "Book", "confirm": "Confirm"}


async def test_whichever_agent_is_killed(spine: Spine, processes: Processes, raw: Any) -> None:
    running = {name: await processes.start("handoff_agents", agent) for name, agent in STEPS.items()}
    answering = asyncio.create_task(TRIP.request(spine, "trip.wanted", {"seen": []}, timeout=60))
    for name, agent in STEPS.items():
        await processes.reached(name)
        await running[name].kill()
        await processes.let_pass(name)
        await processes.start("handoff_agents", agent)
    assert (await answering).payload == {"seen": list(STEPS)}
    await ends_once(spine, raw, [*list(STEPS)[1:], ""])


async def test_initiator_killed(spine: Spine, processes: Processes, raw: Any) -> None:
    for place in STEPS:
        await processes.let_pass(place)
    await processes.start("handoff_agents", *STEPS.values())
    opener = await processes.start("handoff_agents", "Opener")
    await spine.publish("trip.asked", {"seen": []})
    await processes.reached("opener")
    await opener.kill()
    assert await events_of(spine, "trip.wanted") == []
    await processes.let_pass("opener")
    await processes.start("handoff_agents", "Opener")
    await ends_once(spine, raw, [*STEPS, ""])


async def test_initiator_killed_for_good_when_it_is_under_way(spine: Spine, processes: Processes, raw: Any) -> None:
    for place in ("opener", "gather", "confirm"):
        await processes.let_pass(place)
    await processes.start("handoff_agents", *STEPS.values())
    opener = await processes.start("handoff_agents", "Opener")
    await spine.publish("trip.asked", {"seen": []})
    await processes.reached("book")
    await opener.kill()
    await processes.let_pass("book")
    await wait_for_events(spine, 1, "trip.done")
    await processes.start("handoff_agents", "Opener")
    await ends_once(spine, raw, [*STEPS, ""])


async def test_all_of_them_late(spine: Spine, processes: Processes, raw: Any) -> None:
    for place in ("opener", *STEPS):
        await processes.let_pass(place)
    everybody = await processes.start("handoff_agents", "Opener", *STEPS.values())
    await everybody.kill()
    await spine.publish("trip.asked", {"seen": []})
    await processes.start("handoff_agents", "Opener")
    await wait_for_events(spine, 1, "trip.wanted")
    for count, agent in enumerate(STEPS.values(), 1):
        await processes.start("handoff_agents", agent)
        await wait_for_events(spine, count, "trip.step")
    await ends_once(spine, raw, [*STEPS, ""])


async def ends_once(spine: Spine, raw: Any, hands: list[str]) -> None:
    (ended,) = await wait_for_events(spine, 1, "trip.done")
    await nothing_left_to_do(spine)
    assert ended.payload == {"seen": list(STEPS)}
    assert [hop.to for hop in ended.context.handoffs] == hands
    assert [event.payload["by"] for event in await events_of(spine, "trip.step")] == list(STEPS)
    assert len(await events_of(spine, "trip.done")) == 1


class Checker(Agent):
    name = "checker"

    @on("form.sent")
    async def check(self, event: Event[Any], ctx: Handling) -> None:
        complete = event.payload["complete"]
        await ctx.done({"complete": complete}, stop=not complete, reason="" if complete else "fields are missing")


class Clerk(Agent):
    name = "clerk"

    @on("form.sent")
    async def file(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.done({"filed": True})


async def test_a_sequence_can_stop_early(spine: Spine, serve: Serve) -> None:
    await serve(Checker, Clerk)
    forms = Sequence("checker", "clerk", then="form.settled")
    answer = await forms.request(spine, "form.sent", {"complete": True}, timeout=10)
    assert answer.payload == {"filed": True}
    answer = await forms.request(spine, "form.sent", {"complete": False}, timeout=10)
    assert answer.payload == {"complete": False}
    settled = await events_of(spine, "form.settled")
    assert [event.payload for event in settled] == [{"filed": True}, {"complete": False}]
    assert settled[1].context.handoffs[-1].reason == "fields are missing"


class Reviewer(Agent):
    """Lets somebody else do its part, or asks others first."""

    name = "reviewer"

    @on("form.sent")
    async def review(self, event: Event[Any], ctx: Handling) -> None:
        match event.payload["how"]:
            case "helper":
                await ctx.handoff("helper", reason="on holiday")
            case "gather":
                await ctx.gather("opinion.wanted", [{}, {}], then="opinions.given", timeout=20, hand_over=True)
            case "twice":
                await ctx.done()
                with pytest.raises(InvalidInput, match="done or handed over already"):
                    await ctx.done()
                with pytest.raises(InvalidInput, match="done or handed over already"):
                    await ctx.handoff("helper", {"how": "too late"})

    @on("opinion.wanted")
    async def think(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.reply({"fine": True})

    @on("opinions.given")
    async def decide(self, event: Event[Answers], ctx: Handling) -> None:
        await ctx.done({"opinions": len(event.payload)}, type="form.sent")


class Helper(Agent):
    name = "helper"

    @on("form.sent")
    async def review(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.done({"by": ctx.agent})


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(("how", "steps"), [("helper", 3), ("gather", 2), ("twice", 2)])
async def test_it_goes_on_when_a_part_is_done_by_another_and_each_part_is_done_once(
    spine: Spine, serve: Serve, how: str, steps: int, asked: bool
) -> None:
    await serve(Reviewer, Helper, Clerk)
    forms = Sequence("reviewer", "clerk", then="form.settled")
    if asked:
        assert (await forms.request(spine, "form.sent", {"how": how}, timeout=10)).payload == {"filed": True}
    else:
        await forms.start(spine, "form.sent", {"how": how})
    (settled,) = await wait_for_events(spine, 1, "form.settled")
    assert settled.payload == {"filed": True}
    assert len(await events_of(spine, "form.sent")) == steps
