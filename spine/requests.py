"""Requests: an event whose answer comes back, on a reply stream of its own and through the client's one inbox."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from typing import Any

import msgspec

from spine.codec import decode
from spine.connection import Server
from spine.errors import DecodeError, InvalidInput, NoHandler, RequestCycle, RequestFailed, RequestTimeout
from spine.events import Context, Event, ReplyTo, from_ms
from spine.link import ClientClosed
from spine.log.drafts import Completed, Drafts, Prepared, Write
from spine.log.listener import Entries, Listener
from spine.log.streams import REPLIES
from spine.names import matcher

logger = logging.getLogger("spine")

DEFAULT_REQUEST_TIMEOUT_S = 30.0
REPLY_TTL_MS = 300_000
FAILED = "spine.request.failed"
GATHER = "gather"
_REQUEST_ID = re.compile("[0-9A-Za-z_-]{1,64}")


class EarlierFailed(Exception):
    """This very request failed before: it has to be asked anew."""


class EarlierExpired(Exception):
    """This very request was asked before, and its time is over: it has to be asked anew."""


class _Waiter(msgspec.Struct, eq=False):
    """Somebody waits for the answer to one request; `parts` hears of each part, `final` of the last."""

    final: asyncio.Future[Event[Any]]
    parts: asyncio.Queue[Event[Any]] | None = None


def check_request_id(request_id: str) -> str:
    """Return `request_id` when it is one. Raises `InvalidInput`."""
    if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
        raise InvalidInput(
            f"a request id has 1 to 64 letters, digits, - and _ (secrets.token_hex(16), a UUID), not {request_id!r}. "
            "Nothing was stored."
        )
    return request_id


def new_request_id() -> str:
    """Return 128 random bits in hex."""
    return secrets.token_hex(16)


class Requests:
    """Sends requests for one client and hands the answers to those who wait."""

    def __init__(self, server: Server, listener: Listener, client: str) -> None:
        self._server = server
        self._listener = listener
        self._client = client
        self._waiting: dict[str, _Waiter] = {}
        self._inbox_watched: asyncio.Task[Any] | None = None
        self._handlers: dict[str, list[str]] = {}
        self._handlers_of: dict[str, list[str]] = {}

    def completing(self, request_id: str, timeout_s: float, waiting: tuple[str, ...] = ()) -> Completed:
        """Return what makes a context that of a request: where the answer goes, the earlier of the two deadlines."""

        def complete(context: Context, partition: int) -> Context:
            deadline = from_ms(self._server.now_ms() + round(timeout_s * 1000))
            if context.deadline is not None:
                deadline = min(deadline, context.deadline)
            return context.replace(
                reply_to=ReplyTo(request_id, self._client, partition), deadline=deadline, waiting=waiting
            )

        return complete

    def remembered_ms(self, timeout_s: float) -> int:
        """Return how long a request is remembered, so that a retry finds it: as long as its answer can be read."""
        return round(timeout_s * 1000) + REPLY_TTL_MS

    async def send(
        self,
        append: Callable[[Prepared], Awaitable[Event[Any]]],
        prepared: Prepared,
        *,
        timeout_s: float,
        parts: asyncio.Queue[Event[Any]] | None = None,
        waiting: tuple[str, ...] = (),
        anybody: bool = False,
    ) -> Event[Any]:
        """Store a request by `append` and return its answer, within its deadline and `timeout_s`.

        With `anybody`, others than agents may answer, and it is not asked whether any agent does. `waiting` names the
        (agent, key) that already wait in this chain, to find cycles. Raises `NoHandler`, `RequestCycle`,
        `RequestTimeout` or `RequestFailed`.
        """
        reply_to = prepared.envelope.context.reply_to
        assert reply_to is not None
        left = seconds_until(prepared.envelope.context.deadline, self._server.now_ms())
        timeout_s = timeout_s if left is None else min(timeout_s, left)
        if not anybody:
            await self._check_cycle(prepared, waiting)
        await self._watch_inbox()
        waiter = _Waiter(asyncio.get_running_loop().create_future(), parts)
        self._waiting[reply_to.request] = waiter
        stored: Event[Any] | None = None
        try:
            async with asyncio.timeout(timeout_s):
                stored = await append(prepared)
                if stored.id != prepared.envelope.id:
                    await self._reattach(reply_to)
                answer = await waiter.final
        except TimeoutError:
            seconds = f"{round(timeout_s, 2):g}"
            became = "is in the log" if stored else "may be in the log or not"
            raise RequestTimeout(
                f"no answer to {prepared.envelope.type!r} within {seconds} s. The request {became}, and is not "
                "handled after its deadline.",
                stored=True if stored else None,
            ) from None
        finally:
            self._waiting.pop(reply_to.request, None)
            del waiter  # an error that it brings holds this frame: they would hold each other
        return answer

    async def read_reply(self, request_id: str, partition: int) -> Event[Any] | None:
        """Return the final answer to a request if there is one (until its TTL ends); for one who comes back."""
        entries = await self._server.command("XRANGE", self._server.keys.reply(partition, request_id), "-", "+")
        for _, (head, data) in entries:
            found = _Part.read(head.split(), data)
            if found.final:
                return found.event()
        return None

    async def handlers_of(self, topic: str) -> list[str]:
        """Return the agents that ever declared a handler for `topic`."""
        found = self._handlers_of.get(topic) or self._known_handlers(topic)
        if not found:
            declared = await self._server.hash(self._server.keys.handlers)
            self._handlers = {pattern: names.decode().split() for pattern, names in declared.items()}
            self._handlers_of.clear()
            found = self._known_handlers(topic)
        if found:
            self._handlers_of[topic] = found
        return found

    def _known_handlers(self, topic: str) -> list[str]:
        return sorted(
            {
                name
                for pattern, names in self._handlers.items()
                if pattern == topic or ("*" in pattern and not topic.startswith("@") and matcher(pattern)(topic))
                for name in names
            }
        )

    async def check_handlers(self, topic: str) -> list[str]:
        """Return the agents that ever declared a handler for `topic`. Raises `NoHandler`."""
        agents = await self.handlers_of(topic)
        if not agents:
            raise NoHandler(
                f"no agent ever declared a handler for {topic!r}: nobody would answer. Nothing was stored. "
                "Start the agent once, or check the name."
            )
        return agents

    async def _check_cycle(self, prepared: Prepared, waiting: tuple[str, ...]) -> None:
        agents = await self.check_handlers(prepared.topic)
        cycle = [name for name in agents if waiting_name(name, prepared.envelope.key) in waiting]
        if cycle and len(cycle) == len(agents):
            raise RequestCycle(
                f"{', '.join(cycle)} waits for an answer about key {prepared.envelope.key!r} already and could never "
                f"answer {prepared.envelope.type!r}. Nothing was stored."
            )

    async def _watch_inbox(self) -> None:
        if self._inbox_watched is None:
            self._inbox_watched = asyncio.ensure_future(
                self._listener.watch(self._listener.inbox, self._hear, after="0-0")
            )
        await self._inbox_watched

    def _hear(self, entries: Entries | None) -> None:
        if self._listener.closed:
            self._end_waiting()
        for _, fields in entries or ():
            for i in range(0, len(fields), 2):
                request, *words = fields[i].split()
                waiter = self._waiting.get(request.decode())
                if waiter is not None:
                    _give(waiter, _Part.read(words, fields[i + 1]))

    def _end_waiting(self) -> None:
        """Tell those who wait that no answer comes to this client any more."""
        for waiter in self._waiting.values():
            if not waiter.final.done():
                waiter.final.set_exception(ClientClosed("the client was closed meanwhile", stored=True))

    async def _reattach(self, reply_to: ReplyTo) -> None:
        """The request was sent before, by one who died: listen to its reply stream, which rings nobody here."""
        key = self._server.keys.reply(reply_to.partition, reply_to.request)

        def hear(entries: Entries | None) -> None:
            waiter = self._waiting.get(reply_to.request)
            for _, (head, data) in entries or ():
                if waiter is not None:
                    _give(waiter, _Part.read(head.split(), data))

        waiter = self._waiting[reply_to.request]
        watch = await self._listener.watch(key, hear, after="0-0")
        waiter.final.add_done_callback(lambda _: self._listener.unwatch(watch))


async def stream_parts(
    sending: asyncio.Task[Event[Any]], parts: asyncio.Queue[Event[Any]]
) -> AsyncGenerator[Event[Any], None]:
    """Yield the parts of an answer as they come, its final part last."""
    getting: asyncio.Future[Event[Any]] = asyncio.get_running_loop().create_future()
    try:
        while not sending.done() or not parts.empty():
            getting = asyncio.create_task(parts.get(), name="spine-request-part")
            await asyncio.wait({getting, sending}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                yield getting.result()
            else:
                getting.cancel()
        yield sending.result()
    finally:
        getting.cancel()
        sending.cancel()
        await asyncio.gather(getting, sending, return_exceptions=True)


def waiting_name(agent: str, key: str) -> str:
    """Return how a chain of requests notes that `agent` waits on `key`."""
    return f"{agent}\n{key}"


def answer(
    drafts: Drafts,
    request: Event[Any],
    event_type: str,
    payload: dict[str, Any],
    context: Context,
    source: str,
    *,
    shown: bool = True,
) -> tuple[Prepared, Write]:
    """Return the event and the write that answer `request`; the write's `seq_of` is 1 (see `Write.shifted`).

    Raises `InvalidPayload` naming the field that cannot be stored. For `shown` see `Drafts.prepare`.
    """
    reply_to = request.context.reply_to
    assert reply_to is not None
    prepared = drafts.assemble(
        event_type,
        payload,
        context,
        key=request.key,
        topic=REPLIES,
        source=source,
        priority=request.context.priority,
        shown=shown,
    )
    keys = drafts.keys
    if reply_to.place is not None:
        return prepared, Write(
            "gather",
            keys.gather(reply_to.partition, reply_to.request),
            "hash",
            (gather_member(reply_to.partition, reply_to.request), reply_to.place, int(event_type != FAILED)),
            seq_of=1,
            other_keys=(keys.due, keys.control),
        )
    write = Write(
        "answer",
        keys.reply(reply_to.partition, reply_to.request),
        "stream",
        (reply_to.request, REPLY_TTL_MS),
        seq_of=1,
        other_keys=(keys.inbox(reply_to.inbox), keys.scratch),
    )
    return prepared, write


def gather_member(partition: int, gather: str) -> str:
    """Return how the timetable names a gather (see `spine.coordination.gather`)."""
    return f"{GATHER}:{partition}:{gather}"


def part(
    drafts: Drafts, request: Event[Any], payload: dict[str, Any], attempt: int, number: int, now_ms: int
) -> tuple[Write, ...]:
    """Return the writes that deliver one part of an answer; its id ends in the attempt and its number."""
    reply_to = request.context.reply_to
    assert reply_to is not None
    prepared = drafts.assemble(
        f"{request.type}.part",
        payload,
        request.context.replace(reply_to=None, causation=request.seq),
        key=request.key,
        topic=REPLIES,
        event_id=f"{request.id}/{attempt}/{number}",
    )
    return (
        Write(
            "part",
            drafts.keys.reply(reply_to.partition, reply_to.request),
            "stream",
            (reply_to.request, REPLY_TTL_MS, request.seq, now_ms, prepared.data),
            other_keys=(drafts.keys.inbox(reply_to.inbox), drafts.keys.scratch),
        ),
    )


class _Part(msgspec.Struct, frozen=True, gc=False):
    """One part of an answer as it is delivered, not decoded yet.

    Attributes:
        seq: its number; of a part that is not final, that of the request.
        ts_ms: when.
        final: it is the last part.
        data: the event.
    """

    seq: int
    ts_ms: int
    final: bool
    data: bytes

    @classmethod
    def read(cls, words: list[bytes], data: bytes) -> _Part:
        """Return the part that was stored under ``seq ts last``."""
        seq, ts_ms, last = words
        return cls(int(seq), int(ts_ms), last != b"0", data)

    def event(self) -> Event[Any]:
        """Return it as an event. Raises `DecodeError`."""
        return decode(self.seq, REPLIES, from_ms(self.ts_ms), self.data)


def _give(waiter: _Waiter, part: _Part) -> None:
    try:
        event = part.event()
    except DecodeError as error:
        logger.warning("an answer cannot be read: %s", error)
        return
    if not part.final:
        if waiter.parts is not None:
            waiter.parts.put_nowait(event)
    elif waiter.final.done():
        return
    elif event.type == FAILED:
        waiter.final.set_exception(RequestFailed(f"{event.payload.get('error_type')}: {event.payload.get('error')}"))
    else:
        waiter.final.set_result(event)


def stable_request_id(*parts: Any) -> str:
    """Return an id that is the same for the same `parts` in every process, so that a retry finds its first request."""
    import hashlib

    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def seconds_until(deadline: datetime | None, now_ms: int) -> float | None:
    """Return the seconds from `now_ms` to `deadline`."""
    return None if deadline is None else max(0.0, deadline.timestamp() - now_ms / 1000)
