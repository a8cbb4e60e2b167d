"""Many events from a stream of lines: each line one JSON document, stored in batches, errors named by line."""

from __future__ import annotations

import asyncio
import codecs
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, get_type_hints

import msgspec

from spine.client import Spine
from spine.errors import InvalidInput, InvalidPayload, SpineError
from spine.events import Context, Draft, Event, Priority

BATCH_EVENTS = 500
BATCH_BYTES = 4 * 1024 * 1024
READ_BYTES = 1024 * 1024
MAX_LINE_BYTES = 8 * 1024 * 1024

# What an exported event has besides: given anew when it is stored.
_GIVEN = frozenset({"seq", "id", "ts", "source", "topic", "type_version"})
_FIELDS = frozenset({"type", "payload", "key", "context", "priority", "to", "dedupe_key"})
_CONTEXT_TYPES = {name: kind for name, kind in get_type_hints(Context).items() if name != "reply_to"}


class BadLine(SpineError):
    """A line that is not an event; the message names it and says what is wrong. What precedes it is stored."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")
        self.number = number


class Report(msgspec.Struct):
    """What became of the lines so far.

    Attributes:
        lines: how many are dealt with: stored, blank or left out.
        stored: how many events are in the log.
        first_seq: number of the first event.
        last_seq: number of the last one.
        bad_lines: how many lines were left out.
        uncertain: first and last of the lines of which it is not known whether they are stored.
    """

    lines: int = 0
    stored: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    bad_lines: int = 0
    uncertain: tuple[int, int] | None = None

    def note(self, events: Sequence[Event[Any]]) -> None:
        """Count `events` as stored."""
        self.stored += len(events)
        seqs = [event.seq for event in events]
        self.first_seq = min(seqs) if self.first_seq is None else min(self.first_seq, *seqs)
        self.last_seq = max(seqs) if self.last_seq is None else max(self.last_seq, *seqs)


class Ingest:
    """Stores lines as events, in their order.

    Args:
        spine: the client.
        like: what a line that leaves it out takes from here: key, context, priority, inbox.
        event_type: type of every event, a line being its payload; ``None`` when a line is a whole event.
        on_bad_line: called for each bad line, which is then left out; where there is none, a bad line raises.

    Attributes:
        report: what became of the lines so far.
    """

    def __init__(
        self,
        spine: Spine,
        like: Draft,
        *,
        event_type: str | None = None,
        on_bad_line: Callable[[BadLine], None] | None = None,
    ) -> None:
        self._spine = spine
        self._like = like
        self._event_type = event_type
        self._on_bad_line = on_bad_line
        self._read = 0
        self.report = Report()

    async def add(self, lines: Sequence[bytes]) -> None:
        """Store `lines`; what precedes a bad line is stored before `BadLine` is raised."""
        batch: list[tuple[int, Draft]] = []
        size = 0
        for line in lines:
            self._read += 1
            if self._read == 1:
                line = line.removeprefix(codecs.BOM_UTF8)  # editors put it there
            if not line.strip():
                continue
            try:
                batch.append((self._read, draft_of(line, self._like, self._event_type)))
            except InvalidInput as error:
                await self._store(batch)
                batch, size = [], 0
                self._bad(self._read, error)
            size += len(line)
            if len(batch) == BATCH_EVENTS or size > BATCH_BYTES:
                await self._store(batch)
                batch, size = [], 0
        await self._store(batch)
        self.report.lines = self._read

    async def _store(self, batch: list[tuple[int, Draft]]) -> None:
        if not batch:
            return
        self.report.uncertain = (batch[0][0], batch[-1][0])
        try:
            events = await self._spine.publish_many([draft for _, draft in batch])
        except InvalidInput as error:
            self.report.uncertain = None
            await self._store_around_the_bad(batch, error)
        except SpineError as error:
            if error.stored is False:
                self.report.uncertain = None
            raise
        else:
            self.report.uncertain = None
            self.report.lines = batch[-1][0]
            self.report.note(events)

    async def _store_around_the_bad(self, batch: list[tuple[int, Draft]], refusal: InvalidInput) -> None:
        """A batch is stored whole or not at all: find the lines that were refused, and store what is around them."""
        good: list[tuple[int, Draft]] = []
        found = False
        for number, draft in batch:
            try:
                self._spine.drafts.prepare(draft)
                good.append((number, draft))
            except InvalidInput as error:
                found = True
                await self._store(good)
                good = []
                self._bad(number, error)
        if not found:
            raise refusal
        await self._store(good)

    def _bad(self, number: int, error: InvalidInput) -> None:
        bad = BadLine(number, str(error).removesuffix(" Nothing was stored."))
        if self._on_bad_line is None:
            raise bad from error
        self.report.bad_lines += 1
        self.report.lines = number
        self._on_bad_line(bad)


def payload_of(text: bytes) -> dict[str, Any]:
    """Return the payload that `text` holds as JSON. Raises `InvalidPayload`."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidPayload(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidPayload(f"the payload must be a JSON object, not {_kind(value)}")
    return value


