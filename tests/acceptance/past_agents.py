"""Agents whose states the commands look at."""

from __future__ import annotations

import random
from typing import Any

from pydantic import BaseModel

from spine import Agent, Event, Handling, Projection, on, reduces


class Account(BaseModel):
    total: int = 0
    moves: dict[str, int] = {}
    last: list[int] = []


class Accounts(Agent[Account]):
    name = "accounts"
    start = "beginning"
    snapshot_events = 2

    @reduces("money.in", "money.out")
    def move(self, state: Account, event: Event[dict[str, Any]]) -> Account:
        amount = event.payload["amount"]
        moves = {**state.moves, event.type: state.moves.get(event.type, 0) + 1}
        return Account(total=state.total + amount, moves=moves, last=[amount, *state.last][:2])

    @on("money.in")
    async def moved(self, event: Event[dict[str, Any]], ctx: Handling) -> None:
        if event.payload.get("fail"):
            raise RuntimeError("no luck")


class Whole(BaseModel):
    events: int = 0


class Bank(Projection[Whole]):
    name = "bank"
    scope = "global"

    @reduces("money.*")
    def move(self, state: Whole, event: Event[dict[str, Any]]) -> Whole:
        return Whole(events=state.events + 1)


class Words(BaseModel):
    words: list[str] = []


class Gambler(Projection[Account]):
    name = "gambler"

    @reduces("money.in")
    def move(self, state: Account, event: Event[dict[str, Any]]) -> Account:
        return Account(total=random.randrange(10**9))


class Unordered(Projection[Words]):
    name = "unordered"

    @reduces("money.in")
    def list_them(self, state: Words, event: Event[dict[str, Any]]) -> Words:
        return Words(words=list({f"word {n}" for n in range(20)}))


class Idle(Agent[None]):
    name = "idle"
