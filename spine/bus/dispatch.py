"""Calling back: many events at once, the events of one key one after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from spine.errors import InvalidInput
from spine.events import Event

Handle = Callable[[Event[Any]], Awaitable[None]]

ADMITTED = 1_000


class Turn:
    """One callback's place among those that run at once; given up while it waits for others."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._held = False
        self._waits = 0
        self._over = False

    async def begin(self) -> None:
        """Return when there is a slot."""
        await self._slots.acquire()
        self._held = True

    def end(self) -> None:
        """Give up the slot for good."""
        self._over = True
        self._let_go()

    @asynccontextmanager
    async def given_up(self) -> AsyncIterator[None]:
        """Give up the slot inside the block; of several at once, from the first to the last."""
        self._waits += 1
        self._let_go()
        try:
            yield
        finally:
            self._waits -= 1
            if not self._waits and not self._over:
                await self.begin()

    def _let_go(self) -> None:
        if self._held:
            self._held = False
            self._slots.release()


_turn: ContextVar[Turn | None] = ContextVar("spine-bus-turn", default=None)


@asynccontextmanager
async def giving_way() -> AsyncIterator[None]:
    """Inside the block, let other callbacks run in place of the one that this is called from, if it is."""
    turn = _turn.get()
    if turn is None:
        yield
    else:
        async with turn.given_up():
            yield


class Dispatch:
    """Runs the callback of one subscription.

    Args:
        handle: runs the callback for one event; it does not raise.
        concurrency: callbacks at work at once. More events are admitted, so that those that wait for their key hold up
            no other key; but no more than `ADMITTED`, and further ones wait in Redis.
        name: of the tasks.

    Raises `InvalidInput` for a concurrency that would run nothing.
    """

    def __init__(self, handle: Handle, concurrency: int, name: str) -> None:
        if concurrency < 1:
            raise InvalidInput(f"concurrency is at least 1, not {concurrency}")
        self._handle = handle
        self._name = name
        self._slots = asyncio.Semaphore(concurrency)
        self._room = asyncio.Semaphore(max(ADMITTED, concurrency))
        self._last: dict[str, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def admit(self, event: Event[Any]) -> None:
        """Start the callback for `event` when its turn comes; returns when the next event may come."""
        await self._room.acquire()
        if self._stopped:
            self._room.release()
            return
        task = asyncio.create_task(self._run(event, self._last.get(event.key)), name=self._name)
        self._last[event.key] = task
        self._running.add(task)
        task.add_done_callback(self._ended(event.key))

    async def _run(self, event: Event[Any], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        turn = Turn(self._slots)
        await turn.begin()
        try:
            if not self._stopped:
                _turn.set(turn)
                await self._handle(event)
        finally:
            turn.end()

    def _ended(self, key: str) -> Callable[[asyncio.Task[None]], None]:
        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._room.release()
            if self._last.get(key) is task:
                del self._last[key]

        return ended

    def stop(self) -> None:
        """Start no further callback; those that run go on."""
        self._stopped = True

    async def finish(self, timeout_s: float, but: asyncio.Task[Any] | None) -> None:
        """Wait for the callbacks that run, all `but` the one that asks; cancel what takes longer than `timeout_s`."""
        self.stop()
        running = self._running - {but}
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