def draft_of(line: bytes, like: Draft, event_type: str | None) -> Draft:
    """Return the event that `line` holds. Raises `InvalidInput`; names and contents are not checked yet.

    With `event_type` the line is its payload; without, an object of type, payload and what else a draft has. An
    exported event is taken as well: its number, id, time and source are given anew.
    """
    value = payload_of(line)
    if event_type is not None:
        return msgspec.structs.replace(like, type=event_type, payload=value)
    unknown = value.keys() - _FIELDS - _GIVEN
    if unknown:
        raise InvalidInput(f"unknown field {sorted(unknown)[0]!r}; an event has {', '.join(sorted(_FIELDS))}")
    if not isinstance(value.get("type"), str):
        raise InvalidInput('no "type"')
    payload = value.get("payload", {})
    if not isinstance(payload, dict):
        raise InvalidPayload(f'"payload" must be a JSON object, not {_kind(payload)}')
    topic = value.get("topic", "")
    inbox = topic.removeprefix("@") if isinstance(topic, str) and topic.startswith("@") else None
    return Draft(
        value["type"],
        payload,
        _text(value, "key") or like.key,
        context_of(value["context"]) if value.get("context") else like.context,
        priority_of(value["priority"]) if value.get("priority") is not None else like.priority,
        _text(value, "to") or inbox or like.to,
        _text(value, "dedupe_key"),
    )


def context_of(fields: Any) -> Context:
    """Return the context that JSON `fields` describe. Raises `InvalidInput`."""
    if not isinstance(fields, Mapping):
        raise InvalidInput(f'"context" must be a JSON object, not {_kind(fields)}')
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "reply_to":  # the requester of then does not wait any more
            continue
        if name not in _CONTEXT_TYPES:
            raise InvalidInput(f"unknown field {name!r} in the context; it has {', '.join(sorted(_CONTEXT_TYPES))}")
        try:
            values[name] = priority_of(value) if name == "priority" else msgspec.convert(value, _CONTEXT_TYPES[name])
        except msgspec.ValidationError as error:
            raise InvalidInput(f"context.{name}: {error}") from error
    if isinstance(values.get("deadline"), datetime) and values["deadline"].tzinfo is None:
        values["deadline"] = values["deadline"].astimezone()
    return Context(**values)


def priority_of(value: Any) -> Priority:
    """Return the lane that a word or a number names. Raises `InvalidInput`."""
    try:
        return Priority[value.upper()] if isinstance(value, str) else Priority(value)
    except (KeyError, ValueError):
        raise InvalidInput(f"priority {value!r} is none of urgent, normal, background (0, 1, 2)") from None


def _text(value: Mapping[str, Any], name: str) -> str | None:
    found = value.get(name)
    if found is not None and not isinstance(found, str):
        raise InvalidInput(f'"{name}" must be a string, not {_kind(found)}')
    return found


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")


async def lines(descriptor: int) -> AsyncGenerator[list[bytes], None]:
    """Yield the lines that can be read from `descriptor`, as many at once as there are."""
    rest = b""
    while chunk := await _read(descriptor):
        *complete, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise InvalidInput(f"a line is longer than {MAX_LINE_BYTES:,} bytes")
        if complete:
            yield complete
    if rest:
        yield [rest]


async def _read(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(descriptor, _wake, ready)
    except PermissionError:  # a file: always ready, and no poll takes it
        return os.read(descriptor, READ_BYTES)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, READ_BYTES)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
