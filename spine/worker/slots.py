"""Concurrency: how many handlers run at once, and giving up a slot while waiting for others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

YIELD_EVERY = 32


class Slots:
    """Runs work on at most `limit` tasks at once.

    Args:
        limit: handlers at work at once; those that wait for others do not count.
        next_work: returns the next piece of work for a task, ``None`` when there is none now.
        has_work: tells whether there is any.
        name: of the tasks.
    """

    def __init__(
        self,
        limit: int,
        next_work: Callable[[asyncio.Task[None]], Awaitable[None] | None],
        has_work: Callable[[], bool],
        name: str,
    ) -> None:
        self.limit = limit
        self.active = 0
        self._next_work = next_work
        self._has_work = has_work
        self._waking = False
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._returning: deque[asyncio.Future[None]] = deque()
        self._closed = False

    @property
    def full(self) -> bool:
        """Tell whether every slot is taken."""
        return self.active >= self.limit

    def wake(self) -> None:
        """There may be work: let an idle task look, or start one.

        One at a time, and that one wakes the next when it runs: handlers that wait for nothing are all done by then.
        """
        if self._waking or self._closed or self.active >= self.limit or not self._has_work():
            return
        self._waking = True
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return
        if len(self._tasks) < self.limit or self.active < self.limit <= len(self._tasks):
            task = asyncio.create_task(self._work(), name=f"{self._name}-{len(self._tasks)}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._waking = False

    async def close(self) -> None:
        """Cancel every task and wait for its end."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def release(self) -> None:
        """Give up the slot of a handler that waits for others."""
        self.active -= 1
        self._pass_on()

    async def regain(self, *, at_once: bool = False) -> None:
        """Return when there is a slot for a handler that waited; `at_once` for one that is about to end.

        A slot that becomes free is handed over: who waited longest has it before new work begins.
        """
        if at_once or self._closed or (self.active < self.limit and not self._returning):
            self.active += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.active += 1
            raise

    @asynccontextmanager
    async def waits(self) -> AsyncIterator[None]:
        """Give up the slot inside the block."""
        self.release()
        try:
            yield
        finally:
            await self.regain()

    def _pass_on(self) -> None:
        """A slot is free: whoever comes back from waiting gets it, else new work."""
        while self._returning and self.active < self.limit:
            turn = self._returning.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(None)
                return
        self.wake()

    async def _work(self) -> None:
        count = 0
        me = cast("asyncio.Task[None]", asyncio.current_task())
        self._waking = False
        while not self._closed:
            work = self._next_work(me) if self.active < self.limit and not self._returning else None
            if work is None:
                if len(self._idle) >= self.limit:
                    return
                idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._idle.append(idle)
                await idle
                self._waking = False
                continue
            self.active += 1
            try:
                self.wake()
                await work
            finally:
                self.active -= 1
                if self._returning:
                    self._pass_on()
            count += 1
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
