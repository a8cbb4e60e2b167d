"""`Asking`: what a handler asks of other agents, one or many, and how a later attempt finds the answers again."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable
from typing import Any

import msgspec

from spine.catalog.types import EventType
from spine.coordination.answers import Answers, Reducer
from spine.coordination.fanout import AnswerStream, Asker, Items, Options, Question, fan_out, fan_out_stream, questions
from spine.coordination.gather import Gather
from spine.durations import Duration, in_seconds
from spine.events import Draft, Event, Payload, Priority
from spine.handled import DONE, Done, Handled
from spine.log.drafts import Prepared
from spine.requests import (
    DEFAULT_REQUEST_TIMEOUT_S,
    FAILED,
    EarlierExpired,
    EarlierFailed,
    seconds_until,
    stable_request_id,
    waiting_name,
)


class Asking(Handled):
    """The part of a handling that asks others."""

    async def request(
        self,
        type: str | EventType,
        payload: Payload | None = None,
        *,
        key: str | None = None,
        to: str | None = None,
        timeout: Duration = DEFAULT_REQUEST_TIMEOUT_S,
        priority: Priority | None = None,
    ) -> Event[Any]:
        """Ask another agent and return its answer. Goes out at once; a retry after a crash finds the first answer.

        The concurrency slot is given up meanwhile.
        """
        draft = Draft(type, payload if payload is not None else {}, key, None, priority, to)
        return await self.request_draft(draft, timeout_s=in_seconds(timeout, "timeout"))

    async def request_draft(self, draft: Draft, *, timeout_s: float, call: str | None = None) -> Event[Any]:
        """Send `draft` as a request; `call` names it among the calls of this handler (its type where left out)."""
        call = self.unique(call or f"request {draft.to or draft.name}")
        async with self.waiting():
            return await self.ask(draft, timeout_s=timeout_s, call=call)

    async def ask(self, draft: Draft, *, timeout_s: float, call: str) -> Event[Any]:
        """Send `draft` as the request `call`, a name of its own; the concurrency slot stays.

        In a later attempt the answer to the earlier request is returned or waited for. Where that one failed or came
        too late, it is asked anew.
        """
        for number in itertools.count():
            name = call if number == 0 else f"{call}#{number}"
            request_id = stable_request_id(self._host.server.keys.namespace, self.received.seq, self.agent, name)
            try:
                return await self._ask_once(draft, request_id, timeout_s)
            except (EarlierFailed, EarlierExpired):
                continue
        raise AssertionError("unreachable")

    async def _ask_once(self, draft: Draft, request_id: str, timeout_s: float) -> Event[Any]:
        requests, event = self._host.requests, self.received
        left = seconds_until(self.context.deadline, self._host.server.now_ms())
        seconds = timeout_s if left is None else min(timeout_s, left)
        waiting = (*event.context.waiting, waiting_name(self.agent, event.key))
        completed = requests.completing(request_id, seconds, waiting)
        prepared = self._prepare(msgspec.structs.replace(draft, dedupe_key=request_id), self.child_context, completed)
        prepared.dedupe_ms = requests.remembered_ms(seconds)
        if self._begun_before:
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

    def fan_out(self, type: str, items: Items, *, reducer: Reducer | None = None, **options: Any) -> Awaitable[Answers]:
        """Ask many at once; return what they answered, who did not, and what `reducer` makes of it.

        Args:
            type: of the requests.
            items: their payloads; or one payload for several agents.
            reducer: makes one value of the answers: ``collect`` (the payloads), ``best(by=…)``, ``majority(by=…)``, or
                a function of your own, plain or async, that takes a list of `Answer`.
            options: ``to`` (an agent, or several for one payload), ``quorum`` (so many answers are enough), ``first``
                (``True`` for one, how many, or a function of an `Answer`: one that pleases it is enough), ``timeout``
                in seconds, ``key`` (text, or a function of the item; each item has a key of its own where it is left
                out), ``priority``.

        Goes out at once. After a crash the answers that came are found again: give the items in the same order in
        every attempt. The concurrency slot is given up meanwhile.
        """
        return fan_out(self._asker(type), type, items, reducer=reducer, **options)

    def fan_out_stream(self, type: str, items: Items, **options: Any) -> AnswerStream:
        """Ask many at once and yield each `Answer` as it comes, until enough have; options as for `fan_out`.

        After the loop the stream's `result` tells whether it is partial, and who did not answer.
        """
        return fan_out_stream(self._asker(type), type, items, **options)

    def gather(self, type: str, items: Items, *, then: str, hand_over: bool = False, **options: Any) -> Done:
        """Ask many, with the commit; what came of it arrives as an event of type `then`, even if this agent dies.

        Its payload is an `Answers`: declare the handler with ``Event[Answers]``. It comes when enough have answered, or
        with what there is after ``timeout`` seconds (hours or days, if need be), exactly once. Options as for
        `fan_out`, but ``first`` is no function. May be awaited.

        With `hand_over` whoever handles the result answers the request that is being handled now, and goes on with
        the sequence that it is part of.
        """
        chosen = Options(**options)
        asked = questions(type, items, chosen, base=self.received.key)
        context = self.child_context
        if hand_over:
            received = self.received.context
            reply_to = self.give_away_reply()
            context = context.replace(reply_to=reply_to, waiting=received.waiting, sequence=received.sequence)
        started = Gather(self._host.drafts, asked, then, context, self.received.key, chosen, self.agent)
        prepared, writes = started.prepare(self.child_context, self._host.server.now_ms())
        self.add(prepared, writes)
        self.addressees += started.topics
        return DONE

    def _asker(self, type: str) -> Asker:
        name = self.unique(f"fan-out {type}")

        def send(question: Question, timeout_s: float) -> Awaitable[Event[Any]]:
            return self.ask(question.draft, timeout_s=timeout_s, call=f"{name}/{question.place}")

        return Asker(self.received.key, send, self.waiting)
