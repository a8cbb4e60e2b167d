"""`AgentEventBus`: subscribe, emit, emit and wait, respond, history; in one process or across many."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from spine.bus.dispatch import Dispatch, giving_way
from spine.bus.emitting import Emission
from spine.bus.messages import EventData, EventId, ResponseData, seq_of
from spine.bus.metrics import Metrics, Recorder
from spine.bus.parts import Parts
from spine.bus.subscribers import SEPARATOR, SubscriberInfo, new_id
from spine.bus.subscription import BusSubscription, Callback, call_back, check_callback
from spine.bus.types import PREDEFINED, Data, EventTypeName, type_name, type_names
from spine.catalog.stored import keep
from spine.catalog.types import Catalog, EventType, Strictness
from spine.client import Spine
from spine.errors import InvalidInput, MissingResponse, NotOpen
from spine.events import Context, Event, Priority, to_ms
from spine.log.reader import Selection
from spine.log.streams import REPLIES
from spine.names import RESERVED, check_key, check_pattern, plain
from spine.worker.housekeeping import Housekeeping

Since = EventId | float | datetime | timedelta

CONCURRENCY = 64
DEFAULT_TIMEOUT_S = 30.0
ERRORS_KEPT = 1_000
HISTORY_LIMIT = 100_000
FINISH_S = 5.0
TRIM_EVERY_S = 60.0


class AgentEventBus:
    """The message bus of an agency platform, over a spine.

    An async context manager; whoever does not use ``async with`` calls `open` and `close`. On a client that is open
    already it is usable at once, and leaves the client open when it is closed.

    Args:
        spine: a client, shared with whatever else the process does; or the URL for one of the bus's own, as `Spine`
            takes it, left out as well.
        url: the same URL, by name.
        namespace: of a client of the bus's own.
        agent_type: who emits, where `emit` does not say.
        strictness: ``known`` checks the payloads of predefined and registered types, ``strict`` also refuses every
            other type, ``off`` checks nothing. A catalogue of the client goes before.
        keep: how far back the history goes from now on, for all of the namespace: an age or a number of events. The
            bus trims the log to it while it is open.
        concurrency: callbacks of one subscription at work at once, without those that wait for a response; those of one
            key run one after another.
        errors_kept: how many errors the log of `metrics` holds.
        history_limit: the most that one call of `history` returns.
    """

    def __init__(
        self,
        spine: Spine | str | None = None,
        *,
        url: str | None = None,
        namespace: str | None = None,
        agent_type: str | None = None,
        strictness: Strictness = "known",
        keep: timedelta | int | None = None,
        concurrency: int = CONCURRENCY,
        errors_kept: int = ERRORS_KEPT,
        history_limit: int = HISTORY_LIMIT,
    ) -> None:
        self._spine = _client(spine, url, namespace)
        self._opened_client = False
        self._agent_type = None if agent_type is None else plain(check_key(agent_type, "agent type"))
        self._keep = keep
        self._concurrency = concurrency
        self._history_limit = history_limit
        self.catalog = self._spine.catalog if self._spine.catalog is not None else Catalog(strictness=strictness)
        for model in PREDEFINED:
            if model.event_type not in self.catalog:
                self.catalog.register(model)
        self._recorder = Recorder(errors_kept)
        self._responses: dict[str, type[BaseModel]] = {}
        self._subscriptions: list[BusSubscription] = []
        self._kept_types = 0
        self._housekeeping: Housekeeping | None = None
        self._working: Parts | None = self._assembled() if self._spine.is_open else None

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Self:
        """Begin, on a client that is opened where it is not. Use ``async with`` where you can."""
        if not self._spine.is_open:
            await self._spine.open()
            self._opened_client = True
        try:
            await self._begin()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """End every subscription; callbacks that run get a few seconds to finish. A callback may close its bus."""
        this = asyncio.current_task()
        subscriptions, self._subscriptions = self._subscriptions, []
        if self._working is not None:
            await self._working.subscribers.close()
        for subscription in subscriptions:
            await subscription.stop()
        await asyncio.gather(*(subscription.dispatch.finish(FINISH_S, this) for subscription in subscriptions))
        if self._housekeeping is not None:
            await self._housekeeping.stop()
        self._working = self._housekeeping = None
        if self._opened_client:
            self._opened_client = False
            await self._spine.close()

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
            self._responses[name] = response

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
        parts = self._parts
        names = type_names(event_type)
        for name in names:
            if "*" not in check_pattern(name):
                self.catalog.check_known(name)
        check_callback(callback)
        pattern = SEPARATOR.join(names)
        dispatch = Dispatch(
            lambda event: call_back(parts, subscription, event),
            self._concurrency if concurrency is None else concurrency,
            f"spine-bus-{pattern}",
        )
        await self._begin()
        subscription = BusSubscription(pattern, callback, new_id(), dispatch)

        async def admit(event: Event[Any]) -> None:
            if event.topic != REPLIES and not event.type.startswith(RESERVED):
                await dispatch.admit(event)

        subscription.feed = await self._spine.subscribe(names, admit)
        try:  # shown only now that it misses nothing: whoever sees it may wait for its response
            await parts.subscribers.add(subscription.id, pattern)
        except BaseException:
            await subscription.stop()
            raise
        self._subscriptions.append(subscription)
        return subscription

    async def unsubscribe(
        self,
        event_type: BusSubscription | EventTypeName | Iterable[EventTypeName],
        callback: Callback | None = None,
    ) -> int:
        """End a subscription, or those of a type (and of one callback); return how many there were.

        No callback starts after this; one that runs goes on.
        """
        if isinstance(event_type, BusSubscription):
            ended = [event_type] if event_type in self._subscriptions else []
        else:
            name = SEPARATOR.join(type_names(event_type))
            ended = [
                found
                for found in self._subscriptions
                if found.event_type == name and (callback is None or found.callback == callback)
            ]
        self._subscriptions = [found for found in self._subscriptions if found not in ended]
        try:
            if ended:
                await self._parts.subscribers.remove(*(found.id for found in ended))
        finally:
            for found in ended:
                await found.stop()
        return len(ended)

    async def subscribers(self, event_type: EventTypeName | None = None) -> list[SubscriberInfo]:
        """Return the living subscriptions of all processes, of one type where given."""
        if event_type is None:
            return await self._parts.subscribers.all()
        return await self._parts.subscribers.of(type_name(event_type))

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
        emitter = self._parts.emitter
        await self._keep_types()
        return EventData.of(await emitter.store(emitter.prepare(emission)))

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
        recorder, parts = self._recorder, self._parts
        await self._keep_types()
        emission = Emission(event_type, data, agent_type, key, context, priority, expect)
        ready = parts.emitter.prepare_question(emission, timeout)
        name = ready.prepared.envelope.type
        if not await parts.emitter.somebody_answers(name):
            seq = (await parts.emitter.store(ready)).seq
            missing = MissingResponse(f"nobody is subscribed to {name!r}: event {seq} is stored, without a response")
            raise parts.shared.failed("missing_response", name, str(seq), missing)
        async with giving_way():
            began = time.perf_counter()
            recorder.waiting += 1
            try:
                event_id, found = await parts.emitter.ask(ready)
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
        responder = self._parts.responder
        return await responder.respond(await responder.event(event_id), response)

    async def response(self, event_id: EventId) -> ResponseData | None:
        """Return the response to an event, for a caller that comes back; kept for five minutes."""
        responder = self._parts.responder
        return await responder.response(await responder.event(event_id))

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
            since: an event, its id or its seq (exclusive; an int is a seq), or a time (a datetime, seconds since the
                epoch as a float, or a timedelta before now); the beginning where left out.
            limit: 1 to the bus's `history_limit`.
            until: an event, its id or its seq (inclusive), or a time.
            key: only this key.
        """
        if not isinstance(limit, int) or not 1 <= limit <= self._history_limit:
            raise InvalidInput(f"limit is between 1 and {self._history_limit:,}, not {limit}")
        types = () if event_type is None else tuple(map(check_pattern, type_names(event_type)))
        reader = self._parts.shared.spine.reader
        after = 0 if since is None else await self._seq(since)
        end = await reader.head()
        if until is not None:
            end = min(end, await self._seq(until, inclusive=True))
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
        return await self._parts.emitter.last_seq(key)

    def metrics(self) -> Metrics:
        """Return what happened on this bus, in this process, since it began."""
        return self._recorder.snapshot(Counter(found.event_type for found in self._subscriptions))

    # --- within ---

    @property
    def _parts(self) -> Parts:
        """What the bus works with while it is open."""
        if self._working is None:
            raise NotOpen("the bus is not open: async with AgentEventBus(…) as bus, or await bus.open()")
        return self._working

    def _assembled(self) -> Parts:
        return Parts.of(self._spine, self.catalog, self._recorder, self._agent_type, self._responses)

    async def _begin(self) -> None:
        """Look after the history, and let the namespace know the types, for ``spine catalog``."""
        if self._working is None:
            self._working = self._assembled()
        if self._housekeeping is None:
            self._housekeeping = Housekeeping(self._spine, (), f"bus-{new_id()}", every_s=TRIM_EVERY_S)
            self._housekeeping.start()
            if self._keep is not None:
                await self._spine.retention(keep=self._keep)
        await self._keep_types()

    async def _keep_types(self) -> None:
        kept, self._kept_types = self._kept_types, len(self.catalog)
        if kept == self._kept_types:
            return
        try:
            await keep(self._spine.server, self.catalog)
        except BaseException:
            self._kept_types = kept
            raise

    async def _seq(self, moment: Since, *, inclusive: bool = False) -> int:
        if isinstance(moment, timedelta):
            ms = self._spine.server.now_ms() - round(moment.total_seconds() * 1000)
        elif isinstance(moment, datetime):
            ms = to_ms(moment)
        elif isinstance(moment, float) and math.isfinite(moment):
            ms = round(moment * 1000)
        else:
            return _number(moment)
        return await self._spine.reader.last_before(ms + inclusive)


def _client(spine: Spine | str | None, url: str | None, namespace: str | None) -> Spine:
    """Return the client that a bus is made with, or one of its own."""
    if isinstance(spine, Spine):
        if url is not None or namespace is not None:
            raise InvalidInput("a client has its url and namespace: give AgentEventBus the client alone")
        return spine
    if spine is not None and url is not None:
        raise InvalidInput("give AgentEventBus one URL")
    if not isinstance(spine, str | None):
        raise InvalidInput(f"AgentEventBus takes a Spine or a URL, not {spine!r}")
    return Spine(spine if url is None else url, namespace=namespace)


def _number(moment: Any) -> int:
    """Return the seq that `moment` names. Raises `InvalidInput`."""
    try:
        return seq_of(moment)
    except InvalidInput as error:
        raise InvalidInput(
            f"{error}, nor a time: give an event, its event_id or its seq, or a datetime, seconds since the epoch "
            "as a float, or a timedelta before now"
        ) from None
