"""The team of the coordination experiment: four agents that each know a part, and one that acts on all of it.

The same agents, the same handlers' work and the same arrivals in every arm; what differs is how the acting agent comes
to know what the others know:

- `facts`: each agent publishes what it learns; the acting agent folds it and acts when all of it is there.
- `queued`: it asks the four, one after another; a question waits until its agent has done what came before.
- `beside`: it asks the four, one after another; a question is answered at once, beside the work that is under way.

Work is waiting (as for a model or an API), exponentially distributed, its length a function of conversation, turn and
agent alone.
"""

from __future__ import annotations

import asyncio
import math
import os
import zlib
from typing import Any

from pydantic import BaseModel

from spine import Agent, Event, Handling, on, reduces

TURNS = 3
KNOWING = ("inquiry", "calendar", "document", "account")
WORK_S = float(os.environ.get("EXPERIMENT_WORK_S", "0.02"))
ANSWER_S = WORK_S / 20
MODE = os.environ.get("EXPERIMENT_MODE", "facts")
CALL_TIMEOUT_S = 60.0


def work_s(*what: Any) -> float:
    """Return how long a piece of work takes: exponential, the same in every arm."""
    uniform = (zlib.crc32(repr(what).encode()) + 1) / (2**32 + 1)
    return -math.log(uniform) * WORK_S


class Known(BaseModel):
    """What the acting agent has been told: agent → number of turns it has worked through."""

    turns: dict[str, int] = {}
    booked: bool = False

    @property
    def complete(self) -> bool:
        """Everything about every turn is known."""
        return all(self.turns.get(name, 0) == TURNS for name in KNOWING)


class Knowing(Agent[Any]):
    """An agent that works through every turn, one at a time, and knows how far it is."""

    def __init__(self) -> None:
        self.desk = asyncio.Lock()
        self.known: dict[str, int] = {}

    @on("turn.received")
    async def learn(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        conversation, turn = event.payload["conversation"], event.payload["turn"]
        async with self.desk:
            await asyncio.sleep(work_s(conversation, turn, self.name))
        self.known[conversation] = turn
        if MODE == "facts":
            await ctx.publish("fact.learned", {"conversation": conversation, "agent": self.name, "turn": turn})

    async def answer(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        """Say how much is known."""
        if MODE == "queued":
            async with self.desk:
                await asyncio.sleep(ANSWER_S)
        else:
            await asyncio.sleep(ANSWER_S)
        await ctx.reply({"turn": self.known.get(event.payload["conversation"], 0)})


class Inquiry(Knowing):
    name = "inquiry"

    @on("ask.inquiry")
    async def asked(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        await self.answer(event, ctx)


class Calendar(Knowing):
    name = "calendar"

    @on("ask.calendar")
    async def asked(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        await self.answer(event, ctx)


class Document(Knowing):
    name = "document"

    @on("ask.document")
    async def asked(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        await self.answer(event, ctx)


class Account(Knowing):
    name = "account"

    @on("ask.account")
    async def asked(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        await self.answer(event, ctx)


class Booking(Agent[Known]):
    """The acting agent: books once, after the last turn."""

    name = "booking"

    def __init__(self) -> None:
        self.desk = asyncio.Lock()

    @reduces("fact.learned")
    def told(self, state: Known, event: Event[dict[str, Any]]) -> Known:
        return Known(turns={**state.turns, event.payload["agent"]: event.payload["turn"]}, booked=state.booked)

    @on("fact.learned")
    async def fact(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        if ctx.state.complete:
            await self.book(event, ctx, ctx.state.turns)

    @on("turn.received")
    async def turn(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        if MODE == "facts" or event.payload["turn"] < TURNS:
            return
        known = {}
        for name in KNOWING:
            question = {"conversation": event.payload["conversation"]}
            reply = await ctx.request(f"ask.{name}", question, key=f"{event.key}/{name}", timeout=CALL_TIMEOUT_S)
            known[name] = reply.payload["turn"]
        await self.book(event, ctx, known)

    async def book(self, event: Event[dict[str, Any]], ctx: Handling, known: dict[str, int]) -> None:
        """Do the booking, on what is known."""
        conversation = event.payload["conversation"]
        async with self.desk:
            await asyncio.sleep(work_s(conversation, "booking"))
        early = any(known.get(name, 0) < TURNS for name in KNOWING)
        await ctx.publish("booking.made", {"conversation": conversation, "early": early})


TEAM = (Inquiry, Calendar, Document, Account, Booking)
