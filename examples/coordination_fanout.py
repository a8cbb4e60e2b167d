"""Ask several calendars at once, and take the surest of the first three answers."""

from spine import Agent, best, on


class Scheduling(Agent):
    name = "scheduling"

    @on("slot.wanted")
    async def find(self, event, ctx):
        days = [{"day": day} for day in event.payload["days"]]
        slots = await ctx.fan_out("calendar.find_slot", days, quorum=3, timeout=2.0, reducer=best("confidence"))
        await ctx.reply({"slot": slots.value.payload if slots.value else None, "partial": slots.partial})
