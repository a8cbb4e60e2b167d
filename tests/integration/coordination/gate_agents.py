"""Agents with a gate of two and of three, and those that bring what it waits for; the test meets them in the middle."""

from typing import Any

from meeting import meet

from spine import Agent, Event, Handling, on, on_all, on_missing

Events = dict[str, Event[Any]]


class Scheduling(Agent):
    name = "scheduling"

    @on_all("requirement.complete", "payment.cleared", within=60)
    async def book(self, events: Events, ctx: Handling) -> None:
        await ctx.publish("booking.made", {type: event.payload["n"] for type, event in events.items()})
        await meet(ctx, "book")


class Hasty(Agent):
    """Waits for one second only."""

    name = "hasty"

    @on_all("requirement.complete", "payment.cleared", "room.found", within=1)
    async def book(self, events: Events, ctx: Handling) -> None:
        await ctx.publish("booking.made", {type: event.payload["n"] for type, event in events.items()})

    @on_missing("book")
    async def remind(self, events: Events, missing: tuple[str, ...], ctx: Handling) -> None:
        await ctx.publish("customer.reminded", {"came": list(events), "missing": list(missing)})
        await meet(ctx, "remind")


class Inquiry(Agent):
    """Brings the one half of what `Scheduling` waits for."""

    name = "inquiry"

    @on("order.placed")
    async def complete(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("requirement.complete", {"n": event.payload["n"]})
        await meet(ctx, "inquiry")


class Till(Agent):
    """Brings the other half."""

    name = "till"

    @on("order.placed")
    async def charge(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("payment.cleared", {"n": event.payload["n"]})
        await meet(ctx, "till")
