"""Agents that hand work over, and wait for the test on the way."""

from typing import Any

from meeting import meet

from spine import Agent, Event, Handling, Sequence, on

TRIP = Sequence("gather", "book", "confirm", then="trip.done")


class Desk(Agent):
    name = "desk"

    @on("case.opened")
    async def open(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.handoff("expert", type="case.referred", reason="beyond me")
        await meet(ctx, "desk")


class Expert(Agent):
    name = "expert"

    @on("case.referred")
    async def solve(self, event: Event[Any], ctx: Handling) -> None:
        await meet(ctx, "expert")
        await ctx.publish("case.solved", {"case": event.payload["case"]})
        await ctx.reply({"by": ctx.agent})


class Opener(Agent):
    """Hands over to a whole sequence."""

    name = "opener"

    @on("trip.asked")
    async def open(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.handoff(TRIP, type="trip.wanted", reason="a trip")
        await meet(ctx, "opener")


class Step(Agent):
    """What the three agents of the trip have in common."""

    @on("trip.wanted")
    async def work(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("trip.step", {"by": ctx.agent})
        await meet(ctx, ctx.agent)
        await ctx.done({"seen": [*event.payload["seen"], ctx.agent]})


class Gather(Step):
    name = "gather"


class Book(Step):
    name = "book"


class Confirm(Step):
    name = "confirm"
