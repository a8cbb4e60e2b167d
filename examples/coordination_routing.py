"""Send what is sure, let somebody look at what is likely, and leave the rest to a person."""

from spine import Agent, Router, confidence, on, rule

ROUTER = Router(
    rule(confidence >= 0.85, to="auto"),
    rule(confidence >= 0.5, to="review"),
    otherwise="human",
)


class Concierge(Agent):
    name = "concierge"

    @on("answer.drafted")
    async def send(self, event, ctx):
        ctx.route(ROUTER, type="answer.routed")
