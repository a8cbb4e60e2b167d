"""Document: writes the confirmation of every booking."""

from agents.events import Booking, Notice
from spine import Agent, Event, Handling, on


class Document(Agent[None]):
    """Writes what the customer keeps."""

    name = "document"

    @on("booking.confirmed")
    async def write(self, event: Event[Booking], ctx: Handling) -> None:
        """One confirmed booking, one document."""
        await ctx.publish("document.ready", Notice.about(event.payload, text=confirmation(event.payload)))


def confirmation(booking: Booking) -> str:
    """The text of a confirmation."""
    details = "\n".join(f"  {slot.replace('_', ' ')}: {value}" for slot, value in sorted(booking.parameters.items()))
    return f"Confirmed: {booking.intent} with {booking.service}\n{details}"
