"""Provider: a stand-in for the booking service outside, and the only agent that may look at outcomes."""

import os
from functools import cached_property
from pathlib import Path

from agents.dialogue import load_schema
from agents.events import Answer, Booking
from agents.outcomes import load_outcomes
from spine import Agent, Event, Handling, on

Place = tuple[str, int, str, str]  # conversation, turn, service, intent


class Provider(Agent[None]):
    """Answers as the data in `$CONVERSATIONS` does; confirms what the data does not know."""

    name = "provider"

    @cached_property
    def refused(self) -> set[Place]:
        """The bookings that fail."""
        if not (directory := os.environ.get("CONVERSATIONS")):
            return set()
        outcomes = load_outcomes(Path(directory), load_schema(Path(directory)))
        return {_place(outcome.booking) for known in outcomes.values() for outcome in known if not outcome.booked}

    @on("provider.book")
    async def book(self, event: Event[Booking], ctx: Handling) -> None:
        """Book, or say that it cannot be done."""
        await ctx.reply(Answer(booked=_place(event.payload) not in self.refused))


def _place(booking: Booking) -> Place:
    return booking.conversation, booking.turn, booking.service, booking.intent
