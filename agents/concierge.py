"""Concierge: decides who takes care of a booking, and tells the customer what came of it."""

from agents.events import Booking, Notice, Requirement
from spine import Agent, Event, Handling, Router, confidence, on, rule

ROUTER = Router(
    rule(confidence >= 0.85, to="scheduling"),
    rule(confidence >= 0.6, to="review"),
    otherwise="desk",
)


class Concierge(Agent[None]):
    """The one who speaks to the customer."""

    name = "concierge"

    @on("requirement.complete")
    async def route(self, event: Event[Requirement], ctx: Handling) -> None:
        """What is certain is booked at once; what is not is looked at first."""
        ctx.route(ROUTER, type="requirement.routed")

    @on("document.ready")
    async def booked(self, event: Event[Notice], ctx: Handling) -> None:
        """Hand over the confirmation."""
        await ctx.publish("customer.answered", Notice.about(event.payload, text=f"All set. {event.payload.text}"))

    @on("booking.failed")
    async def failed(self, event: Event[Booking], ctx: Handling) -> None:
        """Say so, and leave the next step to the customer."""
        text = f"I am sorry, {event.payload} did not work out. Would you like to try something else?"
        await ctx.publish("customer.answered", Notice.about(event.payload, text=text))

    @on("booking.cancelled")
    async def cancelled(self, event: Event[Booking], ctx: Handling) -> None:
        """Say that nothing is left of it."""
        await ctx.publish("customer.answered", Notice.about(event.payload, text=f"{event.payload} is cancelled."))
