"""`Handling`: what a handler may do. Its outputs are collected and stored by the commit, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from spine.asking import Asking
from spine.catalog.types import EventType
from spine.codec import normalise_payload
from spine.coordination.handoff import HOPS, Sequence, done, hand_off
from spine.errors import InvalidInput
from spine.events import Context, Draft, Payload, Priority, from_ms
from spine.handled import DONE, Done
from spine.log.drafts import Write
from spine.payloads import as_dict
from spine.requests import answer, part
from spine.sessions import Session, session_update
from spine.steps import Steps
from spine.timers import Scheduled, due_ms, schedule_writes

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.coordination.routing import Decision, Router


class Handling(Asking):
    """The handling of one event by one agent.

    Attributes:
        event: the event.
        context: its context; its session is the newest unless the handler asked for ``stale="handle"``.
        session: the session, read like a dict and changed with ``session.update(...)``.
        attempt: number of this attempt, from 1.
        redriven: the event comes back from the dead letters.
        moved_on: the session was changed since the event was written, or since what its writer knew of it.
        agent: name of the agent.
    """

    _session: Session | None = None
    _steps: Steps | None = None
    _state_copy: Any = None
    _parts = 0

    @property
    def session(self) -> Session:
        """The session."""
        if self._session is None:
            self._session = Session(self._session_state, self._change_session)
        return self._session

    def end(self) -> None:
        """The handler has ended: what is done here from now on would be lost. Nothing is kept alive by a cycle."""
        self.over, self._session = True, None

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
            self._steps = Steps(self._host.server, self.agent, self._taken, used=self._begun_before)
        return self._steps

    def drop_steps(self) -> tuple[Write, ...]:
        """Return the write that forgets the steps, where there may be any."""
        return self.steps.drop() if self._steps is not None or self._begun_before else ()

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

    def handoff(
        self,
        to: str | Sequence,
        payload: Payload | None = None,
        *,
        type: str | None = None,
        reason: str = "",
        limit: int = HOPS,
    ) -> Done:
        """Hand the work over, with the commit, to the inbox of an agent (or to a `Sequence` of them). May be awaited.

        Context, key, deadline, whoever waits for an answer and the sequence that it is part of go along; type and
        payload stay where none is given.

        Raises `HandoffLoop` when this agent was handed this very work before, `HandoffLimit` after `limit` hands,
        `RequestCycle` when it is the one who waits. With no such agent the handler fails with `NoHandler`.
        """
        hand_off(self, to, payload, type=type, reason=reason, limit=limit)
        return DONE

    def done(
        self, payload: Payload | None = None, *, type: str | None = None, stop: bool = False, reason: str = ""
    ) -> Done:
        """Say that this agent's part is done: the work goes to the next of its `Sequence`. May be awaited.

        The last one's `payload`, and that of one who says ``stop=True``, answers whoever asked and ends the sequence.
        A part is done once: a second time raises `InvalidInput`.
        """
        done(self, payload, type=type, stop=stop, reason=reason)
        return DONE

    def route(self, router: Router, payload: Payload | None = None, *, type: str | None = None) -> Decision:
        """Hand the work to the agent that `router` decides on, and return the decision; its reason travels along.

        Decided by `payload`, and by the event's own where none is given.
        """
        decision = router.decide(self.stored_payload if payload is None else payload)
        self.handoff(decision.to, payload, type=type, reason=decision.reason)
        return decision

    def reply(self, payload: Payload | None = None) -> Done:
        """Answer the request with the commit; does nothing when the event is no request. May be awaited.

        Who hands work over and replies has answered: the other one goes on, and nobody waits for it.
        """
        if self.take_reply() is None:
            return DONE
        event_type = f"{self._taken.event.type}.reply"
        prepared, write = answer(
            self._host.drafts,
            self._taken.event,
            event_type,
            as_dict(payload if payload is not None else {}),
            self.child_context,
            self.agent,
            shown=False,
        )
        self.add((prepared,), (write,))
        return DONE

    async def stream(self, payload: Payload) -> None:
        """Send one part of the answer at once (tokens, progress); the final part is the reply."""
        self.check_going_on()
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
        self.add(writes=schedule_writes(self._host.drafts, prepared, due))
        return Scheduled(prepared.envelope.id, from_ms(due), None)

    async def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return ``function(*args, **kwargs)`` (plain or async), recorded: a later attempt reads it instead.

        For calls to the outside that cost money or must not be repeated. What it returns must be storable like what is
        in a payload; a pydantic model comes back as its dict, in the first attempt as well.
        """
        self.check_going_on()
        return await self.steps.run(self.unique(name), function, *args, **kwargs)

    async def state_at(self, seq: int) -> Any:
        """Return the agent's state of this key at `seq`, folded from the log."""
        return await self._host.state_at(self._taken.event.key, seq)

    def now(self) -> datetime:
        """Return the server's time."""
        return from_ms(self._host.server.now_ms())

    def _change_session(self, changes: Mapping[str, Any]) -> Done:
        event = self._taken.event
        session_id = event.context.session_id or event.key
        prepared, writes = session_update(self._host.drafts, session_id, changes, self.child_context, self.agent)
        self.add((prepared,), writes)
        values = {**self.child_context.session, **prepared.envelope.payload["changes"]}
        values = {name: value for name, value in values.items() if value is not None}
        self._child = self.child_context.replace(session=values, session_seq=self.session.seq, session_id=session_id)
        return DONE
