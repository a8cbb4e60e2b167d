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
from spine.worker import Worker
from spine.worker.collector import collect_seldom


class Bench:
    """What the handlers of this process tell the process that measures."""

    counter: Counter
    times: list[float]


class Counting(Agent[Any]):
    """Handles and does nothing."""

    name = "counting"
    start = "beginning"

    @on(TOPIC)
    async def handle(self, event: Event[Any], ctx: Any) -> None:
        Bench.counter.value += 1


class CountingNew(Agent[Any]):
    """The same for what is published from now on."""

    name = "counting-new"

    @on(TOPIC)
    async def handle(self, event: Event[Any], ctx: Any) -> None:
        Bench.counter.value += 1


class Emitting(Agent[Any]):
    """Emits one event for each that it handles."""

    name = "emitting"
    start = "beginning"

    @on(TOPIC)
    async def handle(self, event: Event[Any], ctx: Any) -> None:
        await ctx.publish(DONE, event.payload)
        Bench.counter.value += 1


class Timing(Agent[Any]):
    """Notes how long each event was on its way."""

    name = "timing"
    start = "beginning"

    @on(TOPIC)
    async def handle(self, event: Event[Any], ctx: Any) -> None:
        Bench.times.append(time.monotonic() - event.payload["sent"])
        Bench.counter.value += 1


class Answering(Agent[Any]):
    """Answers with what it was asked."""

    name = "answering"

    @on(ASK)
    async def answer(self, event: Event[Any], ctx: Any) -> None:
        await ctx.reply(event.payload)


def subscriber_to(name: str, topics: tuple[str, ...]) -> type[Agent[Any]]:
    """An agent that counts what comes on some topics, one handler each."""

    def handler(topic: str) -> Any:
        async def handle(self: Agent[Any], event: Event[Any], ctx: Any) -> None:
            Bench.counter.value += 1

        return on(topic)(handle)

    members = {f"handle_{place}": handler(topic) for place, topic in enumerate(topics)}
    return type(name, (Agent,), {"name": name, "start": "beginning", **members})


AGENTS = {agent.name: agent for agent in (Counting, CountingNew, Emitting, Timing, Answering)}


async def work(_: Connection, url: str, namespace: str, agent: str, counter: Counter) -> None:
    """A worker process of one agent, set up as ``spine run`` does."""
    collect_seldom()
    Bench.counter = counter
    async with Spine(url, namespace=namespace) as spine:
        await run(spine, AGENTS[agent])


async def work_on_topics(
    connection: Connection, url: str, namespace: str, agents: dict[str, tuple[str, ...]], counter: Counter
) -> None:
    """A worker process of agents that each read some topics; told to stop, it gives its leases back and says so."""
    Bench.counter = counter
    async with Spine(url, namespace=namespace) as spine:
        async with Worker(spine, *(subscriber_to(name, topics) for name, topics in agents.items())):
            await asyncio.to_thread(connection.recv)
        connection.send("stopped")


async def work_timed(connection: Connection, url: str, namespace: str, counter: Counter) -> None:
    """A worker process that, asked for it, sends how long each event took to reach the handler."""
    Bench.counter, Bench.times = counter, []
    async with Spine(url, namespace=namespace) as spine, Worker(spine, Timing):
        await asyncio.to_thread(connection.recv)
        connection.send(Bench.times)
