"""Handoff: work passes to another agent, with all that is known about it; `Sequence` names the agents beforehand.

The event that carries it is stored by the commit of the one who hands over, in the inbox of the one who takes over: a
crash on either side leaves the work with exactly one of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, Any

import msgspec

from spine.catalog.types import EventType
from spine.codec import normalise_payload
from spine.errors import HandoffLimit, HandoffLoop, InvalidInput, RequestCycle
from spine.events import Context, Draft, Event, Hop, Itinerary, Payload
from spine.names import check_agent_name, check_type
from spine.requests import waiting_name

if TYPE_CHECKING:
    from spine.client import Spine
    from spine.handling import Handling

HOPS = 16

_encode = msgspec.msgpack.Encoder(order="sorted", enc_hook=str).encode


class Sequence:
    """Agents that work on something one after another.

    Each says ``await ctx.done(result)``, which hands the work to the next; the last one's result answers whoever asked.
    ``ctx.done(result, stop=True)`` ends it early.

    Args:
        agents: in their order; one may come several times.
        then: type of an event that tells the result when the sequence has ended, early or not.
    """

    def __init__(self, *agents: str, then: str | None = None) -> None:
        if not agents:
            raise InvalidInput("name at least one agent of the sequence")
        self.agents = tuple(check_agent_name(agent) for agent in agents)
        self.then = None if then is None else check_type(then)

    def __repr__(self) -> str:
        return f"Sequence({', '.join(map(repr, self.agents))})"

    @property
    def rest(self) -> Itinerary:
        """What is left when the first agent has it."""
        return Itinerary(self.agents[1:], self.then)

    async def start(
        self, spine: Spine, type: str, payload: Payload, *, context: Context | None = None, **options: Any
    ) -> Event[Any]:
        """Publish the work to the first agent; `options` are those of `Spine.publish`."""
        return await spine.publish(type, payload, to=self.agents[0], context=self._context(context), **options)

    async def request(
        self, spine: Spine, type: str, payload: Payload, *, context: Context | None = None, **options: Any
    ) -> Event[Any]:
        """Publish the work to the first agent and return the last one's answer; `options` are those of `Spine.request`.

        `timeout` is for the whole sequence.
        """
        return await spine.request(type, payload, to=self.agents[0], context=self._context(context), **options)

    def _context(self, context: Context | None) -> Context:
        return (context or Context()).replace(sequence=self.rest)


def hand_off(
    handling: Handling,
    to: str | Sequence,
    payload: Payload | None,
    *,
    type: str | None,
    reason: str = "",
    limit: int = HOPS,
) -> None:
    """Collect the event that hands the work of `handling` over; see `Handling.handoff`."""
    agent, rest = heading(to, handling.context.sequence)
    event_type, content = _work(handling, payload, type)
    hop = Hop(
        handling.agent,
        check_agent_name(agent),
        event_type,
        reason,
        digest(agent, event_type, content, handling.child_context.session),
    )
    hops = next_hops(handling.context.handoffs, hop, limit)
    _pass_on(handling, agent, event_type, content, hops, rest)


def done(
    handling: Handling, payload: Payload | None, *, type: str | None, stop: bool = False, reason: str = ""
) -> None:
    """Collect what follows when an agent has done its part; see `Handling.done`."""
    sequence = handling.context.sequence
    event_type, content = _work(handling, payload, type)
    agent, rest = advance(sequence, stop=stop)
    if agent is not None:
        hops = (*handling.context.handoffs, Hop(handling.agent, agent, event_type, reason))
        _pass_on(handling, agent, event_type, content, hops, rest)
        return
    handling.reply(content)
    if sequence is not None and sequence.then is not None:
        why = reason or ("stopped early" if stop and sequence.left else "")
        hops = (*handling.context.handoffs, Hop(handling.agent, "", sequence.then, why))
        handling.collect(Draft(sequence.then, content), handling.child_context.replace(handoffs=hops))


def next_hops(hops: Many[Hop], hop: Hop, limit: int = HOPS) -> tuple[Hop, ...]:
    """Return the chain of handoffs with `hop` added, or refuse it.

    The same work goes to the same agent once: a second time needs another type, payload or session than before, or it
    would go round for ever (`HandoffLoop`). Through more than `limit` hands it does not go at all (`HandoffLimit`).
    The steps of a sequence count for neither: they were chosen beforehand and come to an end.
    """
    free = [earlier for earlier in hops if earlier.work]
    chain = " → ".join([*(earlier.source for earlier in hops), hop.source, hop.to])
    if any(earlier.to == hop.to and earlier.work == hop.work for earlier in free):
        raise HandoffLoop(
            f"{hop.to!r} was handed this very work before ({chain}): type, payload and session are the same. Say what "
            "is new in the payload or the session, or hand it to somebody else."
        )
    if len(free) >= limit:
        raise HandoffLimit(f"the work went through {len(free)} hands already ({chain}); the limit is {limit}")
    return (*hops, hop)


def heading(to: str | Sequence, sequence: Itinerary | None) -> tuple[str, Itinerary | None]:
    """Return the agent that work is handed to, and the sequence that it is part of from there on.

    One agent takes the place of another in the sequence. A sequence within a sequence is refused.
    """
    if isinstance(to, str):
        return to, sequence
    if sequence is not None and (sequence.left or sequence.then):
        left = ", ".join(sequence.left) or sequence.then
        raise InvalidInput(
            f"the work is part of a sequence ({left} still to come) and cannot begin another: hand it to one agent, "
            "who says ctx.done(...) in your place."
        )
    return to.agents[0], to.rest


def advance(sequence: Itinerary | None, *, stop: bool) -> tuple[str | None, Itinerary | None]:
    """Return the next agent of a sequence and what is left after it; ``None`` for both at its end."""
    if sequence is None or stop or not sequence.left:
        return None, None
    return sequence.left[0], Itinerary(sequence.left[1:], sequence.then)


def digest(agent: str, event_type: str, payload: dict[str, Any], session: dict[str, Any]) -> str:
    """Return a short digest of what is handed over, the same in every process."""
    return hashlib.blake2b(_encode([agent, event_type, payload, session]), digest_size=8).hexdigest()


def _work(handling: Handling, payload: Payload | None, type: str | None) -> tuple[str, dict[str, Any]]:
    """Return type and payload of what is handed over: the event's own where nothing else is given."""
    event = handling.received
    if type is None:
        type = payload.event_type if isinstance(payload, EventType) and payload.event_type else event.type
    return type, handling.stored_payload if payload is None else normalise_payload(payload)


def _pass_on(
    handling: Handling,
    agent: str,
    event_type: str,
    payload: dict[str, Any],
    hops: tuple[Hop, ...],
    rest: Itinerary | None,
) -> None:
    event = handling.received
    if waiting_name(agent, event.key) in event.context.waiting:
        raise RequestCycle(
            f"{agent!r} waits for the answer to this work about key {event.key!r} and could never take it over. "
            "Nothing was stored."
        )
    context = handling.child_context.replace(
        handoffs=hops, sequence=rest, reply_to=handling.give_away_reply(), waiting=event.context.waiting
    )
    handling.hand_over(Draft(event_type, payload, event.key, None, None, agent), context)
    handling.addressees += (f"@{agent}",)
