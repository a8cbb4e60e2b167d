"""What must not change with size: a log of a million events, and many agents on many topics.

What is compared is measured in turn, a slice at a time: minutes apart, the machine would be another one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.arms.spine_delivery import rate_of_backlog
from scripts.bench.arms.spine_log import FLIGHTS, NAMESPACE, fill, publisher, topic_of
from scripts.bench.arms.spine_requests import asker
from scripts.bench.events import TOPIC
from scripts.bench.load import MICROSECONDS, in_flight, in_turn, percentiles, reach
from scripts.bench.processes import Counter, beside, new_counter, receive
from scripts.bench.servers import Storage, running

if TYPE_CHECKING:
    from spine import Spine

FILL_PER_EVENT = 50
"""Events already in the log for each that is measured: 20,000 measured make a log of a million."""
REQUESTS_PER_EVENT = 0.2
AGENTS, TOPICS_EACH = 50, 4
WARM_UP = 40 * AGENTS * TOPICS_EACH
"""So many events touch (nearly) every stream of 8 partitions: what is timed is publishing, not the birth of topics."""
QUIET_SECONDS = 0.2
"""A worker that has handled nothing for so long has nothing left."""

Measure = Callable[[range], Awaitable[float]]
"""Takes the numbers of a slice and returns a rate."""
Measuring = AbstractAsyncContextManager[Measure]


@arm("spine.big_log", count=20_000, quick=500, timeout=400)
async def big_log(setup: Setup) -> Sample:
    """Publish, deliver and request, in turn in a full log and in an empty one on another server."""
    from spine import Spine

    with running("redis", Storage(setup.storage)) as other:
        async with Spine(setup.redis_url, namespace=NAMESPACE) as spine:
            await fill(spine, range(setup.count * FILL_PER_EVENT))
        setups = {"full": setup, "empty": dataclasses.replace(setup, redis_url=other)}
        asked = range(max(100, round(setup.count * REQUESTS_PER_EVENT)))
        return {
            **await _each_in_turn("publish", {name: _publishing(one) for name, one in setups.items()}, setup.count),
            **await _each_in_turn("deliver", {name: _delivering(one) for name, one in setups.items()}, setup.count),
            **await _each_in_turn("request", {name: _asking(one) for name, one in setups.items()}, len(asked)),
        }


async def _each_in_turn(what: str, opened: Mapping[str, Measuring], count: int) -> Sample:
    async with AsyncExitStack() as stack:
        measures = {name: await stack.enter_async_context(one) for name, one in opened.items()}
        medians = await in_turn(measures, range(count))
    return {f"{what}_{name}": rate for name, rate in medians.items()}


@asynccontextmanager
async def _publishing(
    setup: Setup, namespace: str = NAMESPACE, topics: tuple[str, ...] = (TOPIC,)
) -> AsyncIterator[Measure]:
    from spine import Spine

    async with Spine(setup.redis_url, namespace=namespace) as spine:
        publish = publisher(spine, topics)

        async def measure(numbers: range) -> float:
            start = time.monotonic()
            await in_flight(publish, numbers, FLIGHTS)
            return len(numbers) / (time.monotonic() - start)

        await measure(range(WARM_UP))
        yield measure


@asynccontextmanager
async def _delivering(setup: Setup) -> AsyncIterator[Measure]:
    from scripts.bench.arms.spine_agents import work
    from spine import Spine

    counter, agent = new_counter(), "counting-new"
    async with Spine(setup.redis_url, namespace=NAMESPACE) as spine:
        with beside(work, setup.timeout, setup.redis_url, NAMESPACE, agent, counter):
            await _woken(spine, counter)

            async def measure(numbers: range) -> float:
                return await rate_of_backlog(spine, agent, [counter], numbers)

            yield measure


@asynccontextmanager
async def _asking(setup: Setup) -> AsyncIterator[Measure]:
    async with asker(setup) as ask:

        async def measure(numbers: range) -> float:
            times = []
            for number in numbers:
                start = time.monotonic()
                await ask(number)
                times.append(time.monotonic() - start)
            return MICROSECONDS / percentiles(times)["p50"]

        await measure(range(100))
        yield measure


async def _woken(spine: Spine, counter: Counter, topics: tuple[str, ...] = (TOPIC,)) -> None:
    """Publish now and then until a worker has handled all there is, also one that starts at the present."""
    while not counter.value:
        await fill(spine, range(len(topics)), topics)
        await asyncio.sleep(QUIET_SECONDS)
    handled = 0
    while handled != counter.value:
        handled = counter.value
        await asyncio.sleep(QUIET_SECONDS)


@arm("spine.crowd", count=10_000, quick=400, timeout=300)
async def crowd(setup: Setup) -> Sample:
    """50 agents with 4 topics each, beside one agent with one topic, and beside one with 4 where nothing flows past."""
    names = {
        f"agent-{number}": tuple(f"crowd.t{number}-{place}" for place in range(TOPICS_EACH)) for number in range(AGENTS)
    }
    every_topic = tuple(topic for topics in names.values() for topic in topics)
    own = names["agent-0"]
    await _known(setup, "alone", {"agent-0": (TOPIC,)})
    await _known(setup, "few", {"agent-0": own})
    await _known(setup, "crowd", names)
    return {
        **await _each_in_turn(
            "publish",
            {"alone": _publishing(setup, "alone"), "crowd": _publishing(setup, "crowd", every_topic)},
            2 * setup.count,
        ),
        **await _each_in_turn(
            "deliver",
            {
                "alone": _subscribing(setup, "alone", (TOPIC,), (TOPIC,)),
                "few": _subscribing(setup, "few", own, own),
                "crowd": _subscribing(setup, "crowd", own, every_topic),
            },
            setup.count,
        ),
    }


async def _known(setup: Setup, namespace: str, agents: dict[str, tuple[str, ...]]) -> None:
    """Have every agent known to the namespace, and gone: what is measured is what one costs, not how many there is
    room for on a machine.
    """
    from scripts.bench.arms.spine_agents import work_on_topics
    from spine import Spine

    topics = tuple(topic for each in agents.values() for topic in each)
    counter = new_counter()
    async with Spine(setup.redis_url, namespace=namespace) as spine:
        with beside(work_on_topics, setup.timeout, setup.redis_url, namespace, agents, counter) as everyone:
            await fill(spine, range(len(topics)), topics)
            await reach([counter], len(topics))
            everyone.send("stop")
            await receive(everyone)


@asynccontextmanager
async def _subscribing(
    setup: Setup, namespace: str, own: tuple[str, ...], topics: tuple[str, ...]
) -> AsyncIterator[Measure]:
    """The rate at which the agent works off what is its own, with as many events of each other topic flowing past."""
    from scripts.bench.arms.spine_agents import work_on_topics
    from spine import Spine

    counter = new_counter()
    async with Spine(setup.redis_url, namespace=namespace) as spine:
        with beside(work_on_topics, setup.timeout, setup.redis_url, namespace, {"agent-0": own}, counter):
            await _woken(spine, counter, own)

            async def measure(numbers: range) -> float:
                flow = range(len(numbers) * len(topics) // len(own))
                share = sum(topic_of(number, topics) in own for number in flow)
                return await rate_of_backlog(spine, "agent-0", [counter], flow, topics, share)

            yield measure
