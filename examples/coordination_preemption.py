"""An urgent cancellation overtakes a backlog of reports, and takes the slot of the one being written."""

from asyncio import sleep

from spine import Agent, on


class Office(Agent):
    name = "office"

    @on("report.wanted", preemptible=True)
    async def write(self, event, ctx):
        total = await ctx.step("total", sum, event.payload["sales"])  # kept when it has to give way in the next line
        await sleep(2)
        await ctx.publish("report.written", {"total": total})

    @on("booking.cancel")
    async def cancel(self, event, ctx):
        await ctx.publish("booking.cancelled", event.payload)
