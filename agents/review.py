"""Review: reads a conversation again before a booking of which not all was read back to the customer."""

from agents import rules
from agents.events import Requirement, TurnTaken
from spine import Agent, Event, Handling, on


class Review(Agent[None]):
    """Hands back what it can vouch for, and leaves the rest to a person: nothing stays here."""

    name = "review"

    @on("requirement.routed")
    async def check(self, event: Event[Requirement], ctx: Handling) -> None:
        """Every value must have been put to the customer at some time before the yes."""
        booking = event.payload.booking
        heard = set()
        async for earlier in ctx.spine.replay(key=event.context.session_id, types="turn.system", until=event.seq):
            turn = TurnTaken.model_validate(earlier.payload)
            if turn.turn < booking.turn:
                heard |= {(said.service, said.slot, said.canonical) for said in rules.put_to_the_user(turn)}
        unheard = [slot for slot, value in booking.parameters.items() if (booking.service, slot, value) not in heard]
        if unheard:
            await ctx.handoff("desk", reason=f"never put to the customer: {', '.join(unheard)}")
        else:
            await ctx.handoff("scheduling", reason="every value was put to the customer")
