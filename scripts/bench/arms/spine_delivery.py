"""The spine's workers: one process, two processes, emitting handlers, wake-up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.arms.raw_wakeups import LIGHT_LOAD
from scripts.bench.arms.spine_log import NAMESPACE, fill
from scripts.bench.events import KEYS, TOPIC, payload_of
from scripts.bench.load import paced, percentiles, reach
from scripts.bench.processes import Counter, beside, new_counter, receive

if TYPE_CHECKING:
    from spine import Context, Spine

SPREAD_SECONDS = 20.0
PAUSED_SECONDS = 0.5
"""Until every worker has heard that the agent is paused."""


@arm("spine.worker", count=60_000, quick=6_000)
async def worker(setup: Setup) -> Sample:
    """One worker process with a no-op handler: order per key, committed."""
    return await drained(setup, "counting", 1)


@arm("spine.worker_emit", count=60_000, quick=6_000)
async def worker_emit(setup: Setup) -> Sample:
    """A handler that emits one event, committed together."""
    return await drained(setup, "emitting", 1)


@arm("spine.two_workers", count=120_000, quick=12_000)
async def two_workers(setup: Setup) -> Sample:
    """Two worker processes of one agent."""
    return await drained(setup, "counting", 2)


async def drained(setup: Setup, agent: str, processes: int) -> Sample:
    """Events per second that workers, already warm, take off a backlog."""
    from scripts.bench.arms.spine_agents import work
    from spine import Spine

    counters = [new_counter() for _ in range(processes)]
    with ExitStack() as stack:
        for counter in counters:
            stack.enter_context(beside(work, setup.timeout, setup.redis_url, NAMESPACE, agent, counter))
        async with Spine(setup.redis_url, namespace=NAMESPACE) as spine:
            warm = await spread(spine, counters, setup.warmup)
            return {"rate": await rate_of_backlog(spine, agent, counters, range(warm, warm + setup.count))}


async def spread(spine: Spine, counters: Sequence[Counter], least: int) -> int:
    """Publish until every worker has had some and `least` are handled; how many were published."""
    published, until = 0, time.monotonic() + SPREAD_SECONDS
    while published < least or not all(counter.value for counter in counters):
        if time.monotonic() > until:
            shares = [counter.value for counter in counters]
            raise TimeoutError(f"the workers did not share the partitions within {SPREAD_SECONDS:.0f} s: {shares}")
        await fill(spine, range(published, published + 512))
        published += 512
        await reach(counters, published)
    return published


async def rate_of_backlog(
    spine: Spine,
    agent: str,
    counters: Sequence[Counter],
    numbers: range,
    topics: Sequence[str] = (TOPIC,),
    own: int | None = None,
) -> float:
    """Publish `numbers` while the agent is paused, then time how it works off what is its `own` (all of them)."""
    own = len(numbers) if own is None else own
    await spine.pause(agent)
    await asyncio.sleep(PAUSED_SECONDS)
    await fill(spine, numbers, topics)
    before = sum(counter.value for counter in counters)
    await spine.resume(agent)
    start = await reach(counters, before + 1)
    first = sum(counter.value for counter in counters)
    end = await reach(counters, before + own)
    return (before + own - first) / (end - start)


@arm("spine.wake", count=2_000, quick=300)
async def wake(setup: Setup) -> Sample:
    """From before `publish` to the first line of the handler in another process, 200 a second."""
    from scripts.bench.arms.spine_agents import work_timed
    from scripts.bench.arms.spine_events import context
    from spine import Spine

    contexts = [context(number) for number in range(KEYS)]
    counter = new_counter()
    with beside(work_timed, setup.timeout, setup.redis_url, NAMESPACE, counter) as worker:
        async with Spine(setup.redis_url, namespace=NAMESPACE) as spine:
            publish = _stamped(spine, contexts)
            await publish(0)
            await reach([counter], 1)  # the worker is up
            await paced(publish, setup, LIGHT_LOAD)
            await reach([counter], setup.total + 1)
            worker.send("times")
            times: list[float] = await receive(worker)
    return percentiles(times[-setup.count :])


def _stamped(spine: Spine, contexts: Sequence[Context]) -> Callable[[int], Awaitable[object]]:
    async def publish(number: int) -> None:
        payload = payload_of(number) | {"sent": time.monotonic()}
        await spine.publish(TOPIC, payload, context=contexts[number % len(contexts)])

    return publish
