"""A desk that routes by confidence, and those it routes to; the test meets all of them in the middle."""

from typing import Any

from meeting import meet

from spine import Agent, Event, Handling, Router, confidence, on, rule

ROUTER = Router(rule(confidence >= 0.8, to="auto"), otherwise="person")


class Front(Agent):
    name = "front"

    @on("answer.drafted")
    async def send(self, event: Event[Any], ctx: Handling) -> None:
        ctx.route(ROUTER, type="answer.routed")
        await meet(ctx, "front")


class Auto(Agent):
    name = "auto"

    @on("answer.routed")
    async def take(self, event: Event[Any], ctx: Handling) -> None:
        await meet(ctx, ctx.agent)
        await ctx.publish("answer.sent", {"by": ctx.agent, "why": event.context.handoffs[-1].reason})
        await ctx.reply({"by": ctx.agent})


class Person(Auto):
    name = "person"
