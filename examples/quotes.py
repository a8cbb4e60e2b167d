"""A forty-line agent: it quotes prices, and remembers who is a good customer. spine run examples.quotes:Quotes"""

from pydantic import BaseModel

from spine import Agent, Event, Handling, on, reduces

PRICES = {7: 250, 8: 900}  # sku -> cents
GOOD_CUSTOMER = 10  # pieces ordered


class Wish(BaseModel):
    customer: str
    sku: int
    quantity: int = 1


class Customer(BaseModel):
    ordered: int = 0


class Quotes(Agent[Customer]):
    """Keeps one `Customer` for each key, folded from the orders in the log: nobody has to be asked."""

    name = "quotes"

    @reduces("order.placed")
    def remember(self, state: Customer, event: Event[Wish]) -> Customer:
        return Customer(ordered=state.ordered + event.payload.quantity)

    @on("quote.wanted")
    async def quote(self, event: Event[Wish], ctx: Handling) -> None:
        wish, customer = event.payload, ctx.state
        if wish.sku not in PRICES:
            await ctx.reply({"available": False})
            return
        discount = 0.1 if customer.ordered >= GOOD_CUSTOMER else 0.0
        cents = round(PRICES[wish.sku] * wish.quantity * (1 - discount))
        await ctx.publish("quote.given", {"sku": wish.sku, "quantity": wish.quantity, "cents": cents})
        await ctx.reply({"available": True, "cents": cents, "discount": discount})
