"""An agent that answers at once, as soon as the test lets it."""

from typing import Any, ClassVar

from meeting import meet

from spine import Agent, Event, Handling, on


class Echo(Agent):
    name = "echo"
    passed: ClassVar[bool] = False

    @on("echo.wanted")
    async def answer(self, event: Event[Any], ctx: Handling) -> None:
        if not Echo.passed:
            await meet(ctx, "echo")
            Echo.passed = True
        await ctx.reply({"n": event.payload["n"]})
