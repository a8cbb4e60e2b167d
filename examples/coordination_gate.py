"""Book when the requirement is complete and the payment cleared, in whatever order; remind after a minute."""

from spine import Agent, on_all, on_missing


class Scheduling(Agent):
    name = "scheduling"

    @on_all("requirement.complete", "payment.cleared", within=60)
    async def book(self, events, ctx):
        await ctx.publish("booking.confirmed", events["requirement.complete"].payload)

    @on_missing("book")
    async def remind(self, events, missing, ctx):
        await ctx.publish("customer.reminded", {"missing": missing})
