"""A clock that tests can move: what is to happen in an hour happens now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from spine import clock
from spine.client import Spine
from spine.events import from_ms


class Clock:
    """Moves the server's time, as every client and worker of this process takes it.

    What goes by it: deadlines of events that are not handled yet, due times of scheduled events, retries and other
    holds, leases and the lives of workers (those that live in this process stay alive), times stamped on events. What
    does not: waits of this process that already run (a request's time-out, a handler's), times to live in Redis, and
    other processes.

    Args:
        spine: a client, to tell the time.
    """

    def __init__(self, spine: Spine) -> None:
        self._spine = spine
        self._moved = False

    def now(self) -> datetime:
        """Return the server's time."""
        return from_ms(self._spine.server.now_ms())

    async def advance(self, by: float | timedelta) -> datetime:
        """Move the clock on by seconds or a timedelta, and return what it says then; what is due begins at once."""
        seconds = by.total_seconds() if isinstance(by, timedelta) else float(by)
        if seconds < 0:
            raise ValueError("time does not go back")
        self._moved = True
        await clock.move(round(seconds * 1000))
        return self.now()

    async def advance_to(self, moment: datetime) -> datetime:
        """Move the clock on to a time."""
        return await self.advance(moment.astimezone(UTC) - self.now())

    def reset(self) -> None:
        """Put the clock right again, if this moved it."""
        if self._moved:
            self._moved = False
            clock.reset()
