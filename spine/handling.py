"""`Handling`: what a handler may do. Its outputs are collected and stored by the commit, all or nothing."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from spine.catalog.types import EventType
from spine.codec import normalise_payload
from spine.connection import Server
from spine.coordination.answers import Answer, Answers, Reducer
from spine.coordination.fanout import Asker, Items, Options, Question, fan_out, fan_out_stream, questions
from spine.coordination.gather import Gather
from spine.delivery.hand import Taken
from spine.errors import InvalidInput
from spine.events import Context, Draft, Event, Payload, Priority, ReplyTo, from_ms
from spine.log.drafts import Completed, Drafts, Prepared, Write
from spine.requests import (
    FAILED,
    EarlierExpired,
    EarlierFailed,
    Requests,
    answer,
    part,
    seconds_until,
    stable_request_id,
    waiting_name,
)
from spine.sessions import Session, SessionState, session_update
from spine.steps import Steps
from spine.timers import Scheduled, due_ms, schedule_writes

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.coordination.handoff import Sequence
    from spine.coordination.routing import Decision, Router

DEFAULT_REQUEST_TIMEOUT_S = 30.0
PATH_KEPT = 64


class Done:
    """What the collecting methods return: it is done already, and may be awaited or not."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE = Done()


class Host(Protocol):
    """What a handling needs of the worker that runs it."""

    name: str
    worker: str
    server: Server
    drafts: Drafts
    requests: Requests
    spine: Spine

    async def append_now(self, prepared: Prepared, dedupe: bool) -> Event[Any]:
        """Store an event at once, not with the commit."""

    async def write_now(self, taken: Taken, writes: tuple[Write, ...]) -> None:
        """Write at once, if the lease still holds."""

    def release_slot(self, taken: Taken) -> None:
        """Give up the concurrency slot: the handler waits for others."""

    async def regain_slot(self, taken: Taken) -> None:
        """Return when the handler has a slot again; at once when it is being cancelled."""

    async def state_at(self, key: str, seq: int) -> Any:
        """Return the state of a key at a seq."""

    def is_cancelled(self, event: Event[Any]) -> bool:
        """Tell whether the correlation of an event was cancelled after it was stored."""


