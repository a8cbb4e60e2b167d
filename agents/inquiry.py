"""Inquiry: listens to the conversation until a booking is agreed and complete."""

from agents import rules
from agents.events import Closed, Gathered, Opened, TurnTaken
from agents.rules import Gathering
from spine import Agent, Event, Handling, on, reduces


class Inquiry(Agent[Gathering]):
    """Gathers requirements. Its state is what is known of a conversation; `agents.rules` says when that is enough."""

    name = "inquiry"

    @reduces("conversation.opened")
    def opened(self, known: Gathering, event: Event[Opened]) -> Gathering:
        """What can be booked is known from the start."""
        return rules.opened(known, event.payload)

    @reduces("turn.system")
    def system_spoke(self, known: Gathering, event: Event[TurnTaken]) -> Gathering:
        """What the system offers or asks to confirm gives the user's next yes its meaning."""
        return rules.system_spoke(known, event.payload)

    @reduces("turn.user")
    def user_spoke(self, known: Gathering, event: Event[TurnTaken]) -> Gathering:
        """A yes may agree to a booking."""
        return rules.user_spoke(known, event.payload)

    @on("turn.user")
    async def complete(self, event: Event[TurnTaken], ctx: Handling) -> None:
        """What this turn agreed to is complete: it may be acted on now, and not before."""
        known: Gathering = ctx.state
        for requirement in known.agreed:
            if requirement.booking.turn == event.payload.turn:
                key = requirement.booking.key(event.key)
                await ctx.publish("requirement.complete", requirement, key=key)

    @on("conversation.closed")
    async def closed(self, event: Event[Closed], ctx: Handling) -> None:
        """Every turn has been handled: say what there is to wait for."""
        known: Gathering = ctx.state
        gathered = Gathered(conversation=event.payload.conversation, bookings=len(known.agreed))
        await ctx.publish("requirements.gathered", gathered)
