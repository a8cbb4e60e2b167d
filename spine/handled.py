"""`Handled`: the event that a handler has in hand, its context, and what is collected for the commit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from spine.codec import payload_of, unsealed
from spine.connection import Server
from spine.delivery.hand import Taken
from spine.errors import InvalidInput, TooLarge
from spine.events import Context, Draft, Event, Priority, ReplyTo, caused_by
from spine.log.drafts import Completed, Drafts, Prepared, Write
from spine.log.publisher import MAX_BYTES_A_BATCH, MAX_EVENTS_A_BATCH
from spine.requests import Requests
from spine.sessions import SessionState

if TYPE_CHECKING:
    from spine.client import Spine

_PRIORITIES = tuple(Priority)


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


class Handled:
    """What every part of a handling builds on.

    Attributes:
        event: the event.
        context: its context; its session is the newest unless the handler asked for ``stale="handle"``.
        attempt: number of this attempt, from 1.
        redriven: the event comes back from the dead letters.
        moved_on: the session was changed since the event was written, or since what its writer knew of it.
        agent: name of the agent.
        events: what the commit is to store.
        writes: what else it is to write.
        if_given_up: what is written instead, should the event become a dead letter.
        addressees: topics that work was sent to and that somebody has to read.
        over: the handler has ended, and what is done here now would be lost.
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
        self.attempt = taken.attempt
        self._begun_before = taken.attempt > 1 or taken.suspect or taken.redriven or taken.interrupted
        self.redriven = taken.redriven
        self.agent = host.name
        newer = session.seq > event.context.session_seq and session.cause != (event.context.causation or -1)
        # Who is no agent brings no session along: what changed before the event was stored did not change since.
        brought_none = event.context.causation is None and not event.context.session_seq
        self.moved_on = newer and not (brought_none and session.seq < event.seq)
        if not refresh or not session.seq:
            session = SessionState(event.context.session, event.context.session_seq)
        self._session_state = session
        self.context = event.context
        if refresh and newer:
            self.context = event.context.replace(session=session.values, session_seq=session.seq)
        self.events: list[Prepared] = []
        self.writes: list[Write] = []
        self.if_given_up: list[Write] = []
        self._answered = False
        self._goes_on = False
        self._handed_over: int | None = None
        self.addressees: tuple[str, ...] = ()
        self.over = False
        self._outputs = 0
        self._bytes = 0
        self._child: Context | None = None
        self._stored_payload: dict[str, Any] | None = None
        self._calls: dict[str, int] = {}
        self._waits = 0

    @property
    def received(self) -> Event[Any]:
        """The event that is handled; `event` may hold the validated model of its payload."""
        return self._taken.event

    @property
    def stored_payload(self) -> dict[str, Any]:
        """The payload as it is stored, whatever the handler did to the one it was given."""
        if self._stored_payload is None:
            self._stored_payload = payload_of(self._taken.raw)
        return self._stored_payload

    @property
    def child_context(self) -> Context:
        """The context that what is published here inherits."""
        if self._child is None:
            priority = _PRIORITIES[self._taken.lane]
            payload = None if self.context.request else self.stored_payload
            self._child = caused_by(
                self._taken.event, self.agent, context=self.context, priority=priority, payload=payload
            )
        return self._child

    def inherit_priority(self, priority: Priority) -> None:
        """Let what is published here inherit another lane than the event's own."""
        self._child = self.child_context.replace(priority=priority)

    def is_cancelled(self, event: Event[Any]) -> bool:
        """Tell whether the correlation of an earlier event was cancelled after it was stored."""
        return self._host.is_cancelled(event)

    def collect(self, draft: Draft, inherited: Context | None = None) -> Prepared:
        """Add `draft` to what the commit stores."""
        prepared = self._prepare(draft, inherited or self.child_context, shown=False)
        self.add((prepared,))
        return prepared

    def add(self, events: Sequence[Prepared] = (), writes: Iterable[Write] = ()) -> None:
        """Have the commit store `events` and do `writes`, whose `seq_of` counts among these events.

        Raises `InvalidInput` when the handling is over, `TooLarge` when it is more than one commit takes.
        """
        self.check_going_on()
        outputs, size = self._outputs + max(1, len(events)), self._bytes
        for event in events:
            size += len(event.data)
        if outputs > MAX_EVENTS_A_BATCH or size > MAX_BYTES_A_BATCH:
            raise TooLarge(
                f"what the handler of event {self.received.seq} emits is over the limit of {MAX_EVENTS_A_BATCH:,} "
                f"events and {MAX_BYTES_A_BATCH:,} bytes, which are stored at once. Emit less, or go on in the handler "
                "of an event of your own. Nothing was stored."
            )
        self._outputs, self._bytes = outputs, size
        for write in writes:
            self.writes.append(write.shifted(len(self.events)))
        self.events += events

    def check_going_on(self) -> None:
        """Raise `InvalidInput` when the handler has ended: in a task that it left behind, say."""
        if self.over:
            raise InvalidInput(
                f"the handling of event {self.received.seq} is over, and what is done with its ctx now would be lost: "
                "await in the handler what it starts, or use the client (ctx.spine). Nothing was stored."
            )

    def _prepare(
        self, draft: Draft, inherited: Context | None, completed: Completed | None = None, *, shown: bool = True
    ) -> Prepared:
        return self._host.drafts.prepare(
            draft, inherited, source=self.agent, completed=completed, key=self._taken.event.key, shown=shown
        )

    def unique(self, name: str) -> str:
        """Return `name` with its place among the calls of that name, the same in every attempt."""
        count = self._calls[name] = self._calls.get(name, 0) + 1
        return f"{name}/{count}"

    def give_away_reply(self) -> ReplyTo | None:
        """Return where the answer goes, for another agent that goes on with the work; ``None`` when nobody waits.

        Nobody does any more where this agent has answered. Raises `InvalidInput` when another one goes on already,
        where somebody waits or the work is part of a sequence.
        """
        self._check_open(self._goes_on)
        self._goes_on = True
        return None if self._answered else self.received.context.reply_to

    def take_reply(self) -> ReplyTo | None:
        """Return where this agent's own answer goes, ``None`` when nobody waits.

        Work that it has handed over goes on, and nobody waits for it any more. Raises `InvalidInput` when it has
        answered already, or another one is to.
        """
        self._check_open(self._answered or (self._goes_on and self._handed_over is None))
        self._answered = True
        if self._handed_over is not None:
            self.events[self._handed_over] = self._unanswered(self.events[self._handed_over])
        return self.received.context.reply_to

    def hand_over(self, draft: Draft, context: Context) -> None:
        """Collect `draft`, with which another agent goes on."""
        self.collect(draft, context)
        if context.reply_to is not None:
            self._handed_over = len(self.events) - 1

    def _check_open(self, taken: bool) -> None:
        """Raise `InvalidInput` where somebody waits for work that is `taken`; in a sequence it has one taker anyway."""
        context = self.received.context
        in_sequence = context.sequence is not None and (self._answered or self._goes_on)
        if in_sequence or (taken and context.reply_to is not None):
            raise InvalidInput(
                "the work is answered, done or handed over already: one agent answers, and one goes on with it. Use "
                "ctx.stream(...) for parts, ctx.publish(..., to=...) for what needs no answer."
            )

    def _unanswered(self, prepared: Prepared) -> Prepared:
        """Return an event that was handed over without anybody who waits for it."""
        envelope = unsealed(prepared.data)
        return self._host.drafts.assemble(
            envelope.type,
            envelope.payload,
            envelope.context.replace(reply_to=None, waiting=()),
            key=envelope.key,
            topic=prepared.topic,
            source=envelope.source,
            type_version=envelope.type_version,
            event_id=envelope.id,
            shown=False,
        )

    async def check_addressees(self) -> None:
        """Raise `NoHandler` when what was handed over or asked concerns nobody."""
        for topic in self.addressees:
            await self._host.requests.check_handlers(topic)

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None, None]:
        """Give up the concurrency slot inside the block, once however many wait at the same time."""
        self.check_going_on()
        self._waits += 1
        if self._waits == 1:
            self._host.release_slot(self._taken)
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0:
                await self._host.regain_slot(self._taken)
