"""`Spine`, the client: what a service embeds to publish, read, request and run agents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from spine.catalog.stored import keep
from spine.catalog.types import Catalog, EventType
from spine.catalog.upcast import upcast_all
from spine.codec import DEFAULT_MAX_BYTES
from spine.connection import PATIENCE_S, Server, check_partitions
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
from spine.coordination.gather import Gather, Gatherings
from spine.delivery.commits import Committer
from spine.delivery.dead import DeadFilter, DeadLetters, Wanted
from spine.delivery.leases import WorkerInfo, expire_worker, survey
from spine.delivery.records import DeadLetter
from spine.durations import Duration, in_seconds
from spine.errors import InvalidInput, NotOpen
from spine.events import Context, Draft, Durability, Event, Payload, Priority
from spine.keys import partition_of
from spine.log.drafts import Drafts, Prepared, check_limit
from spine.log.durability import known_durability
from spine.log.feed import Feed
from spine.log.floors import Gaps
from spine.log.listener import Listener
from spine.log.publisher import Publisher
from spine.log.reader import Reader, Selection
from spine.log.streams import Streams
from spine.log.subscriptions import EventCallback, Subscription
from spine.names import check_agent_name, check_key, check_name, check_pattern
from spine.operations.overview import AgentOverview, Lag, Overview
from spine.past.past import Moment, Past
from spine.requests import GATHER, Requests, new_request_id, stream_parts
from spine.sessions import load_sessions, session_update
from spine.timers import Scheduled, Timers, due_ms

Types = str | Iterable[str]
DEFAULT_NAMESPACE = "default"
DEFAULT_CLIENT_NAME = "client"
DEFAULT_REQUEST_TIMEOUT_S = 30.0
MADE_BY_OPEN = frozenset(
    (
        *("server", "drafts", "streams", "publisher", "reader", "listener", "committer"),
        *("requests", "timers", "overview", "_dead", "_subscriptions"),
    )
)


class Spine(Past):
    """A client of one namespace, and an async context manager.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; ``None`` takes ``$SPINE_URL``, else starts or joins the
            embedded server of the project directory.
        namespace: which namespace; ``None`` takes ``$SPINE_NAMESPACE``, else ``default``.
        name: the `source` of what this client publishes.
        durability: what an acknowledged publish has survived: ``memory`` (the server has it), ``disk`` (fsynced) or
            ``replicas`` (one replica has it).
        partitions: of a namespace that is created now (8 where left out, 4,096 at most); another number than an
            existing namespace has raises `NamespaceMismatch`.
        max_event_bytes: the largest event accepted, 1 MiB at most.
        patience_s: how long a call goes on trying while the server is away.
        catalog: the types there are: what is published is checked against it, and it is kept with the namespace for
            ``spine catalog``.

    Attributes:
        is_open: it was opened, and not closed since.
    """

    _accepts_incomplete = False

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        name: str = DEFAULT_CLIENT_NAME,
        durability: Durability = "memory",
        partitions: int | None = None,
        max_event_bytes: int = DEFAULT_MAX_BYTES,
        patience_s: float = PATIENCE_S,
        catalog: Catalog | None = None,
    ) -> None:
        self.namespace = check_name(namespace or os.environ.get("SPINE_NAMESPACE") or DEFAULT_NAMESPACE, "namespace")
        self.name = check_name(name, "client name")
        self.durability: Durability = known_durability(durability)
        self._url = url or os.environ.get("SPINE_URL") or None
        self._partitions = check_partitions(partitions)
        self._max_event_bytes = check_limit(max_event_bytes)
        self._patience_s = in_seconds(patience_s, "patience_s")
        self.catalog = catalog
        self._embedded: Any = None
        self.is_open = False

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say of what only an open client has that this one is not open."""
            if name in MADE_BY_OPEN:
                raise NotOpen("the client is not open: async with Spine(…) as spine, or await spine.open()")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> Self:
        """Connect; create the namespace or join it. Use ``async with`` where you can."""
        if self._url is None:
            from spine.embedded import EmbeddedServer

            self._embedded = await asyncio.to_thread(EmbeddedServer.join)
        url = self._url or self._embedded.url
        self.server = Server(
            url,
            self.namespace,
            partitions=self._partitions,
            patience_s=self._patience_s,
            accepts_incomplete=self._accepts_incomplete,
        )
        try:
            await self.server.open()
            if self.catalog is not None:
                await keep(self.server, self.catalog)
        except BaseException:
            await self.server.close()
            await self._leave_embedded()
            raise
        self.drafts = Drafts(self.server.keys, self.name, self.server.partitions, self._max_event_bytes, self.catalog)
        self.streams = Streams(self.server)
        self.publisher = Publisher(self.server, self.streams, self.drafts.producer)
        self.reader = Reader(self.server, self.streams)
        self.listener = Listener(self.server, self.drafts.producer)
        self.committer = Committer(self.server, self.streams, f"{self.drafts.producer}.c")
        self.requests = Requests(self.server, self.listener, self.drafts.producer)
        self.timers = Timers(self.server, self.committer, self.listener, self.drafts)
        self.overview = Overview(self.server, self.streams)
        self._dead = DeadLetters(self.server, self.streams)
        self.timers.serve(GATHER, Gatherings(self.server, self.drafts).due)
        await self.timers.start()
        self._subscriptions: list[Subscription] = []
        self.is_open = True
        return self

    async def close(self) -> None:
        """Finish what is being published, stop listening and disconnect. Does nothing on a client that is not open."""
        if not self.is_open:
            return
        for subscription in self._subscriptions:
            await subscription.stop()
        await self.publisher.drain()
        await self.timers.close()
        await self.committer.drain()
        await self.listener.close()
        await self.server.close()
        await self._leave_embedded()
        self.is_open = False

    async def _leave_embedded(self) -> None:
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            await asyncio.to_thread(embedded.leave)

    async def publish(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        to: str | None = None,
        dedupe_key: str | None = None,
        durability: Durability | None = None,
    ) -> Event[Any]:
        """Store one event and return it, with its seq.

        Args:
            type: the schema of the payload, like ``order.placed``; or an `EventType`, payload and type in one.
            payload: a dict or a pydantic model.
            key: unit of order and of state; the session id of `context` where left out, else its correlation.
            context: what travels with the event.
            priority: the lane; that of `context` where left out.
            to: an agent: the event goes to its inbox only.
            dedupe_key: a second publish under the same one within 24 hours stores nothing and returns the first event.
            durability: overrides that of the client.

        Raises `InvalidInput` before anything is sent, or `Unavailable` whose `stored` says what became of the event.
        """
        draft = Draft(type, payload if payload is not None else {}, key, context, priority, to, dedupe_key)
        return await self.publisher.append_one(self.drafts.prepare(draft), durability or self.durability)

    async def publish_many(self, drafts: Iterable[Draft], *, durability: Durability | None = None) -> list[Event[Any]]:
        """Store all of `drafts` as one atomic batch, with consecutive seqs; return them in the same order."""
        if not isinstance(drafts, Iterable):
            raise InvalidInput(f"publish_many takes Drafts, not {type(drafts).__name__}. Nothing was stored.")
        batch = list(drafts)
        for draft in batch:
            if not isinstance(draft, Draft):
                raise InvalidInput(f"publish_many takes Drafts, not {type(draft).__name__}. Nothing was stored.")
        if not batch:
            return []
        prepared = [self.drafts.prepare(draft) for draft in batch]
        return await self.publisher.append(prepared, durability or self.durability)

    async def schedule(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        to: str | None = None,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
    ) -> Scheduled:
        """Publish an event later, after `delay` (timedelta or seconds) or at a time; it gets its seq when it is due.

        It is on time while any client or worker of the namespace lives, and late, but not lost, when none does.
        """
        draft = Draft(type, payload if payload is not None else {}, key, context, priority, to)
        return await self.timers.schedule(self.drafts.prepare(draft), due_ms(self.server.now_ms(), delay, at))

    async def unschedule(self, scheduled_id: str) -> bool:
        """Cancel a scheduled event by its id; return whether it was still to come."""
        return await self.timers.cancel(scheduled_id)

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
        more. With a `request_id` of your own (32 hex digits, kept secret) `read_reply` reads the answer later, until
        its time to live ends.

        Raises `NoHandler`, `RequestTimeout`, `RequestFailed`, or what `publish` raises.
        """
        draft = Draft(type, payload if payload is not None else {}, key, context, priority, to)
        return await self.request_draft(draft, timeout_s=in_seconds(timeout, "timeout"), request_id=request_id)

    async def request_draft(self, draft: Draft, *, timeout_s: float, request_id: str | None = None) -> Event[Any]:
        """Publish `draft` as a request and return the answer; see `request`."""
        prepared = self._prepare_request(draft, request_id or new_request_id(), timeout_s)
        return await self.requests.send(self._append_request, prepared, timeout_s=timeout_s)

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

    def _prepare_request(self, draft: Draft, request_id: str, timeout_s: float) -> Prepared:
        return self.drafts.prepare(draft, completed=self.requests.completing(request_id, timeout_s))

    async def _append_request(self, prepared: Prepared) -> Event[Any]:
        return (await self.publisher.append([prepared], self.durability))[0]

    async def session(self, session_id: str) -> dict[str, Any]:
        """Return the state of a session."""
        found = await load_sessions(self.server, [check_key(session_id, "session id")])
        return found[session_id].values

    async def update_session(self, session_id: str, changes: Mapping[str, Any]) -> Event[Any]:
        """Change fields of a session (``None`` removes one); return the event that says so."""
        context = Context(session_id=check_key(session_id, "session id"))
        prepared, writes = session_update(self.drafts, session_id, changes, context)
        return (await self.publisher.append([prepared], self.durability, writes))[0]

    async def replay(
        self,
        *,
        after: Moment = 0,
        until: Moment | None = None,
        types: Types = (),
        key: str | None = None,
        correlation: str | None = None,
    ) -> AsyncGenerator[Event[Any], None]:
        """Yield the events of the log up to the present (or `until`), in seq order, in constant memory.

        Args:
            after: a seq (exclusive), or a time since when.
            until: a seq (inclusive), or a time, its millisecond with it; the present where left out.
            types: types or patterns with ``*``.
            key: only this key.
            correlation: only this correlation.

        Raises `ReplayGap` when events that it would begin with were trimmed away.
        """
        selection = _selection(types, key, correlation)
        head = await self.reader.head()
        start = await self.seq_at(after)
        end = head if until is None else min(head, await self.seq_at(until, inclusive=True))
        gaps = Gaps(self.server, selection)
        await gaps.check(start)
        async with aclosing(self.reader.batches(selection, start, end)) as batches:
            async for events in batches:
                await gaps.check(start, events)
                for event in upcast_all(events):
                    yield event
                start = events[-1].seq

    async def tail(
        self,
        *,
        types: Types = (),
        after: Moment | None = None,
        key: str | None = None,
        correlation: str | None = None,
    ) -> AsyncGenerator[Event[Any], None]:
        """Yield events as they are appended, for ever, in seq order; from the present on, or after `after`.

        A reader that is slow falls behind: the events wait in Redis, not in memory. Raises `ReplayGap` when they were
        trimmed away meanwhile.
        """
        feed = await self._feed(_selection(types, key, correlation), after)
        try:
            async with aclosing(feed.events()) as events:
                async for event in events:
                    yield event
        finally:
            feed.stop()

    async def history(
        self,
        *,
        types: Types = (),
        since: Moment = 0,
        until: Moment | None = None,
        key: str | None = None,
        correlation: str | None = None,
        limit: int = 50,
    ) -> list[Event[Any]]:
        """Return the newest events first, `limit` at most; `since` and `until` are `replay`'s `after` and `until`."""
        if type(limit) is not int or limit < 1:
            raise InvalidInput(f"limit must be a number, at least 1, not {limit!r}")
        selection = _selection(types, key, correlation)
        head = await self.reader.head()
        start = await self.seq_at(since)
        end = head if until is None else min(head, await self.seq_at(until, inclusive=True))
        found: list[Event[Any]] = []
        async with aclosing(self.reader.backward(selection, start, end)) as events:
            async for event in events:
                found.append(event)
                if len(found) == limit:
                    break
        return found

    async def subscribe(self, types: Types, callback: EventCallback, *, after: Moment | None = None) -> Subscription:
        """Call `callback` (plain or async) with every event of `types` from now on, in this process, in seq order.

        A failing callback is reported in the log and hurts no other. Stop it with ``await subscription.stop()``.
        """
        if not callable(callback):
            raise InvalidInput(f"callback must be a function of an event, not {callback!r}")
        selection = _selection(types, None, None)
        feed = await self._feed(selection, after)
        subscription = Subscription(feed, selection.types, callback, lambda: self.server.highest_seen)
        self._subscriptions = [running for running in self._subscriptions if running.running] + [subscription]
        return subscription

    async def agents(self, agent: str | None = None) -> list[AgentOverview]:
        """Return every agent that ever ran here (or one), with its workers, versions and what each holds."""
        return await self.overview.agents(agent)

    async def lag(self, agent: str | None = None) -> list[Lag]:
        """Return what each agent (or one) has before it, for each partition."""
        return await self.overview.lag(agent)

    async def pause(self, agent: str) -> None:
        """Let the workers of an agent take nothing more; what runs is finished. Lasts until `resume`."""
        await self.overview.pause(agent, paused=True)

    async def resume(self, agent: str) -> None:
        """Let the workers of a paused agent go on."""
        await self.overview.pause(agent, paused=False)

    async def cancel(self, correlation: str) -> int:
        """Cancel a correlation: what is not yet handled is recorded as cancelled, running handlers are cancelled.

        Concerns the events stored so far, and those scheduled so far, which will not come; returns the seq of the last.
        """
        await self.timers.cancel_correlation(correlation)  # what is quicker to become due is stored by then
        head = await self.overview.cancel(correlation)
        await self.timers.cancel_correlation(correlation)  # what a handler scheduled until it was cancelled
        return head

    async def remove_agent(self, agent: str, *, force: bool = False) -> int:
        """Forget an agent that has no living worker, with its groups, states and dead letters; return keys deleted."""
        return await self.overview.remove(agent, force=force)

    async def expire_worker(self, worker: str) -> int:
        """Take the leases of a worker that is known to be dead from it at once; return how many."""
        return await expire_worker(self.server, worker)

    async def dead_letters(self, agent: str | None = None, **wanted: Unpack[Wanted]) -> list[DeadLetter]:
        """Return the events that agents (or one) gave up, by seq.

        What is wanted is said by the fields of `DeadFilter`: seq, types, key, correlation, error, since, until.
        """
        return await self._dead.find(DeadFilter.of(agent, wanted))

    async def redrive(self, agent: str | None = None, **wanted: Unpack[Wanted]) -> list[DeadLetter]:
        """Have dead letters handled again; which ones is said as for `dead_letters`. Return what is on its way.

        An event keeps its seq and its causes. Where its key was parked it takes its old place, else it runs next for
        its key; the handler sees `Handling.redriven`. Entries that are no events, and events that were trimmed away,
        stay.
        """
        return await self._dead.redrive(await self._dead.find(DeadFilter.of(agent, wanted)))

    async def discard(self, agent: str | None = None, **wanted: Unpack[Wanted]) -> list[DeadLetter]:
        """Delete dead letters for good; which ones is said as for `dead_letters`. Return what was deleted.

        A key that was parked for them goes on.
        """
        return await self._dead.discard(await self._dead.find(DeadFilter.of(agent, wanted)))

    async def workers(self, agent: str) -> list[WorkerInfo]:
        """Return the living workers of `agent`, the longest-serving first; none where no such agent ever ran."""
        living = (await survey(self.server, check_agent_name(agent))).workers.values()
        return sorted(living, key=lambda worker: (worker.started_ms, worker.worker))

    async def _feed(self, selection: Selection, after: Moment | None) -> Feed:
        start = await self.reader.head() if after is None else await self.seq_at(after)
        await Gaps(self.server, selection).check(start)
        feed = Feed(self.server, self.reader, self.listener, selection, start)
        await feed.start()
        return feed


def _selection(types: Types, key: str | None, correlation: str | None) -> Selection:
    if not isinstance(types, Iterable):
        raise InvalidInput(f"types are names or patterns like 'order.*', not {types!r}")
    wanted = (types,) if isinstance(types, str) else tuple(types)
    for pattern in wanted:
        check_pattern(pattern)
    if key is not None:
        check_key(key)
    if correlation is not None:
        check_key(correlation, "correlation")
    return Selection(types=wanted, key=key, correlation=correlation)
