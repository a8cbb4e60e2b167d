"""Fan-out: many are asked at once, and the wait ends when enough have answered, or at the deadline.

Within a handler each question is a request of its own under a stable name: a retry after a crash finds the answers
that came meanwhile, and asks nobody twice. For a result that arrives even when the asker is gone see `gather`.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any

import msgspec
from pydantic import BaseModel

from spine.coordination.answers import Answer, Answers, Enough, Missing, Reducer, Why, collect, enough
from spine.durations import Duration, in_seconds
from spine.errors import InvalidInput, NoHandler, RequestCycle, RequestError, RequestTimeout
from spine.events import Context, Draft, Event, Payload, Priority
from spine.names import KEY_BYTES

TIMEOUT_S = 30.0

Items = Payload | Iterable[Payload]
KeyOf = str | Callable[[Any], str] | None
First = int | Callable[[Answer], bool] | None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a fan-out may be told; see `Handling.fan_out`."""

    to: str | Sequence[str] | None = None
    key: KeyOf = None
    quorum: int | None = None
    first: First = None
    timeout: Duration = TIMEOUT_S
    priority: Priority | None = None
    context: Context | None = None

    @property
    def timeout_s(self) -> float:
        """The time-out in seconds."""
        return in_seconds(self.timeout, "timeout")


class Question(msgspec.Struct, frozen=True):
    """One of the questions: its place, and the request that asks it."""

    place: int
    draft: Draft

    @property
    def to(self) -> str:
        """Whom it asks: an agent, or whoever handles the type."""
        return self.draft.to or str(self.draft.type)


def questions(type: str, items: Items, options: Options, *, base: str) -> list[Question]:
    """Return what is asked: one payload of several agents, or several payloads.

    Several payloads go under a key each, made of `base`, so that they are worked on side by side; ``key`` chooses
    another: text for one key, which keeps them in order, or a function of the item.
    """

    def draft(item: Any, to: str | None, key: str) -> Draft:
        if options.key is not None:
            key = options.key if isinstance(options.key, str) else options.key(item)
        return Draft(type, item, key, options.context, options.priority, to)

    one = isinstance(items, Mapping | BaseModel)
    if not one and (isinstance(items, str | bytes) or not isinstance(items, Iterable)):
        raise InvalidInput(f"ask with a payload or several payloads, not with {items!r}. Nothing was asked.")
    if isinstance(options.to, str) or options.to is None:
        listed: list[Any] = [items] if one else list(items)
        drafts = [draft(item, options.to, spread(base, place)) for place, item in enumerate(listed)]
    elif one:
        drafts = [draft(items, agent, base) for agent in options.to]
    else:
        raise InvalidInput("give several agents (to=[…]) one payload, or one agent several. Nothing was asked.")
    return [Question(place, draft) for place, draft in enumerate(drafts)]


def spread(base: str, place: int) -> str:
    """Return the key of question number `place`: its own, and the same in every attempt."""
    key = f"{base}/{place}"
    if len(key.encode()) <= KEY_BYTES:
        return key
    return f"{hashlib.blake2b(base.encode(), digest_size=16).hexdigest()}/{place}"


class Asker(msgspec.Struct, frozen=True):
    """Who asks: a handler, or a client.

    Attributes:
        base: what the keys of the questions are made of.
        send: asks one question, within so many seconds, and returns the answer.
        waiting: entered while nothing is to be done but wait.
    """

    base: str
    send: Callable[[Question, float], Awaitable[Event[Any]]]
    waiting: Callable[[], AbstractAsyncContextManager[None]] = nullcontext


