"""Scheduling: books what is complete, and nothing else."""

from datetime import timedelta

from pydantic import BaseModel

from agents.calendar import CALENDARS
from agents.events import Answer, Booking, Cancellation, Placed, Requirement, Search
from spine import Agent, Event, Handling, best, on, on_all, reduces

ANSWERS_WANTED = 2  # of the calendars: a slow one keeps nobody waiting
CALENDAR_SECONDS = 2.0  # then one is enough; without any the provider chooses
PROVIDER_SECONDS = 30.0  # how long the outside service may take to answer
REGRETS = timedelta(days=1)  # for so long a booking can be taken back


class Case(BaseModel):
    """What is known of one booking."""

    taken_back: bool = False


class Scheduling(Agent[Case]):
    """Acts on what was routed here alone, so that nothing is booked on a guess."""

    name = "scheduling"

    @reduces("customer.cancelled")
    def taken_back(self, case: Case, event: Event[Cancellation]) -> Case:
        """It comes urgently: known before the booking is made, even where that has waited for longer."""
        return Case(taken_back=True)

    @on("requirement.routed")
    async def book(self, event: Event[Requirement], ctx: Handling) -> None:
        """What is complete is booked, unless the customer does not want it any more."""
        if ctx.state.taken_back:
            await ctx.publish("booking.cancelled", event.payload.booking)
        else:
            await request_booking(event.payload.booking, ctx)

    @on_all("customer.cancelled", "booking.confirmed", within=REGRETS, models={"booking.confirmed": Booking})
    async def undo(self, events: dict[str, Event[Booking]], ctx: Handling) -> None:
        """Both have come, so it was made: in whichever order they came, it is undone once."""
        booking = events["booking.confirmed"].payload
        await ctx.request("provider.cancel", booking, timeout=PROVIDER_SECONDS)
        await ctx.publish("booking.cancelled", booking)


async def request_booking(booking: Booking, ctx: Handling) -> None:
    """Ask the world outside, and record the request with its outcome: both are stored, or neither."""
    await ctx.publish("booking.requested", booking)
    placed = Placed(**booking.model_dump(), calendar=await choose_calendar(booking, ctx))
    reply = await ctx.request("provider.book", placed, timeout=PROVIDER_SECONDS)
    booked = Answer.model_validate(reply.payload).booked
    await ctx.publish("booking.confirmed" if booked else "booking.failed", booking)


async def choose_calendar(booking: Booking, ctx: Handling) -> str:
    """Ask all calendars at once, and take the best of those that answer first; empty if all are silent."""
    searches = [Search(calendar=calendar, booking=booking) for calendar in CALENDARS]
    slots = await ctx.fan_out(
        "calendar.find_slot", searches, quorum=ANSWERS_WANTED, timeout=CALENDAR_SECONDS, reducer=best(by="fit")
    )
    return slots.value.payload["calendar"] if slots.value else ""
