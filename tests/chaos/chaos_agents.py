"""The agent that the chaos tests torment: folds, emits two events, and leaves a trace of the order it worked in."""

from __future__ import annotations

from pydantic import BaseModel

from spine import Agent, Event, Handling, on, reduces


class Ledger(BaseModel):
    """What one key adds up to."""

    count: int = 0
    total: int = 0
    last: int = -1


class Bookkeeper(Agent[Ledger]):
    name = "bookkeeper"
    start = "beginning"

    @reduces("entry.made")
    def add(self, state: Ledger, event: Event[dict[str, int]]) -> Ledger:
        return Ledger(count=state.count + 1, total=state.total + event.payload["amount"], last=event.payload["n"])

    @on("entry.made")
    async def book(self, event: Event[dict[str, int]], ctx: Handling) -> None:
        await ctx.publish("entry.booked", {"n": event.payload["n"], "count": ctx.state.count})
        await ctx.publish("entry.audited", {"n": event.payload["n"], "total": ctx.state.total})


class Copier(Agent):
    name = "copier"

    @on("a.b")
    async def copy(self, event: Event[dict[str, int]], ctx: Handling) -> None:
        await ctx.publish("a.c", {"of": event.seq})
