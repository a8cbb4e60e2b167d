"""Agents that arrange one case in every way there is; each way ends with one event that tells how."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from spine import Agent, Event, Handling, Router, Sequence, confidence, on, on_all, on_missing, rule

ROUTER = Router(rule(confidence >= 0.85, to="auto"), rule(confidence >= 0.5, to="review"), otherwise="human")
GATE_S = 6.0


async def a_moment() -> None:
    """Be at work for long enough to be killed there."""
    await asyncio.sleep(random.random() * 0.02)


class Opener(Agent):
    name = "opener"

    @on("sequence.wanted")
    async def begin(self, event: Event[Any], ctx: Handling) -> None:
        await a_moment()
        await ctx.handoff(Sequence("first", "second", "first", then="sequence.ended"), type="part.wanted")

    @on("route.wanted")
    async def route(self, event: Event[Any], ctx: Handling) -> None:
        await a_moment()
        ctx.route(ROUTER, type="route.chosen")

    @on("fan.wanted")
    async def ask(self, event: Event[Any], ctx: Handling) -> None:
        questions = [{"case": event.payload["case"], "n": n} for n in range(5)]
        came = await ctx.fan_out("oracle.asked", questions, quorum=3, timeout=120)
        await ctx.publish("fan.ended", {"case": event.payload["case"], "came": len(came), "partial": came.partial})

    @on("gather.wanted")
    async def gather(self, event: Event[Any], ctx: Handling) -> None:
        await a_moment()
        questions = [{"case": event.payload["case"], "n": n} for n in range(5)]
        await ctx.gather("oracle.asked", questions, then="gather.ended", quorum=4, timeout=120)


class First(Agent):
    name = "first"

    @on("part.wanted")
    async def work(self, event: Event[Any], ctx: Handling) -> None:
        await a_moment()
        await ctx.done({**event.payload, "hands": [*event.payload.get("hands", ()), "first"]})


class Second(Agent):
    name = "second"

    @on("part.wanted")
    async def work(self, event: Event[Any], ctx: Handling) -> None:
        await a_moment()
        await ctx.done(
            {**event.payload, "hands": [*event.payload["hands"], "second"]}, stop=event.payload["case"] % 5 == 0
        )


class Auto(Agent):
    name = "auto"

    @on("route.chosen")
    async def take(self, event: Event[Any], ctx: Handling) -> None:
        await a_moment()
        await ctx.publish("route.ended", {"case": event.payload["case"], "to": self.name})


class Review(Auto):
    name = "review"


class Human(Auto):
    name = "human"


class Oracle(Agent):
    name = "oracle"

    @on("oracle.asked")
    async def answer(self, event: Event[Any], ctx: Handling) -> None:
        await a_moment()
        await ctx.reply(event.payload)


class Gatekeeper(Agent):
    name = "gatekeeper"

    @on_all("gate.a", "gate.b", "gate.c", within=GATE_S)
    async def open(self, events: dict[str, Event[Any]], ctx: Handling) -> None:
        await a_moment()
        await ctx.publish("gate.ended", {"case": ctx.event.payload["case"], "came": list(events)})

    @on_missing("open")
    async def miss(self, events: dict[str, Event[Any]], missing: tuple[str, ...], ctx: Handling) -> None:
        await a_moment()
        case = next(iter(events.values())).payload["case"]
        await ctx.publish("gate.ended", {"case": case, "came": list(events), "missing": list(missing)})


class Yielding(Agent):
    name = "yielding"

    @on("slow.wanted", preemptible=True)
    async def slow(self, event: Event[Any], ctx: Handling) -> None:
        case = await ctx.step("case", lambda: event.payload["case"])
        await asyncio.sleep(0.05)
        await ctx.publish("slow.ended", {"case": case})

    @on("urgent.wanted")
    async def urgent(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("urgent.ended", {"case": event.payload["case"]})
