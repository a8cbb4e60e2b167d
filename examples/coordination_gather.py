"""Collect votes for as long as an hour; the verdict comes even if the one who asked is gone."""

from spine import Agent, Answers, Event, majority, on


class Chair(Agent):
    name = "chair"

    @on("motion.made")
    async def call(self, event, ctx):
        await ctx.gather("vote.wanted", event.payload, to=["ann", "bob", "cid"], then="votes.counted", timeout=3600)

    @on("votes.counted")
    async def declare(self, event: Event[Answers], ctx):
        await ctx.publish("motion.settled", {"verdict": majority("vote")(event.payload.answers)})
