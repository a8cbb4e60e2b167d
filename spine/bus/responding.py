"""Responding: the response checked, in time, and routed to the caller that waits for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from pydantic import BaseModel

from spine.bus.messages import EventId, ResponseData, seq_of
from spine.bus.shared import Shared
from spine.bus.types import Data
from spine.bus.waiting import failure_note
from spine.catalog.types import validated
from spine.codec import normalise_payload
from spine.errors import InvalidInput, InvalidPayload, LateResponse, SpineError
from spine.events import Event, caused_by, to_ms
from spine.log.reader import Selection
from spine.requests import REPLY_TTL_MS, answer

logger = logging.getLogger("spine")

ANSWERED = "the caller has its response"
RECENT_KEPT = 4_096


class Responder:
    """Routes the responses of one bus."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._spine = shared.spine
        self._recent: dict[int, Event[Any]] = {}

    def remember(self, event: Event[Any]) -> None:
        """Keep an event at hand until it has its response; of too many the oldest is forgotten, and read again."""
        self._recent[event.seq] = event
        if len(self._recent) > RECENT_KEPT:
            del self._recent[next(iter(self._recent))]

    async def event(self, event_id: EventId) -> Event[Any]:
        """Return the event of an id, from the log where it is not at hand. Raises `InvalidInput`."""
        seq = seq_of(event_id)
        found = self._recent.get(seq)
        if found is not None:
            return found
        async with aclosing(self._spine.reader.forward(Selection(), seq - 1, seq)) as events:
            async for event in events:
                return event
        raise InvalidInput(f"there is no event {seq} in the log")

    async def respond(self, request: Event[Any], response: Data) -> ResponseData | None:
        """Store the response to `request` and give it to the caller; ``None`` when nobody asked for one."""
        payload = self._checked(request, response)
        if request.context.reply_to is None:
            return None
        await self._check_in_time(request)
        shared = self._shared
        prepared, write = answer(
            shared.drafts,
            request,
            f"{request.type}.reply",
            payload,
            caused_by(request, shared.agent_type),
            shared.agent_type or self._spine.name,
        )
        # Of those who respond at the same time, in whichever processes, one does.
        prepared.dedupe_key, prepared.dedupe_ms = f"spine.bus.response:{request.id}", REPLY_TTL_MS
        stored = (await self._spine.publisher.append([prepared], self._spine.durability, [write]))[0]
        self._recent.pop(request.seq, None)
        if stored.id != prepared.envelope.id:
            raise self._late(request, ANSWERED)
        return ResponseData.of(str(request.seq), stored)

    async def response(self, request: Event[Any]) -> ResponseData | None:
        """Return the response to `request` that is kept."""
        reply_to = request.context.reply_to
        if reply_to is None:
            return None
        found = await self._spine.requests.read_reply(reply_to.request, reply_to.partition)
        return None if found is None else ResponseData.of(str(request.seq), found)

    async def tell_of_failure(self, request: Event[Any], subscriber: str, error: BaseException) -> None:
        """Tell the caller of `request` that a subscriber's callback has failed."""
        writes = failure_note(self._shared.drafts, request, subscriber, error, self._spine.server.now_ms())
        try:
            await self._spine.committer.commit(writes=writes)
        except SpineError as refused:
            logger.warning("the caller of event %d is not told of the failure: %s", request.seq, refused)

    async def take(self, request: Event[Any], returned: Any) -> None:
        """Respond with what a callback returned. What is no response is noted; the caller goes on waiting."""
        if isinstance(returned, Mapping | BaseModel):
            try:
                await self.respond(request, returned)
            except LateResponse as late:
                logger.info("what a callback returned is not needed: %s", late)
        elif returned is not None:
            self._refuse(request, returned)

    def _refuse(self, request: Event[Any], returned: Any) -> None:
        kind = type(returned).__name__
        error = InvalidPayload(f"a callback returned a {kind}: a response is a dict or a pydantic model")
        self._shared.failed("invalid_response", request.type, str(request.seq), error)
        logger.warning("no response to event %d (%s): %s", request.seq, request.type, error)

    def _checked(self, request: Event[Any], response: Data) -> dict[str, Any]:
        model = self._shared.responses.get(request.type)
        try:
            if model is None:
                return normalise_payload(response)
            return validated(model, response, f"response to {request.type!r}")
        except InvalidPayload as error:
            raise self._shared.failed("invalid_response", request.type, str(request.seq), error) from None

    async def _check_in_time(self, request: Event[Any]) -> None:
        deadline = request.context.deadline
        if deadline is not None and to_ms(deadline) <= self._spine.server.now_ms():
            why = f"the caller waited until {deadline.isoformat(timespec='milliseconds')}"
        elif await self.response(request) is not None:
            why = ANSWERED
        else:
            return
        self._recent.pop(request.seq, None)
        raise self._late(request, why)

    def _late(self, request: Event[Any], why: str) -> LateResponse:
        event_id = str(request.seq)
        late = LateResponse(f"too late to respond to event {event_id} ({request.type}): {why}. Nothing was stored.")
        return self._shared.failed("late_response", request.type, event_id, late)
