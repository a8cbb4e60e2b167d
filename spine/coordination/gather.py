"""Durable gather: many are asked, and what came of it arrives as an event, even when the asker is gone.

The questions are stored together, by the asker's commit. Each answer is counted where it is committed; the one that is
enough, or the deadline, makes the gather due in the timetable, and any living client appends the result, once.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from spine.codec import decode
from spine.connection import Server
from spine.coordination.answers import Answer, Answers, Enough, Missing, enough
from spine.coordination.fanout import Options, Question
from spine.errors import DecodeError, InvalidInput, InvalidPayload, TooLarge
from spine.events import Context, Event, ReplyTo, from_ms, to_ms
from spine.log.drafts import Completed, Drafts, Prepared, Write
from spine.log.streams import REPLIES
from spine.names import check_type
from spine.requests import gather_member
from spine.timers import timetable_writes

logger = logging.getLogger("spine")

MAX_QUESTIONS = 2_000
KEPT_MS = 7 * 24 * 3_600_000

_COUNTS = ("left", "needed", "gives_up")


class Gathering(msgspec.Struct, frozen=True, array_like=True):
    """What the timetable keeps of a gather.

    Attributes:
        topic: of the result.
        lane: of the result.
        data: the result as an event that lacks its payload.
        asked: whom each question asks.
        rule: how many answers are enough.
    """

    topic: str
    lane: int
    data: bytes
    asked: tuple[str, ...]
    rule: Enough


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Gathering).decode


class Gather:
    """A gather about to be stored.

    Args:
        drafts: makes events.
        asked: the questions.
        then: type of the result.
        context: of the result.
        key: of the result.
        options: what it was told.
        source: whose events these are.
    """

    def __init__(
        self,
        drafts: Drafts,
        asked: Sequence[Question],
        then: str,
        context: Context,
        key: str,
        options: Options,
        source: str | None = None,
    ) -> None:
        if len(asked) > MAX_QUESTIONS:
            raise InvalidInput(f"a gather asks at most {MAX_QUESTIONS:,} at once, not {len(asked):,}")
        if options.timeout_s <= 0:
            raise InvalidInput("the time-out of a gather is more than 0 seconds. Nothing was asked.")
        if callable(options.first):
            raise InvalidInput("a gather knows no function that answers please: use quorum=, or first= with a number")
        self._drafts = drafts
        self._asked = asked
        self._rule = enough(len(asked), options.quorum, options.first)
        self._result = drafts.assemble(check_type(then), {}, context, key=key, source=source)
        self._source = source
        self._timeout_ms = round(options.timeout_s * 1000)
        self._id = secrets.token_hex(16)

    @property
    def topics(self) -> tuple[str, ...]:
        """Where the questions go."""
        return tuple({f"@{question.draft.to}" if question.draft.to else question.to for question in self._asked})

    def prepare(self, inherited: Context, now_ms: int) -> tuple[list[Prepared], tuple[Write, ...]]:
        """Return the questions, and what is to be stored with them."""
        due_ms = now_ms + self._timeout_ms
        if inherited.deadline is not None:
            due_ms = min(due_ms, to_ms(inherited.deadline))
        questions = [
            self._drafts.prepare(
                question.draft, inherited, source=self._source, completed=self._completing(question.place, due_ms)
            )
            for question in self._asked
        ]
        return questions, self._writes(now_ms, due_ms)

    def _writes(self, now_ms: int, due_ms: int) -> tuple[Write, ...]:
        keys, result, rule = self._drafts.keys, self._result, self._rule
        gathering = Gathering(result.topic, result.lane, result.data, tuple(one.to for one in self._asked), rule)
        state = keys.gather(result.partition, self._id)
        counts = ("left", rule.asked, "needed", rule.needed, "gives_up", int(rule.gives_up))
        due = due_ms if self._asked else 0
        return (
            Write("HSET", state, "hash", counts),
            Write("PEXPIRE", state, "hash", (max(0, due_ms - now_ms) + KEPT_MS,)),
            *timetable_writes(keys, self._member, _encode(gathering), due),
        )

    @property
    def _member(self) -> str:
        return gather_member(self._result.partition, self._id)

    def _completing(self, place: int, due_ms: int) -> Completed:
        reply_to = ReplyTo(self._id, "", self._result.partition, place)
        return lambda context, _: context.replace(reply_to=reply_to, deadline=from_ms(due_ms), waiting=())


def outcome(asked: Sequence[str], rule: Enough, found: Mapping[int, tuple[bool, Event[Any]]]) -> Answers:
    """Return what came of a gather, from the answers counted: place → whether it is one, and the event."""
    answers = [Answer.of(place, event) for place, (ok, event) in sorted(found.items()) if ok]
    met = rule.standing(len(answers), len(found) - len(answers)) == "met"
    missing = []
    for place, to in enumerate(asked):
        if place not in found:
            missing.append(Missing(place=place, to=to, why="unneeded" if met else "late"))
        elif not found[place][0]:
            said = found[place][1].payload
            error = f"{said.get('error_type')}: {said.get('error')}"
            missing.append(Missing(place=place, to=to, why="failed", error=error))
    return Answers(answers=answers, missing=missing, partial=not met)


class Gatherings:
    """Turns gathers that are due into their results, for the timetable of one client."""

    def __init__(self, server: Server, drafts: Drafts) -> None:
        self._server = server
        self._drafts = drafts

    async def due(self, member: str, raw: bytes) -> tuple[list[Prepared], list[Write]]:
        """Return the result of the gather that goes by `member` in the timetable, and what is to be forgotten."""
        _, partition, gather_id = member.split(":")
        state = self._server.keys.gather(int(partition), gather_id)
        gathering = _decode(raw)
        found = _answers(await self._server.hash(state))
        answers = outcome(gathering.asked, gathering.rule, found)
        return [self._result(gathering, answers)], [Write("DEL", state, "hash")]

    def _result(self, gathering: Gathering, answers: Answers) -> Prepared:
        try:
            return self._event(gathering, answers)
        except (TooLarge, InvalidPayload):  # an answer may be as large and as deep as the event that holds it
            bare = [answer.model_copy(update={"payload": {}}) for answer in answers.answers]
            return self._event(gathering, answers.model_copy(update={"answers": bare, "inline": False}))

    def _event(self, gathering: Gathering, answers: Answers) -> Prepared:
        bare = decode(0, gathering.topic, from_ms(0), gathering.data)
        return self._drafts.assemble(
            bare.type,
            answers.model_dump(exclude={"value"}),
            bare.context,
            key=bare.key,
            topic=gathering.topic,
            source=bare.source,
            event_id=bare.id,
        )


def _answers(fields: dict[str, bytes]) -> dict[int, tuple[bool, Event[Any]]]:
    found = {}
    for name, value in fields.items():
        if name in _COUNTS:
            continue
        ok, seq, data = value.split(b" ", 2)
        try:
            found[int(name)] = (ok == b"1", decode(int(seq), REPLIES, from_ms(0), data))
        except DecodeError as error:
            logger.warning("an answer of a gather cannot be read: %s", error)
    return found
