"""`AgentEventBus`: subscribe, emit, emit and wait, respond, history; in one process or across many."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from spine.bus.dispatch import Dispatch
from spine.bus.emitting import Emitter
from spine.bus.messages import EventData, ResponseData
from spine.bus.metrics import Metrics, Recorder
from spine.bus.responding import Responder
from spine.bus.shared import Data, Shared, handled
from spine.bus.subscribers import SEPARATOR, SubscriberInfo, Subscribers
from spine.bus.types import PREDEFINED, type_name
from spine.catalog.stored import keep
from spine.catalog.types import Catalog, EventType, Strictness
from spine.client import Spine
from spine.errors import InvalidInput, MissingResponse
from spine.events import Context, Event, Priority, to_ms
from spine.log.drafts import Drafts
from spine.log.reader import Selection
from spine.log.streams import REPLIES
from spine.log.subscriptions import Subscription
from spine.names import RESERVED, check_key, check_pattern
from spine.requests import new_request_id

logger = logging.getLogger("spine")

Callback = Callable[[EventData], Awaitable[Any] | Any]
EventTypeName = str | type[EventType]
Since = int | str | datetime

CONCURRENCY = 64
DEFAULT_TIMEOUT_S = 30.0
ERRORS_KEPT = 1_000
HISTORY_LIMIT = 10_000
FINISH_S = 5.0


class BusSubscription:
    """A running subscription of the bus.

    Attributes:
        event_type: type or pattern; several are joined by commas.
        callback: what is called.
        id: what it goes by among the subscribers of all processes.
    """

    def __init__(self, event_type: str, callback: Callback, id: str) -> None:
        self.event_type = event_type
        self.callback = callback
        self.id = id
        self.dispatch: Dispatch
        self.feed: Subscription

    @property
    def lag(self) -> int:
        """Numbers between the newest event known here and the last one handed to the callback."""
        return self.feed.lag


class AgentEventBus:
    """The message bus of an agency platform, over a spine.

    Usable at once and as an async context manager; whoever does not use ``async with`` calls `close`.

    Args:
        spine: an open client, shared with whatever else the process does.
        agent_type: who emits, where `emit` does not say.
        strictness: ``known`` checks the payloads of predefined and registered types, ``strict`` also refuses every
            other type, ``off`` checks nothing. A catalogue of the client goes before.
        concurrency: callbacks of one subscription at once; those of one key run one after another.
        errors_kept: how many errors the log of `metrics` holds.
        history_limit: the most that one call of `history` returns.
    """

    def __init__(
        self,
        spine: Spine,
        *,
        agent_type: str | None = None,
        strictness: Strictness = "known",
        concurrency: int = CONCURRENCY,
        errors_kept: int = ERRORS_KEPT,
        history_limit: int = HISTORY_LIMIT,
    ) -> None:
        self._spine = spine
        self._concurrency = concurrency
        self._history_limit = history_limit
        self.catalog = spine.catalog if spine.catalog is not None else Catalog(strictness=strictness)
        for model in PREDEFINED:
            if model.event_type not in self.catalog:
                self.catalog.register(model)
        drafts = spine.drafts
        self._shared = Shared(
            spine=spine,
            drafts=Drafts(drafts.keys, spine.name, drafts.partitions, drafts.max_bytes, self.catalog),
            catalog=self.catalog,
            recorder=Recorder(errors_kept),
            agent_type=None if agent_type is None else check_key(agent_type, "agent type"),
            responses={},
        )
        self._subscribers = Subscribers(spine.server)
        self._emitter = Emitter(self._shared, self._subscribers)
        self._responder = Responder(self._shared)
        self._subscriptions: list[BusSubscription] = []
        self._kept_types = 0

    async def __aenter__(self) -> Self:
        await self._keep_types()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every subscription; callbacks that run get a few seconds to finish."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.dispatch.stop()
            await subscription.feed.stop()
        await self._subscribers.close()
        await asyncio.gather(*(subscription.dispatch.finish(FINISH_S) for subscription in subscriptions))

    def register(
        self,
        event_type: EventTypeName,
        model: type[BaseModel] | None = None,
        *,
        response: type[BaseModel] | None = None,
    ) -> None:
        """Add a type of your own, ``register(OrderPlaced)`` or ``register("order.placed", Order)``.

        With `response`, responses to events of this type must fit that model.
        """
        name = type_name(event_type)
        if not isinstance(event_type, str):
            self.catalog.register(event_type)
        elif model is not None:
            self.catalog.register(name, model)
        elif response is None:
            raise InvalidInput(f"register({name!r}, …): give the model of the data, or of the response")
        if response is not None:
            self._shared.responses[name] = response

    # --- subscribing ---

    async def subscribe(
        self,
        event_type: EventTypeName | tuple[EventTypeName, ...],
        callback: Callback,
        *,
        concurrency: int | None = None,
    ) -> BusSubscription:
        """Call `callback` (plain or async) with every event of a type or pattern, or of several, from now on.

        The events of one key come one after another, in their order; others side by side. Subscriptions know nothing
        of each other: what must stay in order across types belongs into one. A dict or model that the
        callback returns is the response to an event that awaits one. A callback that raises is counted and logged; it
        hurts no other subscriber and no other event.
        """
        names = [type_name(one) for one in (event_type if isinstance(event_type, tuple) else (event_type,))]
        for name in names:
            if "*" not in check_pattern(name):
                self.catalog.check_known(name)
        await self._keep_types()
        pattern = SEPARATOR.join(names)
        subscription = BusSubscription(pattern, callback, await self._subscribers.add(pattern))

        async def handle(event: Event[Any]) -> None:
            await self._call_back(subscription, event)

        async def admit(event: Event[Any]) -> None:
            if event.topic != REPLIES and not event.type.startswith(RESERVED):
                await subscription.dispatch.admit(event)

        subscription.dispatch = Dispatch(handle, concurrency or self._concurrency, f"spine-bus-{pattern}")
        subscription.feed = await self._spine.subscribe(names, admit)
        self._subscriptions.append(subscription)
        return subscription

    async def unsubscribe(self, subscription: BusSubscription | EventTypeName, callback: Callback | None = None) -> int:
        """End a subscription, or those of a type (and of one callback); return how many there were.

        No callback starts after this; one that runs goes on.
        """
        if isinstance(subscription, BusSubscription):
            ended = [subscription] if subscription in self._subscriptions else []
        else:
            name = type_name(subscription)
            ended = [
                found
                for found in self._subscriptions
                if found.event_type == name and (callback is None or found.callback == callback)
            ]
        for found in ended:
            self._subscriptions.remove(found)
            found.dispatch.stop()
            await self._subscribers.remove(found.id)
            await found.feed.stop()
        return len(ended)

    async def subscribers(self, event_type: EventTypeName | None = None) -> list[SubscriberInfo]:
        """Return the living subscriptions of all processes, of one type where given."""
        if event_type is None:
            return await self._subscribers.all()
        return await self._subscribers.of(type_name(event_type))

    # --- emitting ---

    async def emit(
        self,
        event_type: EventTypeName,
        data: Data | None = None,
        agent_type: str | None = None,
        *,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        expect: int | None = None,
    ) -> EventData:
        """Store an event and notify its subscribers; return it as stored.

        Args:
            event_type: a predefined, registered or (unless strict) any other type.
            data: a dict or a model; checked against the type's model.
            agent_type: who emits.
            key: unit of order; the conversation's or session's id in the data where left out, else that of the event
                being handled.
            context: what travels along; within a callback, that of the event being handled.
            priority: the lane.
            expect: seq of the key's last event as you know it (0: none). `StateConflict` when it has moved on.

        Raises `InvalidInput` for a type or data that is not right, `StateConflict`, or what `Spine.publish` raises.
        """
        prepared = self._emitter.prepare(type_name(event_type), data, agent_type, key, context, priority, expect=expect)
        return EventData.of(await self._emitter.store(prepared, expect))

    async def emit_and_wait(
        self,
        event_type: EventTypeName,
        data: Data | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        agent_type: str | None = None,
        *,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        expect: int | None = None,
    ) -> ResponseData:
        """Store an event and return the first response to it, whoever responds in whichever process.

        The event is in the history whatever becomes of the response. Raises `MissingResponse` at once when nobody is
        subscribed, `RequestFailed` when the callback of everybody who is has failed, `RequestTimeout` after `timeout`
        seconds, and what `emit` raises.
        """
        name = type_name(event_type)
        recorder = self._shared.recorder
        completed = self._spine.requests.completing(new_request_id(), timeout)
        prepared = self._emitter.prepare(name, data, agent_type, key, context, priority, completed, expect)
        if not await self._emitter.somebody_answers(name):
            seq = (await self._emitter.store(prepared, expect)).seq
            missing = MissingResponse(f"nobody is subscribed to {name!r}: event {seq} is stored, without a response")
            raise self._shared.failed("missing_response", name, str(seq), missing)
        began = time.perf_counter()
        recorder.waiting += 1
        try:
            event_id, found = await self._emitter.ask(prepared, timeout, expect)
        finally:
            recorder.waiting -= 1
        recorder.responded(time.perf_counter() - began)
        return ResponseData.of(event_id, found)

    async def respond(self, event_id: str | EventData, response: Data) -> ResponseData | None:
        """Respond to an event, in any process; return the response as stored, ``None`` when nobody waits for one.

        Raises `InvalidPayload` for a response that does not fit (nothing is stored, the caller goes on waiting),
        `LateResponse` when the caller waits no more or has its response, `InvalidInput` for an unknown event.
        """
        return await self._responder.respond(await self._responder.event(event_id), response)

    async def response(self, event_id: str | EventData) -> ResponseData | None:
        """Return the response to an event, for a caller that comes back; kept for five minutes."""
        return await self._responder.response(await self._responder.event(event_id))

    # --- looking back ---

    async def history(
        self,
        event_type: EventTypeName | None = None,
        since: Since = 0,
        limit: int = 100,
        *,
        until: Since | None = None,
        key: str | None = None,
    ) -> list[EventData]:
        """Return what was emitted, newest first, `limit` at most; by all processes, and by agents.

        Args:
            event_type: a type or pattern; all where left out.
            since: an event's id or seq (exclusive), or a time.
            limit: 1 to the bus's `history_limit`.
            until: an event's id or seq (inclusive), or a time.
            key: only this key.
        """
        if not 1 <= limit <= self._history_limit:
            raise InvalidInput(f"limit is between 1 and {self._history_limit:,}, not {limit}")
        types = () if event_type is None else (check_pattern(type_name(event_type)),)
        reader = self._spine.reader
        after, end = await self._seq(since), await reader.head()
        if until is not None:
            end = min(end, await self._seq(until))
        found: list[EventData] = []
        async with aclosing(reader.backward(Selection(types=types, key=key), after, end)) as events:
            async for event in events:
                if event.topic == REPLIES or event.type.startswith(RESERVED):
                    continue
                found.append(EventData.of(event))
                if len(found) == limit:
                    break
        return found

    async def last_seq(self, key: str) -> int:
        """Return the seq of the last event of `key`, what ``expect=`` asks for; 0 when it has none."""
        return await self._emitter.last_seq(key)

    def metrics(self) -> Metrics:
        """Return what happened on this bus, in this process, since it began."""
        return self._shared.recorder.snapshot(Counter(found.event_type for found in self._subscriptions))

    # --- within ---

    async def _call_back(self, subscription: BusSubscription, event: Event[Any]) -> None:
        """Run one callback for one event; nothing but a cancellation leaves this."""
        handled.set(event)
        asked = event.context.reply_to is not None
        if asked:
            self._responder.remember(event)
        try:
            result = subscription.callback(EventData.of(event))
            if inspect.isawaitable(result):
                result = await result
            if asked and isinstance(result, Mapping | BaseModel):
                await self._responder.respond(event, result)
        except Exception as error:
            name = subscription.event_type
            logger.exception("callback of %s failed on event %d (%s)", name, event.seq, event.type)
            self._shared.failed("callback", event.type, str(event.seq), error)
            if asked:
                await self._responder.tell_of_failure(event, subscription.id, error)
        else:
            self._shared.recorder.handled[event.type] += 1

    async def _seq(self, moment: Since) -> int:
        if isinstance(moment, datetime):
            return await self._spine.reader.last_before(to_ms(moment))
        return int(moment)

    async def _keep_types(self) -> None:
        """Let the namespace know the types, for ``spine catalog``."""
        if len(self.catalog) != self._kept_types:
            await keep(self._spine.server, self.catalog)
            self._kept_types = len(self.catalog)
