"""Concierge: tells the customer what came of a booking."""

from agents.events import Booking, Notice
from spine import Agent, Event, Handling, on


class Concierge(Agent[None]):
    """The one who speaks to the customer."""

    name = "concierge"

    @on("document.ready")
    async def booked(self, event: Event[Notice], ctx: Handling) -> None:
        """Hand over the confirmation."""
        await ctx.publish("customer.answered", Notice.about(event.payload, f"All set. {event.payload.text}"))

    @on("booking.failed")
    async def failed(self, event: Event[Booking], ctx: Handling) -> None:
        """Say so, and leave the next step to the customer."""
        text = f"I am sorry, {event.payload} did not work out. Would you like to try something else?"
        await ctx.publish("customer.answered", Notice.about(event.payload, text))
