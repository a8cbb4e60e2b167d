"""Hearing of new events: one blocking read for a whole client, however many streams it listens to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
from redis.exceptions import RedisError

from spine.connection import Server, refused
from spine.errors import SpineError

logger = logging.getLogger("spine")

BLOCK_MS = 2_000
COUNT = 1_000
KEPT = 100
INBOX_TTL_MS = 600_000
PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)

Entries = list[Any]
Callback = Callable[[Entries | None], None]


class Watch(msgspec.Struct, eq=False):
    """One stream listened to.

    Attributes:
        key: the stream.
        position: id of the last entry heard.
        callback: gets new entries, or ``None`` when some may have been missed and everything is to be looked at.
    """

    key: str
    position: str
    callback: Callback


class Listener:
    """Listens to short streams (bells, the control stream, the client's inbox) for one client.

    Args:
        server: the way to the server.
        client: id of the client; its inbox also takes the poke that ends a running read.

    Attributes:
        closed: nothing is heard any more.
    """

    def __init__(self, server: Server, client: str) -> None:
        self._server = server
        self.inbox = server.keys.inbox(client)
        self._watches: dict[str, list[Watch]] = {}
        self._position: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._poke: asyncio.Task[None] | None = None
        self._blocked_on: frozenset[str] = frozenset()
        self._epoch = ""
        self.closed = False

    async def watch(self, key: str, callback: Callback, *, after: str | None = None) -> Watch:
        """Call `callback` with the entries of stream `key` after `after` (now where left out), until `unwatch`."""
        watch = Watch(key, after or await self._latest(key), callback)
        self._watches.setdefault(key, []).append(watch)
        if key in self._position and key in self._blocked_on:
            watch.position = max(watch.position, self._position[key], key=_order)
        self._position[key] = min(self._position.get(key, watch.position), watch.position, key=_order)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="spine-listener")
        elif key not in self._blocked_on:
            self._wake()
        return watch

    def unwatch(self, watch: Watch) -> None:
        """End a watch; no callback comes after this."""
        watches = self._watches.get(watch.key, [])
        if watch in watches:
            watches.remove(watch)
        if not watches:
            self._watches.pop(watch.key, None)
            self._position.pop(watch.key, None)

    async def close(self) -> None:
        """Stop listening; whoever listens is called a last time, to see that this is closed."""
        self.closed = True
        self._look_everywhere()
        self._watches.clear()
        tasks = [task for task in (self._task, self._poke) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = self._poke = None

    async def _latest(self, key: str) -> str:
        found = await self._server.command("XREVRANGE", key, "+", "-", "COUNT", 1)
        return found[0][0].decode() if found else "0-0"

    def _wake(self) -> None:
        """End the running read, so that the next one is on today's streams."""
        if self._poke is None or self._poke.done():
            self._poke = asyncio.create_task(self._send_poke(), name="spine-poke")

    async def _send_poke(self) -> None:
        try:
            # Again, when the read that began meanwhile lacks a stream as well: its watch found this poke under way.
            while self._blocked_on and not self._blocked_on.issuperset(self._position):
                await self._server.commands(
                    ("XADD", self.inbox, "MAXLEN", "~", 10_000, "*", "poke", ""),
                    ("PEXPIRE", self.inbox, INBOX_TTL_MS),
                )
        except SpineError as error:
            logger.debug("poke not sent: %s", error)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
                failures = 0
            except (SpineError, RedisError, OSError) as error:
                failures += 1
                if failures == 1:
                    logger.warning("listening interrupted: %s", error)
                self._look_everywhere()
                await asyncio.sleep(PAUSES_S[min(failures, len(PAUSES_S)) - 1])

    async def _listen(self) -> None:
        self._position.setdefault(self.inbox, "0-0")
        keys = list(self._position)
        self._blocked_on = frozenset(keys)
        # The epoch comes with what was waited for: asked for before, it would wake this process twice.
        reply, epoch_reply = await self._server.listener.call(
            ("XREAD", "COUNT", COUNT, "BLOCK", BLOCK_MS, "STREAMS", *keys, *(self._position[key] for key in keys)),
            ("HGET", self._server.keys.meta, "epoch"),
            timeout=BLOCK_MS / 1000 + 5.0,
        )
        for answer in (reply, epoch_reply):
            if isinstance(answer, RedisError):
                raise refused(answer) from answer
        self._blocked_on = frozenset()
        if self._is_of_this_epoch((epoch_reply or b"").decode()):
            for raw_key, entries in reply or ():
                self._deliver(raw_key.decode(), entries)
        for _ in range(3):  # who was told goes on first, and what it begins and sends: the next read is in no hurry
            await asyncio.sleep(0)

    def _is_of_this_epoch(self, epoch: str) -> bool:
        """Tell whether the log is the one that was listened to; else everything is read from its beginning."""
        known, self._epoch = self._epoch, epoch
        if known and epoch != known:
            for key in self._position:
                self._position[key] = "0-0"
            for watches in self._watches.values():
                for watch in watches:
                    watch.position = "0-0"
            self._look_everywhere()
            return False
        return True

    def _deliver(self, key: str, entries: Entries) -> None:
        if key not in self._position:
            return
        last = entries[-1][0].decode()
        self._position[key] = last
        missed = len(entries) >= KEPT and key != self.inbox
        for watch in tuple(self._watches.get(key, ())):
            news = (
                [e for e in entries if _order(e[0].decode()) > _order(watch.position)]
                if len(self._watches[key]) > 1
                else entries
            )
            watch.position = last
            if news:
                watch.callback(None if missed else news)

    def _look_everywhere(self) -> None:
        for watches in list(self._watches.values()):
            for watch in tuple(watches):
                watch.callback(None)


def _order(entry_id: str) -> tuple[int, int]:
    left, _, right = entry_id.partition("-")
    return int(left), int(right or 0)
