"""Taking: what one worker reads of one partition, in which order, and up to where everything has been read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from spine.connection import Argument, Server, refused
from spine.delivery.leases import Lease
from spine.delivery.suspects import Suspects
from spine.errors import LeaseLost
from spine.link import error_reply
from spine.log.listener import KEPT
from spine.log.streams import LANES, Stream, Streams

RECOVERY_PAGE = 500
BYTES_A_CALL = 4 * 1024 * 1024
NOT_READ, READ_TO_THE_END, MORE_TO_READ = range(3)
_, GROUP_MADE, NO_STREAM = range(3)


class Read(msgspec.Struct, frozen=True, gc=False):
    """Entries taken from one stream.

    Attributes:
        stream: which stream.
        key: its Redis key.
        entries: as the server gives them.
        recheck: entries up to this seq may have been handled already: the done records tell.
    """

    stream: Stream
    key: str
    entries: list[Any]
    recheck: int


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What is asked of one partition.

    Attributes:
        partition: which one.
        numbers: its streams that are to be read.
        budgets: how many entries of each lane.
        args: what ``take.lua`` is told of each stream.
    """

    partition: Partition
    numbers: list[int]
    budgets: Sequence[int]
    args: Sequence[Argument]


class Carried(msgspec.Struct, frozen=True, gc=False):
    """An event that came with the ring that told of it.

    Attributes:
        stream: which stream it stands in.
        key: the stream's Redis key.
        entry: as the stream has it.
    """

    stream: Stream
    key: str
    entry: list[Any]