class FanOut:
    """One fan-out under way: `asked` are the questions, `rule` says when to stop waiting."""

    def __init__(self, asker: Asker, asked: list[Question], rule: Enough, options: Options) -> None:
        self._asker = asker
        self._asked = asked
        self._rule = rule
        self._timeout_s = options.timeout_s
        self._first = options.first if callable(options.first) else None
        self._came: asyncio.Queue[tuple[Question, Event[Any] | BaseException]] = asyncio.Queue()
        self._pleased = False
        self._answers: dict[int, Answer] = {}
        self._failed: dict[int, Missing] = {}
        self._errors: list[RequestError] = []

    async def answers(self) -> AsyncGenerator[Answer, None]:
        """Ask, and yield the answers as they come, until enough have."""
        tasks = [asyncio.create_task(self._ask(question), name="spine-fan-out") for question in self._asked]
        try:
            while self._standing() == "open":
                answer = self._note(*await self._next())
                if answer is not None:
                    yield answer
            self._nobody_there()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def result(self, reducer: Reducer) -> Answers:
        """Return what came of it so far."""
        came = [self._answers[place] for place in sorted(self._answers)]
        met = self._standing() == "met"
        silent: Why = "unneeded" if met else "late"
        missing = [
            self._failed.get(question.place)
            or Missing.model_construct(place=question.place, to=question.to, why=silent, error="")
            for question in self._asked
            if question.place not in self._answers
        ]
        return Answers.model_construct(answers=came, missing=missing, partial=not met, inline=True, value=reducer(came))

    async def _ask(self, question: Question) -> None:
        try:
            outcome: Event[Any] | BaseException = await self._asker.send(question, self._timeout_s)
        except Exception as error:
            outcome = error
        self._came.put_nowait((question, outcome))

    async def _next(self) -> tuple[Question, Event[Any] | BaseException]:
        if not self._came.empty():
            return self._came.get_nowait()
        async with self._asker.waiting():
            return await self._came.get()

    def _note(self, question: Question, outcome: Event[Any] | BaseException) -> Answer | None:
        if isinstance(outcome, Event):
            answer = self._answers[question.place] = Answer.of(question.place, outcome)
            self._pleased = self._pleased or (self._first is not None and bool(self._first(answer)))
            return answer
        if not isinstance(outcome, RequestError):
            raise outcome
        why: Why = "late" if isinstance(outcome, RequestTimeout) else "failed"
        error = "" if why == "late" else f"{type(outcome).__name__}: {outcome}"
        self._failed[question.place] = Missing.model_construct(
            place=question.place, to=question.to, why=why, error=error
        )
        self._errors.append(outcome)
        return None

    def _standing(self) -> str:
        return self._rule.standing(len(self._answers), len(self._failed), pleased=self._pleased)

    def _nobody_there(self) -> None:
        """Raise when not one of the questions could even be asked."""
        if len(self._errors) == len(self._asked) > 0 and all(
            isinstance(error, NoHandler | RequestCycle) for error in self._errors
        ):
            raise self._errors[0]


class AnswerStream(AsyncGenerator[Answer, None]):
    """The answers of a fan-out as they come, for ``async for``; after that `result` tells who did not answer."""

    def __init__(self, started: FanOut) -> None:
        self._started = started
        self._answers = started.answers()

    def result(self, reducer: Reducer = collect) -> Answers:
        """Return what came, who is missing and whether it is partial; for after the loop, also one left early."""
        return self._started.result(reducer)

    async def asend(self, value: None) -> Answer:
        """Return the next answer."""
        return await self._answers.asend(value)

    async def athrow(self, *error: Any) -> Answer:
        """Raise an error where the stream is."""
        return await self._answers.athrow(*error)

    async def aclose(self) -> None:
        """Stop waiting for answers."""
        await self._answers.aclose()


async def fan_out(asker: Asker, type: str, items: Items, *, reducer: Reducer | None = None, **options: Any) -> Answers:
    """Ask many at once and return what came of it; see `Handling.fan_out`."""
    started = begin(asker, type, items, Options(**options))
    async with asker.waiting(), aclosing(started.answers()) as answers:
        async for _ in answers:
            pass
    result = started.result(reducer or collect)
    if inspect.isawaitable(result.value):
        result.value = await result.value
    return result


def fan_out_stream(asker: Asker, type: str, items: Items, **options: Any) -> AnswerStream:
    """Ask many at once and yield the answers as they come; see `Handling.fan_out_stream`."""
    return AnswerStream(begin(asker, type, items, Options(**options)))


def begin(asker: Asker, type: str, items: Items, options: Options) -> FanOut:
    """Return the fan-out ready to be started."""
    asked = questions(type, items, options, base=asker.base)
    return FanOut(asker, asked, enough(len(asked), options.quorum, options.first), options)


def with_correlation(context: Context | None, new_id: Callable[[], str]) -> Context:
    """Return a context by which everything that is asked now belongs together."""
    context = context or Context()
    return context if context.correlation else context.replace(correlation=new_id())
