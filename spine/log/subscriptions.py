"""Callbacks in this process: `Subscription` calls one for every event of its types, in seq order."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from spine.events import Event

logger = logging.getLogger("spine")

EventCallback = Callable[[Event[Any]], Awaitable[None] | None]
LAG_WARNING = 10_000


class Subscription:
    """A running subscription; ``await sub.stop()`` ends it.

    The callback gets one event at a time. One that raises is reported and goes on with the next event; one that is
    slow falls behind (`lag`) and is told so in the log: events wait in Redis, not in memory.

    Attributes:
        types: the types or patterns subscribed to.
        position: seq of the last event handed to the callback.
        errors: how often the callback raised.
    """

    def __init__(self, types: tuple[str, ...], callback: EventCallback, head: Callable[[], int]) -> None:
        self.types = types
        self.position = 0
        self.errors = 0
        self._callback = callback
        self._head = head
        self._told = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def lag(self) -> int:
        """Numbers between the newest event known to this client and the last one handed to the callback."""
        return max(0, self._head() - self.position)

    def run(self, events: AsyncGenerator[Event[Any], None]) -> None:
        """Start handing `events` to the callback."""
        self._task = asyncio.create_task(self._hand_over(events), name=f"spine-subscription-{','.join(self.types)}")

    async def stop(self) -> None:
        """End the subscription; no callback starts after this."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _hand_over(self, events: AsyncGenerator[Event[Any], None]) -> None:
        async for event in events:
            await self._call(event)
            self.position = event.seq
            self._tell_of_lag()

    async def _call(self, event: Event[Any]) -> None:
        try:
            result = self._callback(event)
            if inspect.isawaitable(result):
                await result
        except Exception:
            self.errors += 1
            logger.exception("subscriber of %s failed on event %d (%s)", ", ".join(self.types), event.seq, event.type)

    def _tell_of_lag(self) -> None:
        lag = self.lag
        if lag > LAG_WARNING and lag > 2 * self._told:
            self._told = lag
            logger.warning("subscriber of %s is %d events behind", ", ".join(self.types), lag)
        elif lag < LAG_WARNING:
            self._told = 0
