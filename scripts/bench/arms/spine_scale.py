"""What must not change with size: a log of a million events, and many agents on many topics."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.arms.spine_delivery import rate_of_backlog
from scripts.bench.arms.spine_log import FLIGHTS, fill, publisher, topic_of
from scripts.bench.arms.spine_requests import asker
from scripts.bench.events import TOPIC
from scripts.bench.load import MICROSECONDS, latencies_one_by_one, rate_in_flight, reach
from scripts.bench.processes import Counter, beside, new_counter, receive

if TYPE_CHECKING:
    from spine import Spine

FILL_PER_EVENT = 50
"""Events already in the log for each that is measured: 20,000 measured make a log of a million."""
AGENTS, TOPICS_EACH = 50, 4
WARM_UP = 40 * AGENTS * TOPICS_EACH
"""So many events touch (nearly) every stream of 8 partitions: what is timed is publishing, not the birth of topics."""
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
            numbers = range(warm, warm + setup.count)
            delivered = await rate_of_backlog(spine, "counting-new", [counter], numbers)
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
    """50 agents with 4 topics each, beside one agent with one topic, and beside one with 4 where nothing flows past."""
    names = {
        f"agent-{number}": tuple(f"crowd.t{number}-{place}" for place in range(TOPICS_EACH)) for number in range(AGENTS)
    }
    every_topic = tuple(topic for topics in names.values() for topic in topics)
    one = await _published_and_delivered(setup, "one", {"agent-0": (TOPIC,)}, (TOPIC,), flow=1)
    few = await _published_and_delivered(setup, "few", {"agent-0": names["agent-0"]}, names["agent-0"], flow=1)
    crowded = await _published_and_delivered(setup, "crowd", names, every_topic, flow=AGENTS)
    return {
        "publish_alone": one[0],
        "publish_crowd": crowded[0],
        "deliver_alone": one[1],
        "deliver_few": few[1],
        "deliver_crowd": crowded[1],
    }


async def _published_and_delivered(
    setup: Setup, namespace: str, agents: dict[str, tuple[str, ...]], topics: tuple[str, ...], flow: int
) -> tuple[float, float]:
    """Publish rate over all topics with all agents known, then the rate at which one of them works off its share.

    The others are known by then, and gone: what is measured is what one costs, not how many fit on a machine.
    """
    from scripts.bench.arms.spine_agents import work_on_topics
    from spine import Spine

    publishing = dataclasses.replace(setup, warmup=WARM_UP, count=2 * setup.count)
    name, own_topics = next(iter(agents.items()))
    async with Spine(setup.redis_url, namespace=namespace) as spine:
        counter = new_counter()
        with beside(work_on_topics, setup.timeout, setup.redis_url, namespace, agents, counter) as everyone:
            await _everyone_woken(spine, counter, topics)
            everyone.send("stop")
            await receive(everyone)
        published = (await rate_in_flight(publisher(spine, topics), publishing, FLIGHTS))["rate"]
        counter = new_counter()
        of_publishing = _share(range(publishing.total), topics, own_topics)
        with beside(work_on_topics, setup.timeout, setup.redis_url, namespace, {name: own_topics}, counter):
            await reach([counter], of_publishing)  # warm
            numbers = range(setup.count * flow)
            own = _share(numbers, topics, own_topics)
            delivered = await rate_of_backlog(spine, name, [counter], numbers, topics, own)
    return published, delivered


def _share(numbers: range, topics: tuple[str, ...], own: tuple[str, ...]) -> int:
    """How many of `numbers` go to topics of `own`."""
    return sum(topic_of(number, topics) in own for number in numbers)


async def _everyone_woken(spine: Spine, counter: Counter, topics: tuple[str, ...]) -> None:
    """One event on every topic, and all of them handled: every agent is known to the namespace."""
    await fill(spine, range(len(topics)), topics)
    await reach([counter], len(topics))
