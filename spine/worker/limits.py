"""An agent's limits over all its workers: handlers at once, and handlers started per time (GCRA, ITU-T I.371)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from spine.agent import Agent
from spine.connection import Server
from spine.errors import InvalidInput, SpineError

logger = logging.getLogger("spine")

UNITS_S = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
LOOK_EVERY_S = 0.2


def parse_rate(rate: str) -> tuple[float, int]:
    """Return (ms between two starts, starts at once) of a rate like ``100/min``."""
    count, _, unit = rate.partition("/")
    try:
        number = int(count)
        seconds = UNITS_S[unit.strip()]
    except (ValueError, KeyError):
        raise InvalidInput(f"rate {rate!r} is not of the form 100/min (s, min or h)") from None
    if number < 1:
        raise InvalidInput(f"rate {rate!r} must allow at least one")
    return seconds * 1000 / number, max(1, min(number, round(number / seconds)))


class Limits:
    """Holds back the handlers of one agent as its limits ask.

    A slot is taken for as long as its worker lives: no handler loses it by blocking the event loop, and none keeps it
    after the death of its worker.
    """

    def __init__(self, server: Server, agent: type[Agent[Any]], worker: str) -> None:
        self._server = server
        self._worker = worker
        self._interval: tuple[float, int] | None = parse_rate(agent.rate) if agent.rate else None
        self._limit = agent.concurrency
        self._slots = server.keys.slots(agent.name)
        self._keys = [server.keys.rate(agent.name), self._slots, server.keys.workers(agent.name)]
        self._turn = asyncio.Lock()
        self._inside: set[int] = set()
        self._leaving: set[asyncio.Task[Any]] = set()

    @property
    def needed(self) -> bool:
        """Tell whether the agent has limits at all."""
        return self._interval is not None or self._limit is not None

    async def enter(self, seq: int, may_begin: Callable[[], bool], *, again: bool = False) -> bool:
        """Wait until the handling of event `seq` may begin; false when it may not any more by `may_begin`.

        `again` is for one that left while it waited for others: it starts nothing that the rate would have to allow.
        """
        interval, burst = (None if again else self._interval) or ("", 1)
        args = [interval, burst, "" if self._limit is None else self._limit, self._member(seq)]
        async with self._turn:  # one asks for all: those behind it would only ask in vain
            while may_begin():
                wait_ms = await self._server.run("enter", self._keys, args)
                if wait_ms == 0:
                    break
                await asyncio.sleep(min(wait_ms / 1000, LOOK_EVERY_S))
            else:
                return False
        if self._limit is not None:
            self._inside.add(seq)
        return True

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