class Partition:
    """One partition that this worker holds for an agent.

    Attributes:
        lease: the right to it.
        draining: it is being handed over: nothing more is taken.
        opened: what was held and pending when it was acquired is in hand; only then is more taken.
        opening: count of the times that it had to be opened again: what was read before then is not admitted any more.
        suspects: what was in hand when a worker died.
        failures: how often in a row it could not be read.
        retry_at: when it may be tried again (monotonic seconds).
        looked_at: when every stream was last to be looked at (monotonic seconds).
        has_sessions: a session changed some time or other, not necessarily one of this partition.
        session_changes: how often a session of the partition may have changed, as far as was heard.
        unknown: a stream was heard of that the topic list did not have when it was last looked at. Nothing may run on
            the strength of what is read until it has been looked at again: the stream may hold earlier events.
    """

    def __init__(self, server: Server, streams: Streams, lease: Lease, start_of: Callable[[str], int]) -> None:
        self._server = server
        self._streams = streams
        self._start_of = start_of
        self._bell = server.keys.bell(lease.partition)
        self._heard = "0-0"
        self._recovery = 0
        self._subscribed: dict[int, Stream] = {}
        self._starts: dict[int, str] = {}
        self._others: set[int] = set()
        self._session_streams: frozenset[int] = frozenset()
        self._position: dict[int, int] = {}
        self._recheck: dict[int, int] = {}
        self._grouped: set[int] = set()
        self._rung: dict[int, tuple[float, int]] = {}
        self._carrying: tuple[int, Any] | None = None
        self.lease = lease
        self.draining = False
        self.opened = False
        self.opening = 0
        self.suspects = Suspects(cut_off=not lease.clean)
        self.failures = 0
        self.retry_at = 0.0
        self.looked_at = time.monotonic()
        self.has_sessions = False
        self.session_changes = 0
        self.unknown = True
        self.head = 0

    @property
    def number(self) -> int:
        """Number of the partition."""
        return self.lease.partition

    @property
    def has_news(self) -> bool:
        """Tell whether a stream may hold entries that were not taken."""
        return bool(self._position)

    @property
    def lanes_with_news(self) -> set[int]:
        """The lanes of which a stream may hold entries that were not taken."""
        return {self._subscribed[number].lane for number in self._position}

    def subscribe(self, wanted: list[Stream], others: set[int], sessions: frozenset[int] = frozenset()) -> None:
        """Say which streams to read: all of them, the numbers of those that are none of ours, and those of sessions.

        New ones are read from the start; so is one whose number was another's before the data was lost.
        Whether the list is newer than what was heard the caller knows: it sets `unknown`.
        """
        now = {stream.number: stream for stream in wanted}
        for number in [number for number, known in self._subscribed.items() if now.get(number) != known]:
            del self._subscribed[number]
            self._position.pop(number, None)
            self._grouped.discard(number)
        for number, stream in now.items():
            if number not in self._subscribed:
                self._subscribed[number] = stream
                self._starts[number] = f"{self._start_of(stream.topic)}-0"
                self._position.setdefault(number, 0)
        self._others, self._session_streams = others, sessions
        self.has_sessions = self.has_sessions or bool(sessions)

    def look_everywhere(self) -> None:
        """Rings may have been missed: look at every stream again."""
        self.looked_at = time.monotonic()
        seen = _seq(self._heard)
        for number in self._subscribed:
            self._position.setdefault(number, seen)
            self._rung[number] = _NEWER_THAN_ALL
        self.session_changes += 1
        self.unknown = True

    def read_anew(self) -> None:
        """Look at every stream as if none had been read: what counted as read may not have been taken."""
        self.look_everywhere()
        self._position = dict.fromkeys(self._subscribed, 0)

    def hear(self, rings: list[Any]) -> bool:
        """Note which streams were touched; tell whether there is anything to look at."""
        news = False
        for ring in rings:
            ring_id, fields = ring
            if _id(ring_id) <= _id(self._heard.encode()):
                continue
            for raw in fields[1].split(b","):
                number = int(raw)
                if number in self._session_streams:
                    self.session_changes += 1
                if number in self._subscribed:
                    news = True
                    self._carrying = (number, ring) if len(fields) > 2 and not self._position else None
                    self._position.setdefault(number, _seq(self._heard))
                    self._rung[number] = max(self._rung.get(number, _OLDEST), _id(ring_id))
                elif number not in self._others:
                    news = self.unknown = True
                    self.session_changes += 1
        return news

    def carried(self) -> Carried | None:
        """Return the event that the last ring brought along, if it comes next of all that is read here, else ``None``.

        So it does when everything before was read: that ring is the only one that tells of news. A stream
        without a group is left to a take, which makes it.
        """
        carrying, self._carrying = self._carrying, None
        if carrying is None or self.unknown:
            return None
        number, (ring_id, fields) = carrying
        is_next = len(self._position) == 1 and self._rung.get(number) == _id(ring_id) > _id(self._heard.encode())
        if not is_next or number not in self._position or number not in self._grouped:
            return None
        stream = self._subscribed[number]
        return Carried(stream, self._streams.key(self.number, stream), [ring_id, fields[2:]])

    def brought(self, carried: Carried) -> None:
        """What a ring carried is in hand, as if it had been read; it is still to be taken."""
        self._heard = carried.entry[0].decode()
        self._position[carried.stream.number] = _seq(self._heard)
        self.head = max(self.head, _seq(self._heard))

    def is_taken(self, number: int, seq: int) -> None:
        """A commit takes the event `seq` that a ring of stream `number` carried: it is no news any more."""
        if self._position.get(number) == seq >= self._rung.get(number, _OLDEST)[0]:
            del self._position[number]

    def bounds(self) -> list[int]:
        """Return for each lane up to which seq every stream of it and of more urgent ones has been read."""
        bounds = [self.head] * len(LANES)
        for number, position in self._position.items():
            for lane in range(self._subscribed[number].lane, len(LANES)):
                bounds[lane] = min(bounds[lane], position)
        return bounds

    async def take(self, group: str, budgets: Sequence[int], *, stalled: bool) -> list[Read]:
        """Take from this partition alone; see `ask`. Raises `LeaseLost`."""
        (reads,) = await take_all(self._server, group, [self.ask(budgets, stalled=stalled)])
        if isinstance(reads, Exception):
            raise reads
        return reads

    def ask(self, budgets: Sequence[int], *, stalled: bool) -> Ask:
        """Return what `take_all` is to ask: up to so many entries of each lane, urgent ones first.

        `stalled` says that nothing in hand may run before more is read: the stream furthest behind is then read even
        beyond its budget.
        """
        numbers = self._worth_reading()
        furthest = min(self._position.values(), default=0)
        args: list[Argument] = []
        left = [sum(1 for number in numbers if self._subscribed[number].lane == lane) for lane in LANES]
        for number in numbers:
            lane = self._subscribed[number].lane
            must = stalled and self._position[number] == furthest
            args += (self._starts[number], lane, left[lane], 1 if must else 0, ">")
            left[lane] -= 1
        self._rung.clear()
        return Ask(self, numbers, budgets, args)

    def reads(self, ask: Ask, answers: list[Any], rings: list[Any], head: int) -> list[Read]:
        """Return what was taken.

        What the rings read in the same breath tell of is known before the answers are looked at: a stream that was read
        to its end has no news, whatever rang for it.
        """
        self.head = head
        self._hear_newest_first(rings)
        reads = []
        for number, (group, state, entries) in zip(ask.numbers, answers, strict=True):
            if state == NOT_READ:
                continue
            self._look_at_group(number, group)
            if entries:
                reads.append(self._read(number, entries))
            if state == READ_TO_THE_END and self._rung.get(number, _OLDEST) <= _id(self._heard.encode()):
                self._position.pop(number, None)
            elif state == READ_TO_THE_END:  # it rang after it was read, and before it was known what was read
                self._position[number] = self.head
            else:
                self._position[number] = _seq(entries[-1][0].decode())
        return reads

    def _worth_reading(self) -> list[int]:
        """Return the streams to read, the most urgent and furthest behind first.

        One that is ahead of others of its lane has given events that wait for these: more of it would only fill the
        hand.
        """
        furthest: dict[int, int] = {}
        for number, position in self._position.items():
            lane = self._subscribed[number].lane
            furthest[lane] = min(position, furthest.get(lane, position))
        return sorted(
            (n for n, position in self._position.items() if position <= furthest[self._subscribed[n].lane]),
            key=lambda number: self._subscribed[number].lane,
        )

    async def recover(self, group: str) -> list[Read]:
        """Return what is pending: taken by an earlier holder or in a call whose reply was lost.

        A call of before that is still on its way to the server will not take anything there.
        """
        reads = []
        self._recovery += 1
        for number in list(self._subscribed):
            after = "0"
            more = True
            while more:
                args = (self._starts[number], self._subscribed[number].lane, 1, 0, after)
                ask = Ask(self, [number], [RECOVERY_PAGE] * len(LANES), args)
                (answer,), head = await _call(self._server, group, [ask])
                if isinstance(answer, Exception):
                    raise answer
                rings, (group_state, state, entries) = answer
                self.head = head
                self._hear_newest_first(rings)
                self._look_at_group(number, group_state)
                if group_state == GROUP_MADE:
                    self._position[number] = 0
                if entries:
                    after = entries[-1][0].decode()
                    reads.append(self._read(number, entries))
                more = state == MORE_TO_READ
        return reads

    def _look_at_group(self, number: int, state: int) -> None:
        """Note whether a stream has a group. One made now starts again: what one before had handled comes twice."""
        if state == GROUP_MADE and (not self.lease.first or number in self._grouped):
            self._recheck[number] = self.head
        if state != NO_STREAM:
            self._grouped.add(number)

    def _read(self, number: int, entries: list[Any]) -> Read:
        stream = self._subscribed[number]
        return Read(stream, self._streams.key(self.number, stream), entries, self._recheck.get(number, 0))

    def keys_of(self, ask: Ask) -> list[str]:
        """Return the keys that `ask` is about."""
        streams = [self._streams.key(self.number, self._subscribed[number]) for number in ask.numbers]
        return [self.lease.key, self._bell, *streams]

    def args_of(self, ask: Ask, size: int) -> list[Argument]:
        """Return what ``take.lua`` is told for `ask`, which may bring about `size` bytes."""
        return [
            self.lease.generation,
            self._recovery,
            consumer_of(self.number),
            self._heard,
            size,
            *ask.budgets,
            len(ask.numbers),
            *ask.args,
        ]

    def _hear_newest_first(self, rings: list[Any]) -> None:
        if not rings:
            return
        if len(rings) >= KEPT:
            self.look_everywhere()
        else:
            self.hear(rings)
        self._heard = rings[0][0].decode()


