"""An agent's limits over all its workers: handlers at once, and handlers started per time (GCRA, ITU-T I.371)."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from spine.agent import Agent
from spine.connection import Server
from spine.delivery.hand import Taken
from spine.errors import InvalidInput, SpineError
from spine.events import Priority

logger = logging.getLogger("spine")

UNITS_S = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
LOOK_EVERY_S = 0.2


def parse_rate(rate: str) -> tuple[float, int]:
    """Return (ms between two starts, starts at once) of a rate like ``100/min``.

    In no stretch of the unit's length begin more than the rate says: who counts quotas counts so. What may start at
    once is therefore taken off what follows; it is a fiftieth at most.
    """
    count, _, unit = rate.partition("/")
    try:
        number = int(count)
        seconds = UNITS_S[unit.strip()]
    except (ValueError, KeyError):
        raise InvalidInput(f"rate {rate!r} is not of the form 100/min (s, min or h)") from None
    if number < 1:
        raise InvalidInput(f"rate {rate!r} must allow at least one")
    burst = max(1, min(number // 50, round(number / seconds)))
    return seconds * 1000 / (number - burst + 1), burst


class Turn(msgspec.Struct, eq=False):
    """One that waits for the limits.

    Attributes:
        lane: the more urgent is asked for first; one that has begun before goes before all others.
        number: order within the lane.
        taken: its event, ``None`` for one that has begun before.
        since: since when it waits (monotonic seconds).
        woken: set when there is news for it.
        asked_at: when it was told to make way (monotonic seconds); ``None`` when it was not.
    """

    lane: int
    number: int
    taken: Taken | None
    since: float
    woken: asyncio.Event
    asked_at: float | None = None

    @property
    def place(self) -> tuple[int, int]:
        """What the turns are in order of."""
        return self.lane, self.number

    def make_way(self) -> None:
        """Let another one have its slot."""
        self.asked_at = time.monotonic()
        self.woken.set()


class Limits:
    """Holds back the handlers of one agent as its limits ask; in one worker the more urgent go first.

    A slot is taken for as long as its worker lives: no handler loses it by blocking the event loop, and none keeps it
    after the death of its worker.

    Attributes:
        turns: those that wait, the next one first.
    """

    def __init__(self, server: Server, agent: type[Agent[Any]], worker: str) -> None:
        self._server = server
        self._worker = worker
        self._interval: tuple[float, int] | None = parse_rate(agent.rate) if agent.rate else None
        self._limit = agent.concurrency
        self._slots = server.keys.slots(agent.name)
        self._keys = [server.keys.rate(agent.name), self._slots, server.keys.workers(agent.name)]
        self.turns: list[Turn] = []
        self._count = itertools.count()
        self._inside: set[int] = set()
        self._leaving: set[asyncio.Task[Any]] = set()

    @property
    def needed(self) -> bool:
        """Tell whether the agent has limits at all."""
        return self._interval is not None or self._limit is not None

    async def enter(self, taken: Taken, may_begin: Callable[[], bool]) -> bool:
        """Wait until the handling of `taken` may begin; false when it may not any more by `may_begin`, or made way."""
        lane = Priority.URGENT if taken.by_age else taken.lane
        interval, burst = self._interval or ("", 1)
        turn = Turn(lane, next(self._count), taken, time.monotonic(), asyncio.Event())
        return await self._enter(taken.event.seq, turn, interval, burst, may_begin)

    async def come_back(self, seq: int) -> None:
        """Wait for a slot for one that left while it waited for others: it starts nothing that the rate is about."""
        turn = Turn(-1, next(self._count), None, time.monotonic(), asyncio.Event())
        await self._enter(seq, turn, "", 1, lambda: True)

    async def _enter(
        self, seq: int, turn: Turn, interval: float | str, burst: int, may_begin: Callable[[], bool]
    ) -> bool:
        args = [interval, burst, "" if self._limit is None else self._limit, self._member(seq)]
        bisect.insort(self.turns, turn, key=lambda one: one.place)
        try:
            while turn.asked_at is None and may_begin():
                turn.woken.clear()
                pause_s = None
                if turn is self.turns[0]:  # one asks for all: those behind it would only ask in vain
                    wait_ms = await self._server.run("enter", self._keys, args)
                    if wait_ms == 0:
                        if self._limit is not None:
                            self._inside.add(seq)
                        return True
                    pause_s = min(wait_ms / 1000, LOOK_EVERY_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await turn.woken.wait()
            return False
        finally:
            self.turns.remove(turn)
            self._wake_first()

    def _wake_first(self) -> None:
        if self.turns:
            self.turns[0].woken.set()

    def leave(self, seq: int) -> None:
        """The handling of event `seq` ended."""
        if seq in self._inside:
            self._inside.discard(seq)
            task = asyncio.create_task(self._remove(seq), name="spine-slot-leave")
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Wait until what was left is given back."""
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _member(self, seq: int) -> str:
        return f"{self._worker}:{seq}"

    async def _remove(self, seq: int) -> None:
        with contextlib.suppress(SpineError):
            await self._server.command("SREM", self._slots, self._member(seq))
        self._wake_first()
