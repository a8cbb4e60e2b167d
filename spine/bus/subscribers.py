"""Who is subscribed, in all processes: each bus shows its subscriptions, and those of the dead vanish by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time

import msgspec

from spine import clock
from spine.connection import Argument, Server
from spine.errors import NotOpen, SpineError
from spine.names import matcher

logger = logging.getLogger("spine")

ALIVE_MS = 15_000
BEAT_S = 3.0
LOOK_S = 0.2
RETURN_S = 1.5
FRESH_S = 1.0
SEPARATOR = ","


class SubscriberInfo(msgspec.Struct, frozen=True):
    """A subscription, as every process sees it.

    Attributes:
        id: its id.
        event_type: type or pattern; several are joined by commas.
        host: where it runs.
        pid: in which process.
        agent_type: that of its bus, where it has one.
    """

    id: str
    event_type: str
    host: str
    pid: int
    agent_type: str | None = None

    @property
    def name(self) -> str:
        """Who subscribes, in words: the agent type, or else host and process."""
        return self.agent_type or f"{self.host}/{self.pid}"

    def hears(self, event_type: str) -> bool:
        """Tell whether events of a type come to it."""
        return matcher(self.event_type.split(SEPARATOR))(event_type)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SubscriberInfo).decode


def new_id() -> str:
    """Return an id that no other subscription has."""
    return secrets.token_hex(8)


class Subscribers:
    """The subscriptions of one namespace, as one bus sees them and shows its own."""

    def __init__(self, server: Server, agent_type: str | None = None) -> None:
        self._server = server
        self._agent_type = agent_type
        self._key = server.keys.subscribers
        self._mine: dict[str, bytes] = {}
        self._known: list[SubscriberInfo] = []
        self._known_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[list[SubscriberInfo]] | None = None
        self._closed = False
        self._epoch = server.namespace.epoch
        self._back_at = float("-inf")

    @property
    def mine(self) -> set[str]:
        """Ids of the subscriptions of this bus."""
        return set(self._mine)

    async def add(self, subscriber: str, event_type: str) -> None:
        """Show a subscription under its id. Raises `NotOpen` once this is closed."""
        info = SubscriberInfo(subscriber, event_type, socket.gethostname(), os.getpid(), self._agent_type)
        self._mine[subscriber] = _encode(info)
        try:
            await self._beat()
        except BaseException:
            self._mine.pop(subscriber, None)
            raise
        if self._closed:
            await self.remove(subscriber)
            raise NotOpen("the bus was closed meanwhile: nothing is subscribed")
        if self._task is None:
            clock.before_move(self._show_beyond)
            self._task = asyncio.create_task(self._beat_on(), name="spine-bus-subscribers")

    async def remove(self, *subscribers: str) -> None:
        """Show subscriptions no more."""
        members = [self._mine.pop(subscriber) for subscriber in subscribers if subscriber in self._mine]
        self._known_at = float("-inf")
        if members:
            await self._server.command("ZREM", self._key, *members)

    async def close(self) -> None:
        """Stop showing subscriptions."""
        self._closed = True
        clock.forget(self)
        tasks = [task for task in (self._task, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = self._looking = None
        if self._mine:
            members, self._mine = list(self._mine.values()), {}
            with contextlib.suppress(SpineError):
                await self._server.command("ZREM", self._key, *members)

    async def all(self) -> list[SubscriberInfo]:
        """Return every living subscription of the namespace."""
        raw = await self._server.command("ZRANGEBYSCORE", self._key, self._server.now_ms(), "+inf")
        self._known = [_decode(member) for member in raw]
        self._known_at = time.monotonic()
        return self._known

    async def any_of(self, event_type: str) -> bool:
        """Tell whether anybody is subscribed to a type; if so, what was read in the last second is good enough.

        Callers that ask at the same time share one look, and go on in the order in which they asked. When the server
        has just come back, those who are subscribed get a moment to say so again; no longer, however slow it stays.
        """
        if time.monotonic() - self._known_at < FRESH_S and _matching(self._known, event_type):
            return True
        give_up_at: float | None = None
        while True:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look(), name="spine-bus-look")
            if _matching(await asyncio.shield(self._looking), event_type):
                return True
            give_up_at = give_up_at or self._back_at + RETURN_S
            if time.monotonic() > give_up_at:
                return False
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> list[SubscriberInfo]:
        began = time.monotonic()
        found = await self.all()
        epoch, self._epoch = self._epoch, self._server.namespace.epoch
        if epoch != self._epoch or time.monotonic() - began > LOOK_S:
            self._back_at = time.monotonic()
        return found

    async def of(self, event_type: str) -> list[SubscriberInfo]:
        """Return who is subscribed to a type now."""
        return _matching(await self.all(), event_type)

    async def _show_beyond(self, ms: int) -> None:
        await self._beat(ms)

    async def _beat(self, longer_ms: int = 0) -> None:
        until = self._server.now_ms() + ALIVE_MS + longer_ms
        entries: list[Argument] = []
        for member in self._mine.values():
            entries += (until, member)
        commands: list[tuple[Argument, ...]] = [("ZREMRANGEBYSCORE", self._key, "-inf", self._server.now_ms() - 1)]
        if entries:
            commands.append(("ZADD", self._key, *entries))
        await self._server.commands(*commands, ("PEXPIRE", self._key, 4 * ALIVE_MS))

    async def _beat_on(self) -> None:
        """Show the subscriptions every few seconds, and at once when the server has begun anew or was away."""
        shown_in, shown_at = self._server.namespace.epoch, time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            if self._server.namespace.epoch == shown_in and time.monotonic() - shown_at < BEAT_S:
                continue
            try:
                await self._beat()
                shown_in, shown_at = self._server.namespace.epoch, time.monotonic()
            except SpineError as error:
                logger.debug("subscriptions not shown: %s", error)


def _matching(subscribers: list[SubscriberInfo], event_type: str) -> list[SubscriberInfo]:
    return [subscriber for subscriber in subscribers if subscriber.hears(event_type)]
