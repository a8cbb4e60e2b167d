"""The examples do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from seen_events import events_of, wait_for_events
from worker_processes import Serve

from spine import Agent, Event, Handling, Priority, Spine, on
from spine.keys import partition_of
from spine.testing.waiting import wait_until

EXAMPLES = Path(__file__).parents[3] / "examples"
LINES = 20


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("coordination_*.py")), ids=lambda path: path.stem)
def test_they_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < LINES


class Editor(Agent):
    name = "editor"

    @on("question.referred")
    async def edit(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.done({"answer": f"It is {event.payload['answer']}."})


async def test_handoff(spine: Spine, serve: Serve) -> None:
    module = example("coordination_handoff")
    await serve(module.Triage, module.Expert, Editor)
    reply = await spine.request("question.asked", {"question": "?"}, timeout=10)
    assert reply.payload == {"answer": "It is 42."}


class Calendar(Agent):
    name = "calendar"

    @on("calendar.find_slot")
    async def find(self, event: Event[Any], ctx: Handling) -> None:
        day = event.payload["day"]
        await ctx.reply({"day": day, "confidence": day / 10})


async def test_fanout(spine: Spine, serve: Serve) -> None:
    await serve(example("coordination_fanout").Scheduling, Calendar)
    reply = await spine.request("slot.wanted", {"days": [3, 1, 2]}, timeout=10)
    assert reply.payload == {"slot": {"day": 3, "confidence": 0.3}, "partial": False}


def voter(who: str, vote: str) -> type[Agent[Any]]:
    class Voter(Agent):
        name = who

        @on("vote.wanted")
        async def vote(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.reply({"vote": vote})

    return Voter


async def test_gather(spine: Spine, serve: Serve) -> None:
    voters = [voter("ann", "yes"), voter("bob", "no"), voter("cid", "yes")]
    await serve(example("coordination_gather").Chair, *voters)
    await spine.publish("motion.made", {"motion": "lunch"})
    (settled,) = await wait_for_events(spine, 1, "motion.settled")
    assert settled.payload == {"verdict": "yes"}


async def test_gate(spine: Spine, serve: Serve) -> None:
    await serve(example("coordination_gate").Scheduling)
    await spine.publish("payment.cleared", {"cents": 900}, key="k")
    await spine.publish("requirement.complete", {"guests": 2}, key="k")
    (booked,) = await wait_for_events(spine, 1, "booking.confirmed")
    assert booked.payload == {"guests": 2}
    assert await events_of(spine, "customer.reminded") == []


async def test_preemption(spine: Spine, serve: Serve) -> None:
    await serve(example("coordination_preemption").Office, concurrency=1)
    report = await spine.publish("report.wanted", {"sales": [3, 4]}, key="k")
    steps = spine.server.keys.steps("office", partition_of("k", spine.server.partitions), report.seq)
    await wait_until(lambda: spine.server.command("EXISTS", steps), 20, "the report to be at work")
    await spine.publish("booking.cancel", {"booking": 7}, key="other", priority=Priority.URGENT)
    ends = await wait_for_events(spine, 2, "booking.cancelled", "report.written")
    assert [event.payload for event in ends] == [{"booking": 7}, {"total": 7}]


def desk(called: str) -> type[Agent[Any]]:
    class Desk(Agent):
        name = called

        @on("answer.routed")
        async def take(self, event: Event[Any], ctx: Handling) -> None:
            await ctx.publish("answer.taken", {"by": ctx.agent, "why": event.context.handoffs[-1].reason})

    return Desk


async def test_routing(spine: Spine, serve: Serve) -> None:
    await serve(example("coordination_routing").Concierge, *map(desk, ("auto", "review", "human")))
    for sure in (0.9, 0.6, 0.1):
        await spine.publish("answer.drafted", {"confidence": sure}, key="k")
    taken = await wait_for_events(spine, 3, "answer.taken")
    assert {event.payload["by"]: event.payload["why"] for event in taken} == {
        "auto": "confidence >= 0.85 (confidence is 0.9)",
        "review": "confidence >= 0.5 (confidence is 0.6)",
        "human": "no rule fits (confidence is 0.1)",
    }
