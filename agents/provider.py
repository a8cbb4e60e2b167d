"""Provider: a stand-in for the booking service outside, and the only agent that may look at outcomes."""

import os
from pathlib import Path

from agents.dialogue import load_schema
from agents.events import Answer, Booking
from agents.outcomes import load_outcomes
from spine import Agent, Event, Handling, on

Place = tuple[str, int, str, str]  # conversation, turn, service, intent


class Provider(Agent[None]):
    """Answers as the data in `$CONVERSATIONS` does; confirms what the data does not know."""

    name = "provider"

    def __init__(self) -> None:
        directory = os.environ.get("CONVERSATIONS")
        self.refused = refused(Path(directory)) if directory else set()

    @on("provider.book")
    async def book(self, event: Event[Booking], ctx: Handling) -> None:
        """Book, or say that it cannot be done."""
        await ctx.reply(Answer(booked=_place(event.payload) not in self.refused))


def refused(directory: Path) -> set[Place]:
    """The bookings that fail, by the data of a directory."""
    outcomes = load_outcomes(directory, load_schema(directory)).values()
    return {_place(outcome.booking) for known in outcomes for outcome in known if not outcome.booked}


def _place(booking: Booking) -> Place:
    return booking.conversation, booking.turn, booking.service, booking.intent
