"""Routing: the decision is stored with the work it sends, and whoever dies on the way, the work is done once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from seen_events import events_of, nothing_left_to_do, wait_for_events
from worker_processes import Processes

from spine import Spine

SURE, UNSURE = {"confidence": 0.9}, {"confidence": 0.2}
WHY = {"auto": "confidence >= 0.8 (confidence is 0.9)", "person": "no rule fits (confidence is 0.2)"}
DESKS = [("auto", "Auto", SURE), ("person", "Person", UNSURE)]


async def test_initiator_killed_with_the_decision_made(spine: Spine, processes: Processes, raw: Any) -> None:
    await processes.let_pass("auto")
    await processes.start("routing_agents", "Auto", "Person")
    front = await processes.start("routing_agents", "Front")
    await spine.publish("answer.drafted", SURE)
    await processes.reached("front")
    await front.kill()
    assert await events_of(spine, "answer.routed") == []
    await processes.let_pass("front")
    await processes.start("routing_agents", "Front")
    await ends_once(spine, raw, "auto")


async def test_initiator_killed_for_good_when_it_has_routed(spine: Spine, processes: Processes, raw: Any) -> None:
    await processes.let_pass("front")
    await processes.start("routing_agents", "Auto", "Person")
    front = await processes.start("routing_agents", "Front")
    await spine.publish("answer.drafted", SURE)
    await processes.reached("auto")
    await front.kill()
    await processes.let_pass("auto")
    await wait_for_events(spine, 1, "answer.sent")
    await processes.start("routing_agents", "Front")
    await ends_once(spine, raw, "auto")


@pytest.mark.parametrize(("name", "agent", "payload"), DESKS)
async def test_participant_killed(
    spine: Spine, processes: Processes, raw: Any, name: str, agent: str, payload: dict[str, Any]
) -> None:
    await processes.let_pass("front")
    await processes.start("routing_agents", "Front")
    others = [other for _, other, _ in DESKS if other != agent]
    await processes.start("routing_agents", *others)
    desk = await processes.start("routing_agents", agent)
    answering = asyncio.create_task(spine.request("answer.drafted", payload, timeout=30))
    await processes.reached(name)
    await desk.kill()
    await processes.let_pass(name)
    await processes.start("routing_agents", agent)
    assert (await answering).payload == {"by": name}
    await ends_once(spine, raw, name)


async def test_both_late(spine: Spine, processes: Processes, raw: Any) -> None:
    for place in ("front", "person"):
        await processes.let_pass(place)
    everybody = await processes.start("routing_agents", "Front", "Auto", "Person")
    await everybody.kill()
    await spine.publish("answer.drafted", UNSURE)
    await processes.start("routing_agents", "Front")
    await wait_for_events(spine, 1, "answer.routed")
    await processes.start("routing_agents", "Auto", "Person")
    await ends_once(spine, raw, "person")


async def ends_once(spine: Spine, raw: Any, by: str) -> None:
    await wait_for_events(spine, 1, "answer.sent")
    await nothing_left_to_do(spine)
    (routed,) = await events_of(spine, "answer.routed")
    assert routed.topic == f"@{by}"
    assert [(hop.source, hop.to, hop.reason) for hop in routed.context.handoffs] == [("front", by, WHY[by])]
    assert [event.payload for event in await events_of(spine, "answer.sent")] == [{"by": by, "why": WHY[by]}]
