"""Gates: whoever brings what a gate waits for may be killed or late; it opens once, and never without one of them."""

from __future__ import annotations

from typing import Any

import pytest
from seen_events import events_of, nothing_left_to_do, wait_for_events
from worker_processes import Processes

from spine import Spine


@pytest.mark.parametrize(("stays", "dies"), [("Inquiry", "Till"), ("Till", "Inquiry")])
async def test_killed_while_it_brings_its_half(
    spine: Spine, processes: Processes, raw: Any, stays: str, dies: str
) -> None:
    for place in ("book", stays.lower()):
        await processes.let_pass(place)
    await processes.start("gate_agents", "Scheduling", stays)
    killed = await processes.start("gate_agents", dies)
    await spine.publish("order.placed", {"n": 7}, key="k")
    await processes.reached(dies.lower())
    await killed.kill()
    await wait_for_events(spine, 1, "requirement.complete", "payment.cleared")
    assert await events_of(spine, "booking.made") == []
    await processes.let_pass(dies.lower())
    await processes.start("gate_agents", dies)
    await ends_once(spine, raw)


async def test_killed_for_good_when_it_has_brought_its_half(spine: Spine, processes: Processes, raw: Any) -> None:
    for place in ("inquiry", "till"):
        await processes.let_pass(place)
    both = await processes.start("gate_agents", "Inquiry", "Till")
    await processes.start("gate_agents", "Scheduling")
    await spine.publish("order.placed", {"n": 7}, key="k")
    await processes.reached("book")
    await both.kill()
    await processes.let_pass("book")
    await ends_once(spine, raw)


async def test_all_of_them_late(spine: Spine, processes: Processes, raw: Any) -> None:
    for place in ("inquiry", "till", "book"):
        await processes.let_pass(place)
    everybody = await processes.start("gate_agents", "Inquiry", "Till", "Scheduling")
    await everybody.kill()
    await spine.publish("order.placed", {"n": 7}, key="k")
    await processes.start("gate_agents", "Till")
    await wait_for_events(spine, 1, "payment.cleared")
    await processes.start("gate_agents", "Scheduling")
    await processes.start("gate_agents", "Inquiry")
    await ends_once(spine, raw)


async def ends_once(spine: Spine, raw: Any) -> None:
    (made,) = await wait_for_events(spine, 1, "booking.made")
    await nothing_left_to_do(spine)
    assert made.payload == {"requirement.complete": 7, "payment.cleared": 7}
    for type in ("booking.made", "requirement.complete", "payment.cleared"):
        assert len(await events_of(spine, type)) == 1, type
