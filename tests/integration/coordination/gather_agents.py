"""Agents around a durable gather: one asks and may die, some answer, another one decides."""

from typing import Any

from meeting import meet

from spine import Agent, Answers, Event, Handling, on


class Asker(Agent):
    name = "asker"

    @on("survey.wanted")
    async def ask(self, event: Event[Any], ctx: Handling) -> None:
        await ctx.gather("survey.question", [{"n": n} for n in range(10)], then="survey.closed", quorum=8, timeout=30)
        await meet(ctx, "asker")


class Panel(Agent):
    name = "panel"

    @on("survey.question")
    async def answer(self, event: Event[Any], ctx: Handling) -> None:
        if event.payload["n"] >= 8:
            await meet(ctx, "never")
        if event.payload["n"] >= 4:
            await meet(ctx, "panel")
        await ctx.publish("survey.answered", {"n": event.payload["n"]})
        await ctx.reply({"n": event.payload["n"]})


class Judge(Agent):
    name = "judge"

    @on("survey.closed")
    async def decide(self, event: Event[Answers], ctx: Handling) -> None:
        answers = event.payload
        await ctx.publish("survey.decided", {"sum": sum(one["n"] for one in answers.payloads), "of": len(answers)})
