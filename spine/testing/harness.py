"""`AgentHarness`: an agent by itself. Given these events, what does it emit, reply and become?"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec
from pydantic import BaseModel

from spine.agent import Agent, on
from spine.catalog.types import Catalog, EventType
from spine.client import Spine
from spine.delivery.holds import FOREVER, Hold, decode_hold
from spine.delivery.records import Done, decode_dead
from spine.errors import InvalidInput, ReducerFailed
from spine.events import Context, Draft, Event, ReplyTo
from spine.keys import partition_of
from spine.names import RESERVED
from spine.requests import new_request_id
from spine.testing.clock import Clock
from spine.testing.memory import forget
from spine.testing.waiting import wait_until
from spine.worker import Worker

StateT = TypeVar("StateT")
Given = Draft | EventType | tuple[Any, ...]
Reply = Mapping[str, Any] | BaseModel
Answer = Reply | Callable[[Event[Any]], Reply]

TIMEOUT_S = 5.0
_names = itertools.count(1)


class HandlerFailed(AssertionError):
    """The agent failed on an event; the message ends with the handler's traceback where there is one."""


class Handled(msgspec.Struct, Generic[StateT], frozen=True):
    """What became of the given events.

    Attributes:
        events: the given events as they were stored.
        outcomes: how the handling of each ended: ``done``, ``folded`` (state only), ``dead``, ``expired``, …
        emitted: what the agent emitted meanwhile, in order; replies are not among it.
        replies: the reply to each given event, ``None`` where there is none.
        state: the agent's state of the last event's key; ``None`` where a reducer that may fail did.
        errors: what it failed on, where failing was allowed.
    """

    events: list[Event[Any]]
    outcomes: list[str]
    emitted: list[Event[Any]]
    replies: list[Event[Any] | None]
    state: StateT
    errors: list[str]

    @property
    def reply(self) -> Any:
        """Payload of the one reply; ``None`` when there is none."""
        found = [reply for reply in self.replies if reply is not None]
        if len(found) > 1:
            raise AssertionError(f"there are {len(found)} replies; look at `replies`")
        return found[0].payload if found else None

    @property
    def said(self) -> list[tuple[str, Any]]:
        """Type and payload of what was emitted, which is what most tests compare."""
        return [(event.type, event.payload) for event in self.emitted]


