"""Scheduling: books what is complete, and nothing else."""

from agents.events import Answer, Booking
from spine import Agent, Event, Handling, on

PROVIDER_SECONDS = 30.0  # how long the outside service may take to answer


class Scheduling(Agent[None]):
    """Acts on `requirement.complete` alone, so that nothing is booked on a guess."""

    name = "scheduling"

    @on("requirement.complete")
    async def book(self, event: Event[Booking], ctx: Handling) -> None:
        """What is complete is booked."""
        await request_booking(event.payload, ctx)


async def request_booking(booking: Booking, ctx: Handling) -> None:
    """Ask the outside service, and record the request with its outcome: both are stored, or neither."""
    await ctx.publish("booking.requested", booking)
    reply = await ctx.request("provider.book", booking, timeout=PROVIDER_SECONDS)
    answer = Answer.model_validate(reply.payload)
    await ctx.publish("booking.confirmed" if answer.booked else "booking.failed", booking)
