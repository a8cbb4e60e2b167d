"""Calling back: many events at once, the events of one key one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from spine.errors import InvalidInput
from spine.events import Event

Handle = Callable[[Event[Any]], Awaitable[None]]


class Dispatch:
    """Runs the callback of one subscription.

    Args:
        handle: runs the callback for one event; it does not raise.
        concurrency: how many events at once; a further one waits in Redis, not here.
        name: of the tasks.

    Raises `InvalidInput` for a concurrency that would run nothing.
    """

    def __init__(self, handle: Handle, concurrency: int, name: str) -> None:
        if concurrency < 1:
            raise InvalidInput(f"concurrency is at least 1, not {concurrency}")
        self._handle = handle
        self._name = name
        self._slots = asyncio.Semaphore(concurrency)
        self._last: dict[str, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def admit(self, event: Event[Any]) -> None:
        """Start the callback for `event`; returns when the next event may come."""
        await self._slots.acquire()
        if self._stopped:
            self._slots.release()
            return
        task = asyncio.create_task(self._run(event, self._last.get(event.key)), name=self._name)
        self._last[event.key] = task
        self._running.add(task)
        task.add_done_callback(self._ended(event.key))

    async def _run(self, event: Event[Any], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        if not self._stopped:
            await self._handle(event)

    def _ended(self, key: str) -> Callable[[asyncio.Task[None]], None]:
        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            self._slots.release()
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