def consumer_of(partition: int) -> str:
    """Return in whose name a partition is read: its own, so that a new holder finds what is pending as its own."""
    return f"p{partition}"


async def take_all(server: Server, group: str, asks: Sequence[Ask]) -> list[list[Read] | Exception]:
    """Take from several partitions in one call; return for each what was read, or what kept it from being read.

    That is `LeaseLost`, or `StreamBlocked`.
    """
    answers, head = await _call(server, group, asks)
    return [
        answer if isinstance(answer, Exception) else ask.partition.reads(ask, answer[1:], answer[0], head)
        for ask, answer in zip(asks, answers, strict=True)
    ]


async def _call(server: Server, group: str, asks: Sequence[Ask]) -> tuple[list[Any], int]:
    size = BYTES_A_CALL // len(asks)
    keys = [server.keys.seq]
    args: list[Argument] = [group, len(asks)]
    for ask in asks:
        keys += ask.partition.keys_of(ask)
        args += ask.partition.args_of(ask, size)
    counter, now_ms, *answers = (await server.evaluate(server.link, "take", keys, args))[0]
    server.note_time(int(now_ms))
    for place, (ask, answer) in enumerate(zip(asks, answers, strict=True)):
        if answer == 0:
            answers[place] = LeaseLost(f"partition {ask.partition.number} of {group} has another holder")
        elif isinstance(answer, bytes):
            answers[place] = refused(error_reply(answer.decode()))
    return answers, int(counter)


_OLDEST: tuple[float, int] = (0.0, 0)
_NEWER_THAN_ALL: tuple[float, int] = (math.inf, 0)


def _seq(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


def _id(entry_id: bytes) -> tuple[int, int]:
    left, _, right = entry_id.partition(b"-")
    return int(left), int(right or 0)
