"""The agents of the spine's arms. Imported by the processes that run them, never by the harness itself."""

from __future__ import annotations

import asyncio
import time
from multiprocessing.connection import Connection
from typing import Any

from scripts.bench.arms.spine_events import ASK, DONE
from scripts.bench.events import TOPIC
from scripts.bench.processes import Counter
from spine import Agent, Event, Spine, on, run


class Bench:
    """What the handlers of this process tell the process that measures."""

    counter: Counter
    times: list[float]


class Counting(Agent):
    """Handles and does nothing."""

    name = "counting"
    start = "beginning"

    @on(TOPIC)
    async def handle(self, event: Event, ctx: Any) -> None:
        Bench.counter.value += 1


class CountingNew(Agent):
    """The same for what is published from now on."""

    name = "counting-new"

    @on(TOPIC)
    async def handle(self, event: Event, ctx: Any) -> None:
        Bench.counter.value += 1


class Emitting(Agent):
    """Emits one event for each that it handles."""

    name = "emitting"
    start = "beginning"

    @on(TOPIC)
    async def handle(self, event: Event, ctx: Any) -> None:
        await ctx.publish(DONE, event.payload)
        Bench.counter.value += 1


class Timing(Agent):
    """Notes how long each event was on its way."""

    name = "timing"
    start = "beginning"

    @on(TOPIC)
    async def handle(self, event: Event, ctx: Any) -> None:
        Bench.times.append(time.monotonic() - event.payload["sent"])


class Answering(Agent):
    """Answers with what it was asked."""

    name = "answering"

    @on(ASK)
    async def answer(self, event: Event, ctx: Any) -> None:
        await ctx.reply(event.payload)


def subscriber_to(name: str, topics: tuple[str, ...]) -> type[Agent]:
    """An agent that counts what comes on some topics, one handler each."""

    def handler(topic: str) -> Any:
        async def handle(self: Agent, event: Event, ctx: Any) -> None:
            Bench.counter.value += 1

        return on(topic)(handle)

    members = {f"handle_{place}": handler(topic) for place, topic in enumerate(topics)}
    return type(name, (Agent,), {"name": name, "start": "beginning", **members})


AGENTS = {agent.name: agent for agent in (Counting, CountingNew, Emitting, Timing, Answering)}


async def work(_: Connection, url: str, namespace: str, agent: str, counter: Counter) -> None:
    """A worker process of one agent."""
    Bench.counter = counter
    async with Spine(url, namespace=namespace) as spine:
        await run(spine, AGENTS[agent])


async def work_on_topics(
    _: Connection, url: str, namespace: str, agents: dict[str, tuple[str, ...]], counter: Counter
) -> None:
    """A worker process of agents that each read some topics."""
    Bench.counter = counter
    async with Spine(url, namespace=namespace) as spine:
        await run(spine, *(subscriber_to(name, topics) for name, topics in agents.items()))


async def work_timed(connection: Connection, url: str, namespace: str, total: int) -> None:
    """A worker process that sends how long each of `total` events took to reach the handler."""
    Bench.times = []
    async with Spine(url, namespace=namespace) as spine:
        worker = asyncio.create_task(run(spine, Timing), name="worker")
        while len(Bench.times) < total:
            if worker.done():
                worker.result()
                raise RuntimeError("the worker ended before all events came")
            await asyncio.sleep(0.05)
        connection.send(Bench.times)
        await worker
