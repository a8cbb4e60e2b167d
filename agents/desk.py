"""Desk: a stand-in for the people who look at what no agent should decide."""

from agents.events import Requirement
from spine import Agent, Event, Handling, on


class Desk(Agent[None]):
    """The queue of a person, who here says yes to everything at once. Put yours in this place."""

    name = "desk"

    @on("requirement.routed")
    async def look(self, event: Event[Requirement], ctx: Handling) -> None:
        """What a person has approved is booked."""
        await ctx.handoff("scheduling", reason="approved by a person")