class Handling:
    """The handling of one event by one agent.

    Attributes:
        event: the event.
        context: its context; its session is the newest unless the handler asked for ``stale="handle"``.
        session: the session, read like a dict and changed with ``session.update(...)``.
        attempt: number of this attempt, from 1.
        redriven: the event comes back from the dead letters.
        moved_on: the session was changed since the event was written.
        agent: name of the agent.
    """

    def __init__(
        self,
        host: Host,
        taken: Taken,
        event: Event[Any],
        state: Callable[[], Any] | None,
        session: SessionState,
        *,
        refresh: bool,
    ) -> None:
        self._host = host
        self._taken = taken
        self.event = event
        self._state = state
        self._state_copy: Any = None
        self.attempt = taken.attempt
        self.redriven = taken.redriven
        self.agent = host.name
        self.moved_on = session.seq > event.context.session_seq and session.cause != (event.context.causation or -1)
        if not refresh or not session.seq:
            session = SessionState(event.context.session, event.context.session_seq)
        self._session_state = session
        self._session: Session | None = None
        self.context = event.context
        if refresh and self.moved_on:
            self.context = event.context.replace(session=session.values, session_seq=session.seq)
        self.events: list[Prepared] = []
        self.writes: list[Write] = []
        self._steps: Steps | None = None
        self.replied = False
        self.addressees: tuple[str, ...] = ()
        self._child: Context | None = None
        self._calls: dict[str, int] = {}
        self._parts = 0
        self._waits = 0

    @property
    def received(self) -> Event[Any]:
        """The event as it is stored; `event` may hold the validated model of its payload."""
        return self._taken.event

    @property
    def session(self) -> Session:
        """The session."""
        if self._session is None:
            self._session = Session(self._session_state, self._change_session)
        return self._session

    @property
    def state(self) -> Any:
        """The agent's state of the event's key, the event folded in; a copy: changes to it are lost."""
        if self._state_copy is None and self._state is not None:
            self._state_copy = self._state()
        return self._state_copy

    @property
    def spine(self) -> Spine:
        """The client, for reading; what it publishes is stored at once, outside of the commit."""
        return self._host.spine

    @property
    def steps(self) -> Steps:
        """The recorded steps of this event."""
        if self._steps is None:
            self._steps = Steps(self._host.server, self.agent, self._taken)
        return self._steps

    def drop_steps(self) -> tuple[Write, ...]:
        """Return the write that forgets the steps, where there may be any."""
        taken = self._taken
        first = taken.attempt == 1 and not (taken.suspect or taken.redriven or taken.interrupted)
        return () if self._steps is None and first else self.steps.drop()

    @property
    def child_context(self) -> Context:
        """The context that what is published here inherits."""
        if self._child is None:
            event = self._taken.event
            context = self.context
            self._child = context.replace(
                causation=event.seq,
                path=(*context.path[-PATH_KEPT:], self.agent),
                priority=Priority(self._taken.lane),
                request=context.request or {"seq": event.seq, "type": event.type, "payload": event.payload},
                reply_to=None,
                waiting=(),
                handoffs=(),
                sequence=None,
            )
        return self._child

    def inherit_priority(self, priority: Priority) -> None:
        """Let what is published here inherit another lane than the event's own."""
        self._child = self.child_context.replace(priority=priority)

    def is_cancelled(self, event: Event[Any]) -> bool:
        """Tell whether the correlation of an earlier event was cancelled after it was stored."""
        return self._host.is_cancelled(event)

    def publish(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        key: str | None = None,
        context: Context | None = None,
        priority: Priority | None = None,
        to: str | None = None,
        dedupe_key: str | None = None,
    ) -> Done:
        """Publish an event with the commit. It inherits context and key of the handled event. May be awaited."""
        if dedupe_key is not None:
            raise InvalidInput("a handler's events are stored exactly once by its commit: leave dedupe_key out")
        draft = Draft(type, payload if payload is not None else {}, key, context, priority, to)
        self.collect(draft)
        return DONE

    def collect(self, draft: Draft, inherited: Context | None = None) -> Prepared:
        """Add `draft` to what the commit stores."""
        prepared = self._prepare(draft, inherited or self.child_context)
        self.events.append(prepared)
        return prepared

    def handoff(
        self,
        to: str | Sequence,
        payload: Payload | None = None,
        *,
        type: str | None = None,
        reason: str = "",
        limit: int = 16,
    ) -> Done:
        """Hand the work over, with the commit, to the inbox of an agent (or to a `Sequence` of them). May be awaited.

        Context, key, deadline and whoever waits for an answer go along; type and payload stay where none is given.

        Raises `HandoffLoop` when this agent was handed this very work before, `HandoffLimit` after `limit` hands,
        `RequestCycle` when it is the one who waits. With no such agent the handler fails with `NoHandler`.
        """
        from spine.coordination.handoff import hand_off

        hand_off(self, to, payload, type=type, reason=reason, limit=limit)
        return DONE

    def done(
        self, payload: Payload | None = None, *, type: str | None = None, stop: bool = False, reason: str = ""
    ) -> Done:
        """Say that this agent's part is done: the work goes to the next of its `Sequence`. May be awaited.

        The last one's `payload`, and that of one who says ``stop=True``, answers whoever asked and ends the sequence.
        """
        from spine.coordination.handoff import done

        done(self, payload, type=type, stop=stop, reason=reason)
        return DONE

    def route(self, router: Router, payload: Payload | None = None, *, type: str | None = None) -> Decision:
        """Hand the work to the agent that `router` decides on, and return the decision; its reason travels along.

        Decided by `payload`, and by the event's own where none is given.
        """
        decision = router.decide(self.received.payload if payload is None else payload)
        self.handoff(decision.to, payload, type=type, reason=decision.reason)
        return decision

    def reply(self, payload: Payload | None = None) -> Done:
        """Answer the request with the commit; does nothing when the event is no request."""
        if self._taken.event.context.reply_to is None:
            return DONE
        self.give_away_reply()
        event_type = f"{self._taken.event.type}.reply"
        prepared, write = answer(
            self._host.drafts,
            self._taken.event,
            event_type,
            normalise_payload(payload if payload is not None else {}),
            self.child_context,
            self.agent,
        )
        self.writes.append(write.shifted(len(self.events)))
        self.events.append(prepared)
        return DONE

    def give_away_reply(self) -> ReplyTo | None:
        """Return where the answer goes, ``None`` when nobody waits; whoever takes it is the one who answers."""
        if self.received.context.reply_to is not None and self.replied:
            raise InvalidInput(
                "the request is answered or handed over already: one agent answers it, once. Use ctx.stream(...) for "
                "parts, ctx.publish(..., to=...) for what needs no answer."
            )
        self.replied = True
        return self.received.context.reply_to

    async def check_addressees(self) -> None:
        """Raise `NoHandler` when what was handed over or asked concerns nobody."""
        for topic in self.addressees:
            await self._host.requests.check_handlers(topic)

    async def stream(self, payload: Payload) -> None:
        """Send one part of the answer at once (tokens, progress); the final part is the reply."""
        reply_to = self._taken.event.context.reply_to
        if reply_to is None or reply_to.place is not None:
            return
        self._parts += 1
        writes = part(
            self._host.drafts,
            self._taken.event,
            normalise_payload(payload),
            self.attempt,
            self._parts,
            self._host.server.now_ms(),
        )
        await self._host.write_now(self._taken, writes)

    def schedule(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        key: str | None = None,
        delay: timedelta | float | None = None,
        at: datetime | None = None,
        priority: Priority | None = None,
        to: str | None = None,
    ) -> Scheduled:
        """Schedule an event with the commit."""
        due = due_ms(self._host.server.now_ms(), delay, at)
        draft = Draft(type, payload if payload is not None else {}, key, None, priority, to)
        prepared = self._prepare(draft, self.child_context)
        self.writes += schedule_writes(self._host.drafts, prepared, due)
        return Scheduled(prepared.envelope.id, from_ms(due), None)

    async def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return ``function(*args, **kwargs)`` (plain or async), recorded: a later attempt reads it instead.

        For calls to the outside that cost money or must not be repeated. The result must be storable like a payload.
        """
        return await self.steps.run(self.unique(name), function, *args, **kwargs)

    async def request(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        key: str | None = None,
        to: str | None = None,
        timeout: float = DEFAULT_REQUEST_TIMEOUT_S,
        priority: Priority | None = None,
    ) -> Event[Any]:
        """Ask another agent and return its answer. Goes out at once; a retry after a crash finds the first answer.

        The concurrency slot is given up meanwhile.
        """
        return await self.request_draft(
            Draft(type, payload if payload is not None else {}, key, None, priority, to), timeout=timeout
        )

    async def request_draft(self, draft: Draft, *, timeout: float, call: str | None = None) -> Event[Any]:
        """Send `draft` as a request; `call` names it among the calls of this handler (its type where left out)."""
        call = self.unique(call or f"request {draft.to or draft.name}")
        async with self.waiting():
            return await self.ask(draft, timeout=timeout, call=call)

    async def ask(self, draft: Draft, *, timeout: float, call: str) -> Event[Any]:
        """Send `draft` as the request `call`, a name of its own; the concurrency slot stays.

        In a later attempt the answer to the earlier request is returned or waited for. Where that one failed or came
        too late, it is asked anew.
        """
        again = self.attempt > 1 or self._taken.suspect or self._taken.interrupted or self._taken.redriven
        for number in itertools.count():
            name = call if number == 0 else f"{call}#{number}"
            request_id = stable_request_id(self._host.server.keys.namespace, self.received.seq, self.agent, name)
            try:
                return await self._ask_once(draft, request_id, timeout, again)
            except (EarlierFailed, EarlierExpired):
                continue
        raise AssertionError("unreachable")

    async def _ask_once(self, draft: Draft, request_id: str, timeout: float, again: bool) -> Event[Any]:
        requests, event = self._host.requests, self.received
        left = seconds_until(self.context.deadline, self._host.server.now_ms())
        seconds = timeout if left is None else min(timeout, left)
        waiting = (*event.context.waiting, waiting_name(self.agent, event.key))
        completed = requests.completing(request_id, seconds, waiting)
        prepared = self._prepare(msgspec.structs.replace(draft, dedupe_key=request_id), self.child_context, completed)
        prepared.dedupe_ms = requests.remembered_ms(seconds)
        if again:
            known = await requests.read_reply(request_id, prepared.partition)
            if known is not None and known.type == FAILED:
                raise EarlierFailed
            if known is not None:
                return known

        async def append(ready: Prepared) -> Event[Any]:
            stored = await self._host.append_now(ready, True)
            if stored.id != ready.envelope.id and seconds_until(stored.context.deadline, stored_now()) == 0.0:
                raise EarlierExpired
            return stored

        stored_now = self._host.server.now_ms
        return await requests.send(append, prepared, timeout_s=seconds, waiting=waiting)

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None, None]:
        """Give up the concurrency slot inside the block, once however many wait at the same time."""
        self._waits += 1
        if self._waits == 1:
            self._host.release_slot(self._taken)
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0:
                await self._host.regain_slot(self._taken)

    def fan_out(self, type: str, items: Items, *, reducer: Reducer | None = None, **options: Any) -> Awaitable[Answers]:
        """Ask many at once; return what they answered, who did not, and what `reducer` makes of it.

        Args:
            type: of the requests.
            items: their payloads; or one payload for several agents.
            reducer: makes one value of the answers: ``collect`` (the payloads), ``best(by=…)``, ``majority(by=…)``, or
                a function of your own that takes a list of `Answer`.
            options: ``to`` (an agent, or several for one payload), ``quorum`` (so many answers are enough), ``first``
                (``True``, or a function of an `Answer`: one that pleases it is enough), ``timeout`` in seconds, ``key``
                (text, or a function of the item; each item has a key of its own where it is left out), ``priority``.

        Goes out at once. After a crash the answers that came are found again: give the items in the same order in
        every attempt. The concurrency slot is given up meanwhile.
        """
        return fan_out(self._asker(type), type, items, reducer=reducer, **options)

    def fan_out_stream(self, type: str, items: Items, **options: Any) -> AsyncGenerator[Answer, None]:
        """Ask many at once and yield each `Answer` as it comes, until enough have; options as for `fan_out`."""
        return fan_out_stream(self._asker(type), type, items, **options)

    def gather(self, type: str, items: Items, *, then: str, hand_over: bool = False, **options: Any) -> Done:
        """Ask many, with the commit; what came of it arrives as an event of type `then`, even if this agent dies.

        Its payload is an `Answers`: declare the handler with ``Event[Answers]``. It comes when enough have answered, or
        with what there is after ``timeout`` seconds (hours or days, if need be), exactly once. Options as for
        `fan_out`, but for ``first``, which is ``True`` or nothing. May be awaited.

        With `hand_over` whoever handles the result answers the request that is being handled now.
        """
        chosen = Options(**options)
        asked = questions(type, items, chosen, base=self.received.key)
        context = self.child_context
        if hand_over:
            context = context.replace(reply_to=self.give_away_reply(), waiting=self.received.context.waiting)
        started = Gather(self._host.drafts, asked, then, context, self.received.key, chosen, self.agent)
        prepared, writes = started.prepare(self.child_context, self._host.server.now_ms())
        self.events += prepared
        self.writes += writes
        self.addressees += started.topics
        return DONE

    def _asker(self, type: str) -> Asker:
        name = self.unique(f"fan-out {type}")

        def send(question: Question, timeout_s: float) -> Awaitable[Event[Any]]:
            return self.ask(question.draft, timeout=timeout_s, call=f"{name}/{question.place}")

        return Asker(self.received.key, send, self.waiting)

    async def state_at(self, seq: int) -> Any:
        """Return the agent's state of this key at `seq`, folded from the log."""
        return await self._host.state_at(self._taken.event.key, seq)

    def now(self) -> datetime:
        """Return the server's time."""
        return from_ms(self._host.server.now_ms())

    def _prepare(self, draft: Draft, inherited: Context | None, completed: Completed | None = None) -> Prepared:
        if draft.key is None and draft.context is None:
            draft = msgspec.structs.replace(draft, key=self._taken.event.key)
        return self._host.drafts.prepare(draft, inherited, source=self.agent, completed=completed)

    def _change_session(self, changes: Mapping[str, Any]) -> Done:
        event = self._taken.event
        session_id = event.context.session_id or event.key
        prepared, writes = session_update(self._host.drafts, session_id, changes, self.child_context, self.agent)
        self.writes += (write.shifted(len(self.events)) for write in writes)
        self.events.append(prepared)
        values = {**self.child_context.session, **prepared.envelope.payload["changes"]}
        values = {name: value for name, value in values.items() if value is not None}
        self._child = self.child_context.replace(session=values, session_seq=self.session.seq, session_id=session_id)
        return DONE

    def unique(self, name: str) -> str:
        """Return `name` with its place among the calls of that name, the same in every attempt."""
        count = self._calls[name] = self._calls.get(name, 0) + 1
        return f"{name}/{count}"


async def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return ``function(*args, **kwargs)``, awaited if it is to be."""
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result
