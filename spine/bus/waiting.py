"""Waiting for a response while the callbacks of those who could give it may fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from spine.bus.subscribers import SubscriberInfo
from spine.errors import RequestFailed
from spine.events import Event
from spine.failures import said
from spine.log.drafts import Drafts, Write
from spine.requests import part

NOTE = "spine.bus.failed"


def failure_note(
    drafts: Drafts, request: Event[Any], subscriber: str, error: BaseException, now_ms: int
) -> tuple[Write, ...]:
    """Return the writes that tell the caller of `request` that a subscriber's callback has failed."""
    note = {"subscriber": subscriber, "error_type": type(error).__name__, "error": said(error)}
    return part(drafts, request, {NOTE: note}, 0, 0, now_ms)


class Failures(asyncio.Queue[Event[Any]]):
    """Takes the parts of an answer: those that tell of a failed callback end the wait when nobody is left to answer.

    Args:
        subscribers: returns who is subscribed now.
        handlers: returns the agents that handle a topic; they may always answer yet.
        topic: of the request.
    """

    def __init__(
        self,
        subscribers: Callable[[], Awaitable[list[SubscriberInfo]]],
        handlers: Callable[[str], Awaitable[list[str]]],
        topic: str,
    ) -> None:
        super().__init__()
        self._subscribers = subscribers
        self._handlers = handlers
        self._topic = topic
        self._failed: dict[str, str] = {}
        self._news = asyncio.Event()

    def __str__(self) -> str:
        return "".join(f"; a callback failed: {error}" for error in self._failed.values())

    @property
    def failed(self) -> set[str]:
        """Ids of the subscribers whose callback has failed."""
        return set(self._failed)

    def put_nowait(self, item: Event[Any]) -> None:
        """Take a part of the answer."""
        note = item.payload.get(NOTE)
        if note is not None:
            self._failed[note["subscriber"]] = f"{note['error_type']}: {note['error']}"
            self._news.set()

    async def unless_all_failed(self, waiting: Coroutine[Any, Any, Event[Any]]) -> Event[Any]:
        """Return what `waiting` returns; raise `RequestFailed` when everybody who could answer has failed."""
        answer = asyncio.create_task(waiting, name="spine-bus-wait")
        watch = asyncio.create_task(self._all_failed(), name="spine-bus-failures")
        try:
            await asyncio.wait({answer, watch}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            watch.result()
            raise RequestFailed(next(reversed(self._failed.values())))
        finally:
            answer.cancel()
            watch.cancel()
            await asyncio.gather(answer, watch, return_exceptions=True)

    async def _all_failed(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            left = {subscriber.id for subscriber in await self._subscribers()} - self._failed.keys()
            if not left and not await self._handlers(self._topic):
                return
