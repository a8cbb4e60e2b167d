"""A buyer that asks many for a quote, and the dealers that give one; the test meets both in the middle."""

from typing import Any

from meeting import meet

from spine import Agent, Event, Handling, on


class Buyer(Agent):
    name = "buyer"

    @on("purchase.wanted")
    async def buy(self, event: Event[Any], ctx: Handling) -> None:
        quotes = await ctx.fan_out("quote.wanted", [{"n": n} for n in range(20)], quorum=15, timeout=40)
        await meet(ctx, "buyer")
        await ctx.publish("purchase.made", {"prices": [q["price"] for q in quotes.value], "partial": quotes.partial})


class Dealer(Agent):
    name = "dealer"

    @on("quote.wanted")
    async def quote(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("quote.made", {"n": event.payload["n"]})
        if event.payload["n"] >= 10:
            await meet(ctx, "dealer")
        await ctx.reply({"price": event.payload["n"]})
