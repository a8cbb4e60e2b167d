"""Callbacks in this process: `Subscription` calls one for every event of its types, in seq order."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from spine.errors import DecodeError, ReplayGap, Unavailable
from spine.events import Event
from spine.failures import FROM_OUTSIDE
from spine.log.feed import Feed

logger = logging.getLogger("spine")

EventCallback = Callable[[Event[Any]], Awaitable[None] | None]
PAUSE_S = 0.5


class Subscription:
    """A running subscription; ``await sub.stop()`` ends it.

    The callback gets one event at a time. One that raises is reported and goes on with the next event; one that is
    slow falls behind (`lag`) and is told so in the log: events wait in Redis, not in memory.

    Attributes:
        types: the types or patterns subscribed to.
        position: seq of the last event handed to the callback.
        errors: how often the callback raised.
    """

    def __init__(
        self, feed: Feed, types: tuple[str, ...], callback: EventCallback, highest_seen: Callable[[], int]
    ) -> None:
        self.types = types
        self.position = feed.position
        self.errors = 0
        self._feed = feed
        self._callback = callback
        self._highest_seen = highest_seen
        self._stopped = False
        self._task = asyncio.create_task(self._run(), name=f"spine-subscription-{','.join(types)}")

    @property
    def lag(self) -> int:
        """Numbers between the newest event known to this client and the last one handed to the callback."""
        return max(0, self._highest_seen() - self.position)

    @property
    def running(self) -> bool:
        """Whether events still come."""
        return not self._task.done()

    async def stop(self) -> None:
        """End the subscription; no callback starts after this. A callback may stop its own."""
        self._stopped = True
        if self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while not self._stopped:
                try:
                    await self._hand_over()
                except (DecodeError, ReplayGap) as error:
                    self.errors += 1
                    logger.error("subscriber of %s is not given what it should get: %s", ", ".join(self.types), error)  # noqa: TRY400
                except Unavailable as error:
                    logger.warning("subscriber of %s waits for the server: %s", ", ".join(self.types), error)
                    await asyncio.sleep(PAUSE_S)
        finally:
            self._feed.stop()

    async def _hand_over(self) -> None:
        """Hand events to the callback until the subscription is stopped or the client closed."""
        async with aclosing(self._feed.events()) as events:
            async for event in events:
                await self._call(event)
                self.position = event.seq
                if self._stopped:
                    return
        self._stopped = True

    async def _call(self, event: Event[Any]) -> None:
        try:
            result = self._callback(event)
            if inspect.isawaitable(result):
                await result
        except FROM_OUTSIDE:
            raise
        except BaseException:
            self.errors += 1
            logger.exception("subscriber of %s failed on event %d (%s)", ", ".join(self.types), event.seq, event.type)
