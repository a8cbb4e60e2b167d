"""Provider: a stand-in for the booking service outside, and the only agent that may look at outcomes."""

import os
from pathlib import Path

from agents.events import Answer, Booking, Place, Placed
from agents.outcomes import load_outcomes
from agents.reading import load_schema
from spine import Agent, Event, Handling, on


class Provider(Agent[None]):
    """Answers as the data in `$CONVERSATIONS` does; confirms what the data does not know."""

    name = "provider"

    def __init__(self) -> None:
        directory = os.environ.get("CONVERSATIONS")
        self.refused = refused(Path(directory)) if directory else set()

    @on("provider.book")
    async def book(self, event: Event[Placed], ctx: Handling) -> None:
        """Book, or say that it cannot be done."""
        await ctx.reply(Answer(booked=event.payload.place not in self.refused))

    @on("provider.cancel")
    async def cancel(self, event: Event[Booking], ctx: Handling) -> None:
        """Undo a booking."""
        await ctx.reply(Answer(booked=False))


def refused(directory: Path) -> set[Place]:
    """The bookings that fail, by the data of a directory."""
    outcomes = load_outcomes(directory, load_schema(directory)).values()
    return {outcome.booking.place for known in outcomes for outcome in known if not outcome.booked}
