"""What must not change with size: a log of a million events, and many agents on many topics."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.arms.spine_delivery import rate_of_backlog
from scripts.bench.arms.spine_log import FLIGHTS, fill, publisher
from scripts.bench.arms.spine_requests import asker
from scripts.bench.events import TOPIC
from scripts.bench.load import MICROSECONDS, latencies_one_by_one, rate_in_flight, reach
from scripts.bench.processes import Counter, beside, new_counter, receive

if TYPE_CHECKING:
    from spine import Spine

FILL_PER_EVENT = 50
"""Events already in the log for each that is measured: 20,000 measured make a log of a million."""
AGENTS, TOPICS_EACH = 50, 4
QUIET_SECONDS = 0.2
"""A worker that has handled nothing for so long has nothing left."""


@arm("spine.big_log", count=20_000, quick=500, timeout=300)
async def big_log(setup: Setup) -> Sample:
    """Publish, deliver and request in an empty log and in a full one."""
    from spine import Spine

    empty = await _three(setup, "empty")
    async with Spine(setup.redis_url, namespace="full") as spine:
        await fill(spine, range(setup.count * FILL_PER_EVENT))
    full = await _three(setup, "full")
    return {f"{what}_{state}": rate for state, rates in (("empty", empty), ("full", full)) for what, rate in rates}


async def _three(setup: Setup, namespace: str) -> list[tuple[str, float]]:
    from scripts.bench.arms.spine_agents import work
    from spine import Spine

    counter = new_counter()
    async with Spine(setup.redis_url, namespace=namespace) as spine:
        published = (await rate_in_flight(publisher(spine), setup, FLIGHTS))["rate"]
        with beside(work, setup.timeout, setup.redis_url, namespace, "counting-new", counter):
            warm = await _woken(spine, counter)
            delivered = (await rate_of_backlog(spine, [counter], range(warm, warm + setup.count)))["rate"]
    async with asker(setup, namespace) as ask:
        few = dataclasses.replace(setup, count=max(100, setup.count // 10), warmup=100)
        asked = MICROSECONDS / (await latencies_one_by_one(ask, few))["p50"]
    return [("publish", published), ("deliver", delivered), ("request", asked)]


async def _woken(spine: Spine, counter: Counter) -> int:
    """Publish an event now and then until a worker that starts at the present handles them; how many it has handled."""
    while not counter.value:
        await fill(spine, range(1))
        await asyncio.sleep(QUIET_SECONDS)
    handled = 0
    while handled != counter.value:
        handled = counter.value
        await asyncio.sleep(QUIET_SECONDS)
    return handled


@arm("spine.crowd", count=10_000, quick=400, timeout=300)
async def crowd(setup: Setup) -> Sample:
    """50 agents with 4 topics each beside one agent with one: what publishing and delivering then cost."""
    names = {
        f"agent-{number}": tuple(f"crowd.t{number}-{place}" for place in range(TOPICS_EACH)) for number in range(AGENTS)
    }
    every_topic = tuple(topic for topics in names.values() for topic in topics)
    alone = await _published_and_delivered(setup, "alone", {"agent-0": (TOPIC,)}, (TOPIC,), flow=1)
    crowded = await _published_and_delivered(setup, "crowd", names, every_topic, flow=AGENTS)
    return {
        "publish_alone": alone[0],
        "deliver_alone": alone[1],
        "publish_crowd": crowded[0],
        "deliver_crowd": crowded[1],
    }


async def _published_and_delivered(
    setup: Setup, namespace: str, agents: dict[str, tuple[str, ...]], topics: tuple[str, ...], flow: int
) -> tuple[float, float]:
    """Publish rate over all topics with all agents known, then the rate at which one of them gets its share."""
    from scripts.bench.arms.spine_agents import work_on_topics
    from spine import Spine

    first = dict(list(agents.items())[:1])
    async with Spine(setup.redis_url, namespace=namespace) as spine:
        counter = new_counter()
        with beside(work_on_topics, setup.timeout, setup.redis_url, namespace, agents, counter) as everyone:
            await _everyone_woken(spine, counter, topics)
            everyone.send("stop")
            await receive(everyone)
        published = (await rate_in_flight(publisher(spine, topics), setup, FLIGHTS))["rate"]
        counter = new_counter()
        own = setup.count
        await fill(spine, range(own * flow), topics)
        with beside(work_on_topics, setup.timeout, setup.redis_url, namespace, first, counter):
            start = await reach([counter], max(1, own // 10))
            before = counter.value
            end = await reach([counter], own)
    return published, (own - before) / (end - start)


async def _everyone_woken(spine: Spine, counter: Counter, topics: tuple[str, ...]) -> None:
    """One event on every topic, and all of them handled: every agent is known to the namespace."""
    await fill(spine, range(len(topics)), topics)
    await reach([counter], len(topics))
