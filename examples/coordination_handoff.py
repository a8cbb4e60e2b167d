"""Triage hands work to an expert, who answers whoever asked; a sequence names the agents beforehand."""

from spine import Agent, Sequence, on


class Triage(Agent):
    name = "triage"

    @on("question.asked")
    async def triage(self, event, ctx):
        await ctx.handoff(Sequence("expert", "editor"), type="question.referred", reason="needs an expert")


class Expert(Agent):
    name = "expert"

    @on("question.referred")
    async def answer(self, event, ctx):
        await ctx.done({**event.payload, "answer": "42"})  # on to the editor
