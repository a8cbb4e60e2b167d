"""What many who were asked say: `Answers`, who did not answer, when enough have, and reducers that make one of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from spine.errors import InvalidInput
from spine.events import Event

Why = Literal["late", "failed", "unneeded"]
Standing = Literal["open", "met", "short"]


class Answer(BaseModel):
    """One answer.

    Attributes:
        place: which question, from 0, in the order in which they were asked.
        source: the agent that answered.
        payload: what it said.
        seq: of the answer in the log.
    """

    place: int
    source: str
    payload: dict[str, Any]
    seq: int

    @classmethod
    def of(cls, place: int, event: Event[Any]) -> Answer:
        """Return the answer that an event is."""
        return cls.model_construct(place=place, source=event.source, payload=event.payload, seq=event.seq)


class Missing(BaseModel):
    """A question without an answer.

    Attributes:
        place: which question, from 0.
        to: the agent or type that was asked.
        why: ``late`` (not in time), ``failed`` (see `error`) or ``unneeded`` (the others were enough).
        error: what failed.
    """

    place: int
    to: str
    why: Why
    error: str = ""


class Answers(BaseModel):
    """What came of asking many.

    Attributes:
        answers: in the order of the questions.
        missing: who did not answer, in the same order.
        partial: fewer answered than were asked for.
        inline: the payloads are here; ``False`` when they were too large for one event: read them by `seq`.
        value: what the reducer made of the answers.
    """

    answers: list[Answer]
    missing: list[Missing] = []
    partial: bool = False
    inline: bool = True
    value: Any = None

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def payloads(self) -> list[dict[str, Any]]:
        """What was said, in the order of the questions."""
        return [answer.payload for answer in self.answers]


Reducer = Callable[[Sequence[Answer]], Any]


class Enough(msgspec.Struct, frozen=True):
    """When to stop waiting.

    Attributes:
        asked: how many were asked.
        needed: so many answers are enough; more than were asked where only a pleasing one is.
        gives_up: do not wait for the rest when so many cannot come any more.
    """

    asked: int
    needed: int
    gives_up: bool = False

    def standing(self, answered: int, failed: int, *, pleased: bool = False) -> Standing:
        """Return how it stands: ``met``, ``short`` when there is nothing to wait for any more, or ``open``."""
        if pleased or answered >= self.needed:
            return "met"
        outstanding = self.asked - answered - failed
        if outstanding == 0 or (self.gives_up and answered + outstanding < self.needed):
            return "short"
        return "open"


def enough(asked: int, quorum: int | None, first: int | Callable[..., bool] | None) -> Enough:
    """Return when to stop waiting for `asked` answers; all of them where nothing is said."""
    if quorum is not None and not (_is_count(quorum) and quorum <= asked):
        raise InvalidInput(f"quorum is between 1 and the {asked} asked, not {quorum!r}. Nothing was asked.")
    if first is not None and first is not False and not callable(first):
        if quorum is not None or not _is_count(first):
            raise InvalidInput(
                f"first is True, or how many, or a function; and only a function goes with quorum. It is {first!r}, "
                f"and quorum {quorum!r}. Nothing was asked."
            )
        return Enough(asked, min(first, asked))
    if quorum is None:
        return Enough(asked, asked + 1 if callable(first) and asked else asked)
    return Enough(asked, quorum, gives_up=not callable(first))


def _is_count(number: object) -> bool:
    return isinstance(number, int) and number >= 1


def collect(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return every payload, in the order of the questions."""
    return [answer.payload for answer in answers]


def best(by: str = "confidence") -> Reducer:
    """Return a reducer to the answer whose field `by` is highest, the earlier one of equals; ``None`` for none."""

    def reduce(answers: Sequence[Answer]) -> Answer | None:
        rated = [(_number(answer.payload.get(by)), answer) for answer in answers]
        return max(
            ((rating, answer) for rating, answer in rated if rating is not None),
            key=lambda pair: (pair[0], -pair[1].place),
            default=(None, None),
        )[1]

    return reduce


def majority(by: str, *, share: float = 0.5) -> Reducer:
    """Return a reducer to the value of field `by` that more than `share` of the answers have; ``None`` for none."""

    def reduce(answers: Sequence[Answer]) -> Any:
        said = {_canonical(answer.payload.get(by)): answer.payload.get(by) for answer in answers}
        counts = Counter(_canonical(answer.payload.get(by)) for answer in answers)
        if not counts:
            return None
        value, count = counts.most_common(1)[0]
        return said[value] if count > share * len(answers) else None

    return reduce


_canonical = msgspec.json.Encoder(order="sorted").encode


def _number(value: Any) -> float | None:
    """Return `value` when it can be compared: not text, not missing, not NaN."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return float(value) if usable else None
