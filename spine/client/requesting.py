"""What the client asks of agents: one or many, with the answer in hand, in parts, or as an event later on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any

from spine.catalog.types import EventType
from spine.client.parts import Parts
from spine.coordination.answers import Answers, Reducer
from spine.coordination.fanout import (
    AnswerStream,
    Asker,
    Items,
    Options,
    Question,
    fan_out,
    fan_out_stream,
    questions,
    with_correlation,
)
from spine.coordination.gather import Gather
from spine.durations import Duration, in_seconds
from spine.events import Context, Draft, Event, Payload, Priority
from spine.keys import partition_of
from spine.log.drafts import Prepared
from spine.names import check_key
from spine.requests import DEFAULT_REQUEST_TIMEOUT_S, check_request_id, new_request_id, stream_parts


class Requesting(Parts):
    """The part of the client that asks."""

    async def request(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        timeout: Duration = DEFAULT_REQUEST_TIMEOUT_S,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        to: str | None = None,
        request_id: str | None = None,
    ) -> Event[Any]:
        """Publish a request and return the answer, an event as well.

        After `timeout` (seconds or a timedelta), or the deadline of the context, nothing handles or answers it any
        more. With a `request_id` of your own (a UUID, kept secret) `read_reply` reads the answer later, until
        its time to live ends.

        Raises `NoHandler`, `RequestTimeout`, `RequestFailed`, or what `publish` raises.
        """
        draft = Draft(type, payload if payload is not None else {}, key, context, priority, to)
        return await self.request_draft(draft, timeout_s=in_seconds(timeout, "timeout"), request_id=request_id)

    async def request_draft(self, draft: Draft, *, timeout_s: float, request_id: str | None = None) -> Event[Any]:
        """Publish `draft` as a request and return the answer; see `request`."""
        chosen = new_request_id() if request_id is None else check_request_id(request_id)
        prepared = self._prepare_request(draft, chosen, timeout_s)
        return await self.requests.send(self._append_request, prepared, timeout_s=timeout_s)

    async def request_stream(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        timeout: Duration = DEFAULT_REQUEST_TIMEOUT_S,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        to: str | None = None,
    ) -> AsyncGenerator[Event[Any], None]:
        """Publish a request and yield the parts of the answer as they come (type ``….part``), the final one last."""
        draft = Draft(type, payload if payload is not None else {}, key, context, priority, to)
        timeout_s = in_seconds(timeout, "timeout")
        prepared = self._prepare_request(draft, new_request_id(), timeout_s)
        parts: asyncio.Queue[Event[Any]] = asyncio.Queue()
        sending = asyncio.create_task(
            self.requests.send(self._append_request, prepared, timeout_s=timeout_s, parts=parts), name="spine-request"
        )
        async with aclosing(stream_parts(sending, parts)) as answers:
            async for event in answers:
                yield event

    async def read_reply(self, request_id: str, *, key: str) -> Event[Any] | None:
        """Return the answer to an earlier request of this id and key, ``None`` when there is none (any more)."""
        return await self.requests.read_reply(request_id, partition_of(check_key(key), self.server.partitions))

    async def fan_out(
        self,
        /,
        type: str,
        items: Items,
        *,
        reducer: Reducer | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> Answers:
        """Ask many at once; return what they answered and who did not. Options as for `Handling.fan_out`."""
        asker, context = self._asker(context)
        return await fan_out(asker, type, items, reducer=reducer, context=context, **options)

    def fan_out_stream(
        self, /, type: str, items: Items, *, context: Context | None = None, **options: Any
    ) -> AnswerStream:
        """Ask many at once and yield each `Answer` as it comes, until enough have; see `Handling.fan_out_stream`."""
        asker, context = self._asker(context)
        return fan_out_stream(asker, type, items, context=context, **options)

    async def gather(
        self, /, type: str, items: Items, *, then: str, context: Context | None = None, **options: Any
    ) -> list[Event[Any]]:
        """Ask many; what came of it arrives as an event of type `then`, whoever dies. Returns the questions.

        See `Handling.gather`. Raises `NoHandler`, or what `publish` raises.
        """
        context = with_correlation(context, self.drafts.new_id)
        base = context.session_id or context.correlation
        chosen = Options(**options)
        started = Gather(self.drafts, questions(type, items, chosen, base=base), then, context, base, chosen)
        for topic in started.topics:
            await self.requests.check_handlers(topic)
        prepared, writes = started.prepare(context, self.server.now_ms())
        return await self.publisher.append(prepared, self.durability, writes)

    def _asker(self, context: Context | None) -> tuple[Asker, Context]:
        def send(question: Question, timeout_s: float) -> Awaitable[Event[Any]]:
            return self.request_draft(question.draft, timeout_s=timeout_s)

        context = with_correlation(context, self.drafts.new_id)
        return Asker(context.session_id or context.correlation, send), context

    def _prepare_request(self, draft: Draft, request_id: str, timeout_s: float) -> Prepared:
        return self.drafts.prepare(draft, completed=self.requests.completing(request_id, timeout_s))

    async def _append_request(self, prepared: Prepared) -> Event[Any]:
        return (await self.publisher.append([prepared], self.durability))[0]
