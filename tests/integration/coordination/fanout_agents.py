"""Two that ask many for a quote, at once or as they come, and the dealers that give one; the test meets them all."""

from typing import Any

from meeting import meet

from spine import Agent, Event, Handling, on


class Buyer(Agent):
    name = "buyer"

    @on("purchase.wanted")
    async def buy(self, event: Event[Any], ctx: Handling) -> None:
        await meet(ctx, "asking")
        quotes = await ctx.fan_out("quote.wanted", [{"n": n} for n in range(20)], quorum=15, timeout=40)
        await meet(ctx, "buyer")
        await ctx.publish("purchase.made", {"prices": [quote["price"] for quote in quotes.value]})


class Collector(Agent):
    """Takes the quotes as they come, and meets the test with some of them in hand."""

    name = "collector"

    @on("purchase.wanted")
    async def collect(self, event: Event[Any], ctx: Handling) -> None:
        await meet(ctx, "asking")
        prices: list[int] = []
        stream = ctx.fan_out_stream("quote.wanted", [{"n": n} for n in range(20)], quorum=15, timeout=40)
        async for answer in stream:
            prices.append(answer.payload["price"])
            if len(prices) == 5:
                await meet(ctx, "collector")
        await ctx.publish("purchase.made", {"prices": prices})


class Dealer(Agent):
    name = "dealer"

    @on("quote.wanted")
    async def quote(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.publish("quote.made", {"n": event.payload["n"]})
        if event.payload["n"] >= 10:
            await meet(ctx, "dealer")
        await ctx.reply({"price": event.payload["n"]})
