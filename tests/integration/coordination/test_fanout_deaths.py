"""Fan-outs, awaited and as a stream: whoever is killed or late, nobody is asked twice and the asker ends once."""

from __future__ import annotations

from typing import Any

import pytest
from seen_events import events_of, nothing_left_to_do, wait_for_events
from worker_processes import Processes

from spine import Spine

pytestmark = pytest.mark.parametrize("asker", ["Buyer", "Collector"])


@pytest.fixture(autouse=True)
async def _asks_at_once(processes: Processes) -> None:
    await processes.let_pass("asking")


async def test_initiator_killed_while_it_waits(spine: Spine, processes: Processes, raw: Any, asker: str) -> None:
    await processes.start("fanout_agents", "Dealer")
    killed = await processes.start("fanout_agents", asker)
    await processes.let_pass(asker.lower())
    await spine.publish("purchase.wanted", {})
    await processes.reached("dealer", 10)
    await killed.kill()
    await processes.start("fanout_agents", asker)
    await processes.reached("asking", 2)
    await processes.let_pass("dealer")
    await ends_once(spine, raw)


async def test_initiator_killed_with_answers_in_hand(spine: Spine, processes: Processes, raw: Any, asker: str) -> None:
    await processes.let_pass("dealer")
    await processes.start("fanout_agents", "Dealer")
    killed = await processes.start("fanout_agents", asker)
    await spine.publish("purchase.wanted", {})
    await processes.reached(asker.lower())
    await killed.kill()
    await processes.let_pass(asker.lower())
    await processes.start("fanout_agents", asker)
    await ends_once(spine, raw)


async def test_participant_killed(spine: Spine, processes: Processes, raw: Any, asker: str) -> None:
    await processes.let_pass(asker.lower())
    dealer = await processes.start("fanout_agents", "Dealer")
    await processes.start("fanout_agents", asker)
    await spine.publish("purchase.wanted", {})
    await processes.reached("dealer", 10)
    await dealer.kill()
    await processes.let_pass("dealer")
    await processes.start("fanout_agents", "Dealer")
    await ends_once(spine, raw)


async def test_both_late(spine: Spine, processes: Processes, raw: Any, asker: str) -> None:
    for place in (asker.lower(), "dealer"):
        await processes.let_pass(place)
    both = await processes.start("fanout_agents", asker, "Dealer")
    await both.kill()
    await spine.publish("purchase.wanted", {})
    await processes.start("fanout_agents", asker)
    await wait_for_events(spine, 20, "quote.wanted")
    await processes.start("fanout_agents", "Dealer")
    await ends_once(spine, raw)


async def ends_once(spine: Spine, raw: Any) -> None:
    (made,) = await wait_for_events(spine, 1, "purchase.made")
    await nothing_left_to_do(spine)
    assert 15 <= len(made.payload["prices"]) == len(set(made.payload["prices"]))
    assert len(await events_of(spine, "purchase.made")) == 1
    assert sorted(event.payload["n"] for event in await events_of(spine, "quote.wanted")) == list(range(20))
    assert sorted(event.payload["n"] for event in await events_of(spine, "quote.made")) == list(range(20))
