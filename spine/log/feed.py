"""Following the log as it grows: `Feed` yields what is appended after a seq, in seq order, for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from spine.catalog.upcast import upcast
from spine.connection import Server
from spine.events import Event
from spine.link import ClientClosed
from spine.log.floors import Gaps, gap
from spine.log.listener import KEPT, Listener, Watch
from spine.log.reader import Reader, Selection

logger = logging.getLogger("spine")

LAG_WARNING = 10_000


class Feed:
    """One reader of the growing log. It pulls: a slow consumer falls behind and is told so, and memory does not grow.

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
        self._epoch = ""
        self._told: int | None = None

    async def start(self) -> None:
        """Begin to listen; nothing appended after `position` is missed."""
        self._watches = await asyncio.gather(*(self._listener.watch(bell, self._hear) for bell in self._bells))
        self._heard = [watch.position for watch in self._watches]
        self._look_everywhere()

    def stop(self) -> None:
        """Stop listening."""
        for watch in self._watches:
            self._listener.unwatch(watch)
        self._watches = []

    async def events(self) -> AsyncGenerator[Event[Any], None]:
        """Yield events as they come, until the client is closed; `start` must have been called.

        Raises `Unavailable` when the server stays away, `DecodeError` for an event that cannot be upcast, `ReplayGap`
        where events were trimmed away before they were read; called again, it goes on where it was, or after that.
        """
        try:
            while not self._listener.closed:
                selection, until = await self._news()
                self._tell_of_lag(until - self.position)
                gaps, start = Gaps(self._server, selection), 0
                async with aclosing(self._reader.batches(selection, self.position, until)) as batches:
                    async for events in batches:
                        if start:  # one who keeps up reads a batch at a time, and pays nothing for looking
                            await gaps.check(start)
                        for event in events:
                            self.position = event.seq
                            yield upcast(event)
                        start = self.position
                self.position = max(self.position, until)
                await self._rung.wait()
        except ClientClosed:
            return
        finally:
            self._look_everywhere()  # what was heard may not have been read

    def _tell_of_lag(self, lag: int) -> None:
        """Say in the log that the reader does not keep up, and again when it got twice as bad."""
        if self._told is None:  # where it begins is its own choice
            self._told = 0
        elif lag > LAG_WARNING and lag > 2 * self._told:
            self._told = lag
            logger.warning("a reader of %s is %d events behind", ", ".join(self._selection.types) or "all types", lag)
        elif lag < LAG_WARNING:
            self._told = 0

    def _hear(self, entries: list[Any] | None) -> None:
        self._lost = self._lost or entries is None
        self._rung.set()

    def _look_everywhere(self) -> None:
        self._hear(None)

    async def _news(self) -> tuple[Selection, int]:
        """Return which streams were touched since the last look, and the seq up to which that is all.

        All bells are read at one moment: what is appended in one call rings several of them, and a blocked reader
        would hear of one first.
        """
        self._rung.clear()
        lost, self._lost = self._lost, False
        head_raw, reply, epoch_raw, floors_raw = await self._server.commands(
            ("GET", self._server.keys.seq),
            ("XREAD", "COUNT", 10 * KEPT, "STREAMS", *self._bells, *self._heard),
            ("HGET", self._server.keys.meta, "epoch"),
            ("HVALS", self._server.keys.floors),
        )
        if await self._is_new_epoch((epoch_raw or b"").decode()):
            return await self._news()
        self._look_for_a_gap(max(map(int, floors_raw), default=0))
        touched: set[tuple[int, int]] = set()
        newest = 0  # of what the server says; where the reader begins is only its own choice
        for raw_key, entries in reply or ():
            partition = self._bells.index(raw_key.decode())
            self._heard[partition] = entries[-1][0].decode()
            newest = max(newest, int(entries[-1][0].partition(b"-")[0]))
            lost = lost or len(entries) >= KEPT
            for _, fields in entries:
                touched.update((partition, int(number)) for number in fields[1].split(b","))
        if lost:
            newest = max(newest, int(head_raw or 0))
        self._server.highest_seen = max(self._server.highest_seen, newest)
        streams = None if lost else frozenset(touched)
        return msgspec.structs.replace(self._selection, streams=streams), max(self.position, newest)

    def _look_for_a_gap(self, floor: int) -> None:
        """Raise `ReplayGap` when events were trimmed away before they were read; called again, it goes on after it."""
        if not self._selection.by_index and self.position < floor:
            missed, self.position = self.position, floor
            raise gap("the events", missed, floor)

    async def _is_new_epoch(self, epoch: str) -> bool:
        """Tell whether the log began anew; its streams go by other numbers then, and its own may begin below ours."""
        known, self._epoch = self._epoch, epoch
        if not known or known == epoch:
            return False
        lines = await self._server.command("LRANGE", self._server.keys.epochs, 0, -1)
        epochs = [line.decode().split(" ") for line in lines]
        since = next((place for place, (name, *_) in enumerate(epochs, 1) if name == known), 0)
        begun_at = min((int(floor) for _, floor, *_ in epochs[since:]), default=0)
        self.position = min(self.position, begun_at)
        self._heard = ["0-0"] * len(self._bells)
        self._reader.streams.forget()
        self._told = None  # numbers were left out: how far they are apart says nothing
        self._look_everywhere()
        return True
