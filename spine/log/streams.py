"""Which streams a namespace has: every lane and topic that ever got an event, and the small number it goes by."""

from __future__ import annotations

import msgspec

from spine.connection import Server
from spine.events import Priority

REPLIES = "spine.replies"
SESSIONS = "spine.session"
ADDRESSES_AT_HAND = 20_000


class Stream(msgspec.Struct, frozen=True, gc=False):
    """A lane of a topic; each partition has a stream of it.

    Attributes:
        number: what index entries and bells name it by.
        lane: its priority.
        topic: the topic.
    """

    number: int
    lane: int
    topic: str

    @property
    def is_inbox(self) -> bool:
        """Tell whether events of any type may be in it: an agent's inbox, or the answers to requests."""
        return self.topic.startswith("@") or self.topic == REPLIES


def stream_name(lane: int, topic: str) -> str:
    """Return the field of ``Keys.streams`` for a lane of a topic."""
    return f"{int(lane)}/{topic}"


class Streams:
    """The streams known so far; asks the server only when a number or a name is new."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._by_number: dict[int, Stream] = {}
        self._by_name: dict[str, Stream] = {}
        self._addresses: dict[tuple[int, int, str], tuple[str, str, int]] = {}
        self._epoch = ""

    def __len__(self) -> int:
        return len(self._by_number)

    def all(self) -> list[Stream]:
        """Return every stream known, in the order of their birth."""
        return list(self._by_number.values())

    def number(self, lane: int, topic: str) -> int | None:
        """Return the number of a stream, ``None`` where it is not known here."""
        return self.number_of(stream_name(lane, topic))

    def number_of(self, name: str) -> int | None:
        """Return the number of the stream that `stream_name` calls so, ``None`` where it is not known here."""
        found = self._by_name.get(name)
        return None if found is None else found.number

    def learn(self, name: str, number: int) -> None:
        """Add a stream that the server told of."""
        lane, topic = name.split("/", 1)
        stream = Stream(number, int(lane), topic)
        self._by_number[number] = stream
        self._by_name[name] = stream

    def keep_up(self, epoch: str | None = None) -> None:
        """Drop what was known in another epoch than `epoch` (this client's own where left out): data may be gone."""
        epoch = self._server.namespace.epoch if epoch is None else epoch
        if epoch != self._epoch:
            self.forget()
            self._epoch = epoch

    def forget(self) -> None:
        """Drop everything: the namespace is another one."""
        self._by_number.clear()
        self._by_name.clear()
        self._addresses.clear()

    def address(self, partition: int, lane: int, topic: str) -> tuple[str, str, int]:
        """Return key, name and number of the stream of a topic in a partition; 0 where its number is not known here."""
        found = self._addresses.get((partition, lane, topic))
        if found is None:
            name = stream_name(lane, topic)
            found = (self._server.keys.log(partition, lane, topic), name, self.number_of(name) or 0)
            if found[2]:
                if len(self._addresses) >= ADDRESSES_AT_HAND:
                    self._addresses.clear()
                self._addresses[partition, lane, topic] = found
        return found

    async def refresh(self) -> None:
        """Read the streams of the namespace from the server."""
        self.keep_up()
        found = {int(number): name for name, number in (await self._server.hash(self._server.keys.streams)).items()}
        if any(found.get(number) != stream_name(s.lane, s.topic) for number, s in self._by_number.items()):
            self.forget()
        for number in sorted(found):
            if number not in self._by_number:
                self.learn(found[number], number)

    async def get(self, number: int) -> Stream:
        """Return the stream that goes by `number`."""
        found = self._by_number.get(number)
        if found is None:
            await self.refresh()
            found = self._by_number[number]
        return found

    def key(self, partition: int, stream: Stream) -> str:
        """Return the Redis key of `stream` in `partition`."""
        return self._server.keys.log(partition, stream.lane, stream.topic)


LANES = tuple(int(priority) for priority in Priority)