class AgentHarness(Generic[StateT]):
    """Runs one agent for a test, in this process, on a ``memory://`` server of its own; an async context manager.

    The agent runs as it does in production: events are delivered in order, outputs committed with the
    acknowledgement, the state folded from the log. A handler that raises fails the test at once instead of being
    tried again.

    Args:
        agent: the agent's class.
        before: events that were there before the agent: they are in its state, and it does not handle them.
        catalog: the types, where they are to be checked.
        url: another server.
        timeout: seconds that the agent may take for what `given` gives it.

    Attributes:
        spine: the client, for whatever else a test wants to look at.
        clock: moves the time for the agent; it is put right at the end.
    """

    def __init__(
        self,
        agent: type[Agent[StateT]],
        *,
        before: tuple[Given, ...] = (),
        catalog: Catalog | None = None,
        url: str | None = None,
        timeout: float = TIMEOUT_S,
    ) -> None:
        self._agent = agent
        self._before = before
        self._timeout = timeout
        self._own_url = None if url else f"memory://harness-{secrets.token_hex(6)}"
        self.spine = Spine(url or self._own_url, namespace=f"harness-{secrets.token_hex(6)}", catalog=catalog)
        self.clock = Clock(self.spine)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.spine)
        if self._before:
            await self.spine.publish_many([_draft(given) for given in self._before])
        await self._stack.enter_async_context(Worker(self.spine, self._agent, shutdown_timeout_s=0.0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self.clock.reset()
        if self._own_url is not None:
            forget(self._own_url)

    async def answers(self, type: str | type[EventType], answer: Answer, *, agent: str | None = None) -> None:
        """Have requests of a type answered with `answer`, a payload or a function of the request.

        `agent` stands in for an agent of that name, for requests that go to its inbox.
        """

        class Stub(Agent[None]):
            name = agent or f"stub-{next(_names)}"

            @on(type)
            async def stand_in(self, event, ctx):  # type: ignore[no-untyped-def]  # a dict, whatever the type
                await ctx.reply(answer(event) if callable(answer) else answer)

        await self._stack.enter_async_context(Worker(self.spine, Stub, shutdown_timeout_s=0.0))

    async def given(self, *events: Given, may_fail: bool = False) -> Handled[StateT]:
        """Publish `events` in order, wait until the agent has handled them and what followed, and return all of it.

        An event is a `Draft`, an `EventType`, or a tuple: ``("order.placed", {"sku": 7})``, a key as third.

        Raises `HandlerFailed` when a handler or reducer raises, unless it `may_fail`; `AssertionError` when it takes
        too long.
        """
        requests = [new_request_id() for _ in events]
        start = await self.spine.head()
        stored = [await self._publish(_draft(given), request) for given, request in zip(events, requests, strict=True)]
        errors: list[str] = []
        await wait_until(lambda: self._settled(start, errors), self._timeout, f"{self._agent.name}'s handling")
        if errors and not may_fail:
            raise HandlerFailed("\n".join(errors))
        partitions = [partition_of(event.key, self.spine.server.partitions) for event in stored]
        replies = [
            await self.spine.requests.read_reply(request, partition)
            for request, partition in zip(requests, partitions, strict=True)
        ]
        return Handled(
            events=stored,
            outcomes=[done.outcome if (done := await self._done(event)) else "failed" for event in stored],
            emitted=[
                event
                async for event in self.spine.replay(after=start)
                if event.source == self._agent.name and not _is_own(event)
            ],
            replies=replies,
            state=await self._state_of(stored[-1].key, may_fail) if stored else None,  # type: ignore[arg-type]
            errors=errors,
        )

    async def state(self, key: str) -> StateT:
        """Return the agent's state of a key, folded over the log; ``None`` for an agent without state."""
        if self._agent.state_model is None:
            return None  # type: ignore[return-value]
        return await self.spine.reduce(self._agent, key=key)

    async def _state_of(self, key: str, may_fail: bool) -> StateT | None:
        try:
            return await self.state(key)
        except ReducerFailed:  # it is in the errors
            if may_fail:
                return None
            raise

    async def _publish(self, draft: Draft, request: str) -> Event[Any]:
        """Store an event that may be replied to; unlike a request it has no deadline."""
        if self._agent.handler_of(draft.name) is None and self._agent.reducer_of(draft.name) is None:
            raise InvalidInput(f"{self._agent.name} has no handler or reducer for {draft.name!r}")
        client = self.spine.drafts.producer

        def replied_to(context: Context, partition: int) -> Context:
            return context.replace(reply_to=ReplyTo(request, client, partition))

        prepared = self.spine.drafts.prepare(draft, completed=replied_to)
        return (await self.spine.publisher.append([prepared]))[0]

    async def _settled(self, start: int, errors: list[str]) -> bool:
        """Tell whether every event that concerns the agent has come to an end, and collect what it failed on."""
        reads, head = self._agent.reads(), await self.spine.head()
        mine = [event async for event in self.spine.replay(after=start) if reads(event.topic)]
        unfinished = {event.key for event in mine if await self._done(event) is None}
        if not all([await self._is_held(key) for key in unfinished]):
            return False
        errors[:] = await self._failures(start)
        return head == await self.spine.head()  # else something was emitted meanwhile

    async def _done(self, event: Event[Any]) -> Done | None:
        keys, partition = self.spine.server.keys, partition_of(event.key, self.spine.server.partitions)
        raw = await self.spine.server.command("HGET", keys.done(self._agent.name, partition, event.seq), event.seq)
        return None if raw is None else Done.decode(raw)

    async def _is_held(self, key: str) -> bool:
        keys, partition = self.spine.server.keys, partition_of(key, self.spine.server.partitions)
        raw = await self.spine.server.command("HGET", keys.holds(self._agent.name, partition), key)
        hold = Hold() if raw is None else decode_hold(raw)
        return hold.until_ms >= FOREVER or hold.reason == "retry"

    async def _failures(self, start: int) -> list[str]:
        keys, name = self.spine.server.keys, self._agent.name
        dead, *held = await self.spine.server.commands(
            ("HVALS", keys.dead(name)),
            *(("HVALS", keys.holds(name, partition)) for partition in range(self.spine.server.partitions)),
        )
        letters = [letter for letter in map(decode_dead, dead) if letter.seq > start]
        holds = [decode_hold(raw) for raws in held for raw in raws]
        return [
            *(f"gave up event {one.seq} ({one.type}):\n{one.traceback or one.error}" for one in letters),
            *(f"would try again after {hold.error}" for hold in holds if hold.reason == "retry"),
            *(f"parked a key: {hold.error}" for hold in holds if hold.until_ms >= FOREVER and hold.error),
        ]


def _draft(given: Given) -> Draft:
    if isinstance(given, Draft):
        return given
    if isinstance(given, EventType):
        return Draft(given)
    type, payload, *key = given
    return Draft(type, payload, *key)


def _is_own(event: Event[Any]) -> bool:
    """Tell whether an event is the system's own: a reply, a change of a session."""
    return event.type.startswith(RESERVED) or event.topic.startswith(RESERVED)
