"""Following the log as it grows: `Feed` yields what is appended after a seq, in seq order, for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from spine.connection import Server
from spine.events import Event
from spine.log.listener import KEPT, Listener, Watch
from spine.log.reader import Reader, Selection


class Feed:
    """One reader of the growing log. It pulls: a slow consumer falls behind, and memory does not grow.

    Attributes:
        position: seq up to which everything was yielded.
    """

    def __init__(self, server: Server, reader: Reader, listener: Listener, selection: Selection, after: int) -> None:
        self._server = server
        self._reader = reader
        self._listener = listener
        self._selection = selection
        self.position = after
        self._rung = asyncio.Event()
        self._lost = True
        self._bells = [server.keys.bell(partition) for partition in range(server.partitions)]
        self._heard = ["0-0"] * len(self._bells)
        self._watches: list[Watch] = []

    async def start(self) -> None:
        """Begin to listen; nothing appended after `position` is missed."""
        for place, bell in enumerate(self._bells):
            watch = await self._listener.watch(bell, self._hear)
            self._watches.append(watch)
            self._heard[place] = watch.position
        self._lost = True
        self._rung.set()

    def stop(self) -> None:
        """Stop listening."""
        for watch in self._watches:
            self._listener.unwatch(watch)
        self._watches.clear()

    async def events(self) -> AsyncGenerator[Event[Any], None]:
        """Yield events as they come; `start` must have been called."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            selection, until = await self._news()
            async for event in self._reader.forward(selection, self.position, until):
                self.position = event.seq
                yield event
            self.position = max(self.position, until)

    def _hear(self, entries: list[Any] | None) -> None:
        self._lost = self._lost or entries is None
        self._rung.set()

    async def _news(self) -> tuple[Selection, int]:
        """Return which streams were touched since the last look, and the seq up to which that is all.

        All bells are read at one moment: what is appended in one call rings several of them, and a blocked reader
        would hear of one first.
        """
        lost, self._lost = self._lost, False
        head_raw, reply = await self._server.commands(
            ("GET", self._server.keys.seq),
            ("XREAD", "COUNT", 10 * KEPT, "STREAMS", *self._bells, *self._heard),
        )
        touched: set[tuple[int, int]] = set()
        until = self.position
        for raw_key, entries in reply or ():
            partition = self._bells.index(raw_key.decode())
            self._heard[partition] = entries[-1][0].decode()
            until = max(until, int(entries[-1][0].partition(b"-")[0]))
            lost = lost or len(entries) >= KEPT
            for _, fields in entries:
                touched.update((partition, int(number)) for number in fields[1].split(b","))
        if lost:
            return self._selection, max(until, int(head_raw or 0))
        return msgspec.structs.replace(self._selection, streams=frozenset(touched)), until
