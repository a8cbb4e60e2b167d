"""How the arguments of ``append.lua`` are laid out, and what ``commit.lua`` shares with it."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from spine.connection import Argument
from spine.keys import Keys
from spine.log.drafts import Prepared, Write
from spine.log.streams import Streams


class ScriptCall:
    """Collects the keys and arguments of one call; a key is named by its place, each only once.

    Args:
        keys: of the namespace.
        producer: id of the producer whose batches are remembered.
        streams: to know the number of a stream; unknown ones are left to the script.
    """

    def __init__(self, keys: Keys, producer: str, streams: Streams) -> None:
        self._keys = keys
        self._streams = streams
        streams.keep_up()
        self.keys: list[str] = [keys.meta, keys.seq, keys.clock, keys.streams, keys.producer(producer)]
        self._places: dict[str, int] = {}
        self._by_key: dict[str, int] = {}
        self._by_correlation: dict[str, int] = {}
        self._stream_places: dict[tuple[int, int, str], int] = {}
        self._bells: dict[int, int] = {}
        self._stream_names: list[str] = []
        self._stream_heads: list[int] = []
        self._unknown: list[Argument] = []

    def place(self, key: str) -> int:
        """Return the place of `key` among KEYS."""
        place = self._places.get(key)
        if place is None:
            self.keys.append(key)
            place = self._places[key] = len(self.keys)
        return place

    def events(self, prepared: Sequence[Prepared]) -> list[Argument]:
        """Return the arguments of all events of a call, their count first."""
        keys, names = self.keys, self._keys
        streams, by_key, by_correlation = self._stream_places, self._by_key, self._by_correlation
        places: list[int] = []
        for event in prepared:
            envelope = event.envelope
            key, correlation = envelope.key, envelope.context.correlation
            stream = streams.get((event.partition, event.lane, event.topic))
            if stream is None:
                stream = self._add_stream(event.partition, event.lane, event.topic)
            indexed = by_key.get(key)
            if indexed is None:
                keys.append(names.by_key(event.partition, key))
                indexed = by_key[key] = len(keys)
            correlated = 0
            if correlation != key:
                correlated = by_correlation.get(correlation, 0)
                if not correlated:
                    keys.append(names.by_correlation(correlation))
                    correlated = by_correlation[correlation] = len(keys)
            places += (stream, indexed, correlated)
        heads = struct.pack(f">{len(places)}H", *places)
        return [len(prepared), heads, *[event.data for event in prepared]]

    def _add_stream(self, partition: int, lane: int, topic: str) -> int:
        key, name, number = self._streams.address(partition, lane, topic)
        if not number:
            self._unknown.append(name)
        self.keys.append(key)
        self._stream_heads += (len(self.keys), self._bell(partition), partition, number >> 16, number & 0xFFFF)
        self._stream_names.append(name)
        place = self._stream_places[partition, lane, topic] = len(self._stream_names)
        return place

    def _bell(self, partition: int) -> int:
        place = self._bells.get(partition)
        if place is None:
            place = self._bells[partition] = self.place(self._keys.bell(partition))
        return place

    def writes(self, writes: Iterable[Write]) -> list[Argument]:
        """Return the arguments of plain writes, their count first."""
        args: list[Argument] = []
        count = 0
        for write in writes:
            count += 1
            values = (*map(self.place, write.other_keys), *write.args) if write.other_keys else write.args
            args += (write.command, self.place(write.key), write.holds, write.seq_of, len(values), *values)
        return [count, *args]

    def streams_args(self) -> list[Argument]:
        """Return the arguments that describe the streams touched, their count first."""
        heads = struct.pack(f">{len(self._stream_heads)}H", *self._stream_heads)
        return [len(self._stream_names), heads, *self._unknown]

    def learn(self, registered: str) -> None:
        """Take over the numbers that the script gave to streams unknown here (``place=number,…`` or ``-``)."""
        if registered == "-":
            return
        for pair in registered.split(","):
            place, number = pair.split("=")
            self._streams.learn(self._stream_names[int(place) - 1], int(number))
