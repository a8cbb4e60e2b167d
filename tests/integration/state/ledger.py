"""A small agent whose state shows which events are in it, and the fold by hand to compare it with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from pydantic import BaseModel

from spine import Agent, Event, Handling, Spine, on, reduces
from spine.keys import partition_of
from spine.state.fold import Cell, Reducing, fold_one
from spine.testing.waiting import wait_until
from spine.worker import Worker

Connect = Callable[..., Awaitable[Spine]]
Serve = Callable[..., Awaitable[Worker]]


class Book(BaseModel):
    """Numbers of the events in it, in the order in which they were folded."""

    seqs: list[int] = []
    total: int = 0


class Ledger(Agent[Book]):
    """Folds two types, and handles them without doing anything."""

    name = "ledger"
    start = "beginning"

    @reduces("money.in", "money.out")
    def move(self, state: Book, event: Event[dict[str, Any]]) -> Book:
        amount = event.payload["amount"] * (1 if event.type == "money.in" else -1)
        return Book(seqs=[*state.seqs, event.seq], total=state.total + amount)

    @on("money.in", "money.out")
    async def moved(self, event: Event[dict[str, Any]], ctx: Handling) -> None: ...


async def by_hand(spine: Spine, kind: type[Reducing[Any]], key: str, at: int | None = None) -> Any:
    """Return the state folded from the log with nothing but a loop."""
    state = kind.initial()
    async for event in spine.replay(key=key, until=at):
        state = fold_one(kind, state, event)
    return state


async def stored(raw: redis.asyncio.Redis, spine: Spine, kind: type[Reducing[Any]], key: str) -> Cell | None:
    """Return what is stored of a state."""
    partition = partition_of(key, spine.server.partitions)
    found = await raw.hget(spine.server.keys.state(kind.name, kind.version, partition), key)  # type: ignore[misc]
    assert kind.state_model is not None
    return None if found is None else Cell.decode(kind.state_model, found)


async def until_stored(raw: redis.asyncio.Redis, spine: Spine, kind: type[Reducing[Any]], key: str, seq: int) -> Cell:
    """Return what is stored of a state once event `seq` is in it."""

    async def there() -> Cell | None:
        try:
            cell = await stored(raw, spine, kind, key)
        except ValueError:  # a test damaged it
            return None
        return cell if cell is not None and cell.seq >= seq else None

    found = await wait_until(there, what=f"the stored state of {key} with event {seq}")
    assert found is not None
    return found
