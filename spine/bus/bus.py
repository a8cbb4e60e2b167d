"""`AgentEventBus`: subscribe, emit, emit and wait, respond, history; in one process or across many."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from spine.bus.dispatch import Dispatch
from spine.bus.emitting import Emission, Emitter
from spine.bus.messages import EventData, EventId, ResponseData, seq_of
from spine.bus.metrics import Metrics, Recorder
from spine.bus.responding import Responder
from spine.bus.shared import Shared, handled
from spine.bus.subscribers import SEPARATOR, SubscriberInfo, Subscribers, new_id
from spine.bus.types import PREDEFINED, Data, EventTypeName, type_name, type_names
from spine.catalog.stored import keep
from spine.catalog.types import Catalog, EventType, Strictness
from spine.client import Spine
from spine.errors import InvalidInput, LateResponse, MissingResponse
from spine.events import Context, Event, Priority, to_ms
from spine.log.drafts import Drafts
from spine.log.reader import Selection
from spine.log.streams import REPLIES
from spine.log.subscriptions import Subscription
from spine.names import RESERVED, check_key, check_pattern

logger = logging.getLogger("spine")

Callback = Callable[[EventData], Awaitable[Any] | Any]
Since = EventId | float | datetime

CONCURRENCY = 64
DEFAULT_TIMEOUT_S = 30.0
ERRORS_KEPT = 1_000
HISTORY_LIMIT = 100_000
FINISH_S = 5.0


class BusSubscription:
    """A running subscription of the bus.

    Attributes:
        event_type: type or pattern; several are joined by commas.
        callback: what is called.
        id: what it goes by among the subscribers of all processes.
    """

    def __init__(self, event_type: str, callback: Callback, id: str, dispatch: Dispatch) -> None:
        self.event_type = event_type
        self.callback = callback
        self.id = id
        self.dispatch = dispatch
        self.feed: Subscription

    async def stop(self) -> None:
        """Start no further callback; those that run go on. `AgentEventBus.unsubscribe` is what users call."""
        self.dispatch.stop()
        await self.feed.stop()

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
        if getattr(spine, "drafts", None) is None:
            raise InvalidInput("AgentEventBus takes an open client: async with Spine(…) as spine")
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
        self._subscribers = Subscribers(spine.server, self._shared.agent_type)
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
        """End every subscription; callbacks that run get a few seconds to finish. A callback may close its bus."""
        this = asyncio.current_task()
        subscriptions, self._subscriptions = self._subscriptions, []
        await self._subscribers.close()
        for subscription in subscriptions:
            await subscription.stop()
        await asyncio.gather(*(subscription.dispatch.finish(FINISH_S, this) for subscription in subscriptions))

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
        event_type: EventTypeName | Iterable[EventTypeName],
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
        names = type_names(event_type)
        for name in names:
            if "*" not in check_pattern(name):
                self.catalog.check_known(name)
        if not callable(callback):
            raise InvalidInput(f"the callback is a function of one event, not {callback!r}")
        pattern = SEPARATOR.join(names)
        dispatch = Dispatch(
            lambda event: self._call_back(subscription, event),
            self._concurrency if concurrency is None else concurrency,
            f"spine-bus-{pattern}",
        )
        await self._keep_types()
        subscription = BusSubscription(pattern, callback, new_id(), dispatch)

        async def admit(event: Event[Any]) -> None:
            if event.topic != REPLIES and not event.type.startswith(RESERVED):
                await dispatch.admit(event)

        subscription.feed = await self._spine.subscribe(names, admit)
        try:  # shown only now that it misses nothing: whoever sees it may wait for its response
            await self._subscribers.add(subscription.id, pattern)
        except BaseException:
            await subscription.stop()
            raise
        self._subscriptions.append(subscription)
        return subscription

    async def unsubscribe(
        self,
        subscription: BusSubscription | EventTypeName | Iterable[EventTypeName],
        callback: Callback | None = None,
    ) -> int:
        """End a subscription, or those of a type (and of one callback); return how many there were.

        No callback starts after this; one that runs goes on.
        """
        if isinstance(subscription, BusSubscription):
            ended = [subscription] if subscription in self._subscriptions else []
        else:
            name = SEPARATOR.join(type_names(subscription))
            ended = [
                found
                for found in self._subscriptions
                if found.event_type == name and (callback is None or found.callback == callback)
            ]
        for found in ended:
            self._subscriptions.remove(found)
            try:
                await self._subscribers.remove(found.id)
            finally:
                await found.stop()
        return len(ended)

    async def subscribers(self, event_type: EventTypeName | None = None) -> list[SubscriberInfo]:
        """Return the living subscriptions of all processes, of one type where given."""
        if event_type is None:
            return await self._subscribers.all()
        return await self._subscribers.of(type_name(event_type))

    # --- emitting ---

    async def emit(
        self,
        event_type: EventTypeName | EventType,
        data: Data | None = None,
        agent_type: str | None = None,
        *,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        expect: EventId | None = None,
    ) -> EventData:
        """Store an event and notify its subscribers; return it as stored.

        Args:
            event_type: a predefined, registered or (unless strict) any other type; or an instance of its payload's
                class, which is the data as well.
            data: a dict or a model; checked against the type's model.
            agent_type: who emits.
            key: unit of order; the conversation's or session's id in the data where left out, else that of the event
                being handled.
            context: what travels along; within a callback, that of the event being handled.
            priority: the lane.
            expect: the key's last event as you know it (0: none). `StateConflict` when it is another.

        Raises `InvalidInput` for a type or data that is not right, `StateConflict`, or what `Spine.publish` raises.
        """
        emission = Emission(event_type, data, agent_type, key, context, priority, expect)
        return EventData.of(await self._emitter.store(self._emitter.prepare(emission)))

    async def emit_and_wait(
        self,
        event_type: EventTypeName | EventType,
        data: Data | None = None,
        timeout: float | timedelta = DEFAULT_TIMEOUT_S,
        agent_type: str | None = None,
        *,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        expect: EventId | None = None,
    ) -> ResponseData:
        """Store an event and return the first response to it, whoever responds in whichever process.

        The event is in the history whatever becomes of the response. Raises `RequestTimeout` after `timeout` (seconds
        or a timedelta), `MissingResponse`, which is one as well, at once when nobody is subscribed, `RequestFailed`
        when the callback of everybody who is has failed, and what `emit` raises.
        """
        recorder = self._shared.recorder
        emission = Emission(event_type, data, agent_type, key, context, priority, expect)
        ready = self._emitter.prepare_question(emission, timeout)
        name = ready.prepared.envelope.type
        if not await self._emitter.somebody_answers(name):
            seq = (await self._emitter.store(ready)).seq
            missing = MissingResponse(f"nobody is subscribed to {name!r}: event {seq} is stored, without a response")
            raise self._shared.failed("missing_response", name, str(seq), missing)
        began = time.perf_counter()
        recorder.waiting += 1
        try:
            event_id, found = await self._emitter.ask(ready)
        finally:
            recorder.waiting -= 1
        recorder.responded(time.perf_counter() - began)
        return ResponseData.of(event_id, found)

    async def respond(self, event_id: EventId, response: Data) -> ResponseData | None:
        """Respond to an event, in any process; return the response as stored, ``None`` when nobody asked for one.

        The event is given by its id, its seq, or as such. Of many who respond, the first does. Raises `InvalidPayload`
        for a response that does not fit (nothing is stored, the caller goes on waiting), `LateResponse` when the caller
        waits no more or has its response, `InvalidInput` for an unknown event.
        """
        return await self._responder.respond(await self._responder.event(event_id), response)

    async def response(self, event_id: EventId) -> ResponseData | None:
        """Return the response to an event, for a caller that comes back; kept for five minutes."""
        return await self._responder.response(await self._responder.event(event_id))

    # --- looking back ---

    async def history(
        self,
        event_type: EventTypeName | Iterable[EventTypeName] | None = None,
        since: Since | None = None,
        limit: int = 100,
        *,
        until: Since | None = None,
        key: str | None = None,
    ) -> list[EventData]:
        """Return what was emitted, newest first, `limit` at most; by all processes, and by agents.

        Args:
            event_type: a type or pattern, or several; all where left out.
            since: an event, its id or its seq (exclusive; an int is a seq), or a time (a datetime, or seconds since the
                epoch as a float); the beginning where left out.
            limit: 1 to the bus's `history_limit`.
            until: an event, its id or its seq (inclusive), or a time.
            key: only this key.
        """
        if not isinstance(limit, int) or not 1 <= limit <= self._history_limit:
            raise InvalidInput(f"limit is between 1 and {self._history_limit:,}, not {limit}")
        types = () if event_type is None else tuple(map(check_pattern, type_names(event_type)))
        reader = self._spine.reader
        after = 0 if since is None else await self._seq(since)
        end = await reader.head()
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
            if asked:
                await self._responder.take(event, result)
        except LateResponse as late:  # counted where it was refused
            logger.info("callback of %s: %s", subscription.event_type, late)
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
        if isinstance(moment, float):
            return await self._spine.reader.last_before(round(moment * 1000))
        return seq_of(moment)

    async def _keep_types(self) -> None:
        """Let the namespace know the types, for ``spine catalog``."""
        if len(self.catalog) != self._kept_types:
            await keep(self._spine.server, self.catalog)
            self._kept_types = len(self.catalog)
