"""Import: a log out of the lines of an export, into an empty namespace, numbers and times included."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from spine.client import Spine
from spine.codec import HARD_MAX_BYTES
from spine.connection import FORMAT, INCOMPLETE, Argument
from spine.errors import InvalidInput, Misconfigured
from spine.faults import fault
from spine.keys import partition_of
from spine.log.streams import stream_name
from spine.past.export import END, KIND, VERSION, Tally
from spine.past.lines import Line, from_value, whole
from spine.sessions import UPDATED, stored_changes

BATCH = 500
BATCH_BYTES = 2 * 1024 * 1024
_BESIDE = frozenset({"catalog", "gone", "state", "snap", "session"})


class Imported(msgspec.Struct, kw_only=True):
    """What an import did.

    Attributes:
        events: how many events are in the log now.
        last_seq: the last number that counts as given.
        present: how many of them an earlier, broken off import had stored.
    """

    events: int = 0
    last_seq: int = 0
    present: int = 0


class Import(Spine):
    """A client of a namespace that is being filled: an empty one, or one whose import was broken off.

    ``async with Import(url, namespace="copy") as target: await target.load(lines)``. Nobody else can open the
    namespace until everything is in.
    """

    _accepts_incomplete = True

    async def load(
        self, lines: AsyncIterable[bytes] | Iterable[bytes], *, told: Callable[[int], None] = lambda events: None
    ) -> Imported:
        """Store the events of `lines` as they were; return what was done.

        Broken off at any moment, the same call with the same lines goes on. Raises `InvalidInput` for lines that are no
        export, not a whole one, or not the one that was begun, and `Misconfigured` when the namespace is not empty.
        """
        begun_at, begun_sum = await self._imported()
        report, tally = Imported(last_seq=begun_at), Tally()
        batch: list[Line] = []
        size = 0
        header: dict[str, Any] | None = None
        async with aclosing(self._read(lines, tally)) as read:
            async for number, length, value in read:
                if header is None:
                    header = value
                    await self._begin(header)
                elif _BESIDE & value.keys():
                    await self._load_what_is_beside(value)
                else:
                    batch.append(_event_of(number, value))
                    if batch[-1].seq <= tally.last_seq:
                        raise InvalidInput(f"line {number}: the events do not stand in the order of their numbers")
                    tally.events, tally.last_seq = tally.events + 1, batch[-1].seq
                    size += length
                    if batch[-1].seq == begun_at and tally.crc32 != begun_sum:
                        raise InvalidInput(f"line {number}: these are not the lines of which the import was begun here")
                    if len(batch) == BATCH or size > BATCH_BYTES:
                        await self._append(batch, report, tally)
                        told(report.events)
                        batch, size = [], 0
        if header is None:
            raise InvalidInput("there is nothing to import")
        await self._append(batch, report, tally)
        await self._end(header, report)
        return report

    async def _read(
        self, lines: AsyncIterable[bytes] | Iterable[bytes], tally: Tally
    ) -> AsyncGenerator[tuple[int, int, dict[str, Any]], None]:
        """Yield number, length and content of the lines; raise `InvalidInput` at their end where they are not whole."""
        begun, end = False, None
        async with aclosing(_numbered(lines)) as numbered:
            async for number, text in numbered:
                value = _decoded(number, text)
                if end is not None:
                    raise InvalidInput(f"line {number}: there are lines after the end of the export")
                if END in value:
                    end = value
                    continue
                if begun:
                    tally.add(text)
                begun = True
                yield number, len(text), value
        if begun:
            await self._check(end, tally)

    async def _check(self, end: Mapping[str, Any] | None, tally: Tally) -> None:
        """Raise `InvalidInput` where what was read is not what was written; the namespace stays closed then."""
        if end is None:
            raise InvalidInput(
                f"the export breaks off after {tally.events:,} events. Import the whole of it: it goes on from there."
            )
        if end.get("events") != tally.events or end.get("crc32", tally.crc32) != tally.crc32:
            await self.server.command("HSET", self.server.keys.meta, "importing", "damaged")
            raise InvalidInput(
                f"the lines are not those that were exported: {tally.events:,} events of {end.get('events', 0):,}, "
                "and the sum of the lines is another. Delete this namespace, and import an export that is whole."
            )

    async def _begin(self, header: Mapping[str, Any]) -> None:
        if header.get(KIND) != VERSION:
            raise InvalidInput(f"line 1: not an export of version {VERSION}; single events are for `spine publish`")
        token = f"{header['namespace']} {header['created']} {header['last']}"
        meta = self.server.keys.meta
        begun, found_format = await self.server.command("HMGET", meta, "importing", "format")
        if found_format.decode() == INCOMPLETE:
            if begun is None or begun.decode() != token:
                raise InvalidInput("another import was begun here: finish that, or delete the namespace first")
            return
        if await self.reader.head() or begun or await self.server.command("HLEN", self.server.keys.streams):
            raise Misconfigured(
                f"namespace {self.namespace!r} is not empty: import into a new one. Nothing was stored."
            )
        if await self.server.command("EXISTS", self.server.keys.agents):
            raise Misconfigured(
                f"agents have run in namespace {self.namespace!r}: import into a new one, and start them afterwards. "
                "Nothing was stored."
            )
        await self.server.command("HSET", meta, "format", INCOMPLETE, "importing", token)
        fault("import.begun")

    async def _append(self, batch: list[Line], report: Imported, tally: Tally) -> None:
        """Store a batch, all at once; what an earlier import had stored is left out."""
        fresh = [line for line in batch if line.seq > report.last_seq]
        report.present += len(batch) - len(fresh)
        report.events += len(batch)
        if not fresh:
            return
        keys = self.server.keys
        names = [keys.seq, keys.clock, keys.streams, keys.meta]
        args: list[Argument] = [report.last_seq, tally.crc32, len(fresh)]
        for line in fresh:
            self._name_event(line, names, args)
        self._name_sessions(fresh, names, args)
        fault("import.before")
        stored = int(await self._once(names, args, fresh[-1].seq))
        fault("import.after")
        if stored < 0:
            raise Misconfigured(f"somebody else writes into {self.namespace!r}: import into a namespace of its own")
        report.last_seq = fresh[-1].seq

    async def _once(self, names: list[str], args: list[Argument], last: int) -> int:
        """Call the script; a call that was repeated after a lost reply finds its own numbers."""
        stored = int(await self.server.run("import", names, args))
        return last if stored < 0 and (await self._imported())[0] == last else stored

    async def _imported(self) -> tuple[int, int]:
        """Return the last number that is imported, and what the lines up to it come to."""
        found = await self.server.command("HMGET", self.server.keys.meta, "imported", "imported_sum")
        return int(found[0] or 0), int(found[1] or 0)

    def _name_event(self, line: Line, names: list[str], args: list[Argument]) -> None:
        envelope, keys = line.envelope, self.server.keys
        partition = partition_of(envelope.key, self.server.partitions)
        lane, correlation = int(envelope.context.priority), envelope.context.correlation
        by_key = keys.by_key(partition, envelope.key)
        indexed = correlation != envelope.key
        names += (keys.log(partition, lane, line.topic), by_key)
        names.append(keys.by_correlation(correlation) if indexed else by_key)
        args += (line.seq, line.ts_ms, stream_name(lane, line.topic), partition, "1" if indexed else "", line.data)

    def _name_sessions(self, fresh: list[Line], names: list[str], args: list[Argument]) -> None:
        place = len(args)
        args.append(0)
        count = 0
        for line in fresh:
            envelope = line.envelope
            if envelope.type == UPDATED:
                names.append(self.server.keys.session(partition_of(envelope.key, self.server.partitions), envelope.key))
                sets, removed = stored_changes(envelope.payload["changes"], line.seq, envelope.context.causation)
                args += (len(sets) // 2, *sets, len(removed), *removed)
                count += 1
        args[place] = count

    async def _load_what_is_beside(self, value: Mapping[str, Any]) -> None:
        """Store the type of a catalogue, or what is left of events that are gone."""
        keys = self.server.keys
        if "catalog" in value:
            await self.server.command("HSET", keys.catalog, value["catalog"], msgspec.json.encode(value["known"]))
            return
        if "session" in value:
            place = keys.session(partition_of(value["session"], self.server.partitions), value["session"])
            fields = [item for pair in whole(value["fields"]).items() for item in pair]
            await self.server.command("HSET", place, *fields)
            return
        if "gone" in value:
            numbers = [await self._number(name) for name in value["last"]]
            marker = ",".join(f"{seq}:{number}" for seq, number in zip(value["last"].values(), numbers, strict=True))
            place = keys.gone(partition_of(value["gone"], self.server.partitions))
            await self.server.command("HSET", place, value["gone"], marker)
            return
        for kind in ("state", "snap"):
            if kind in value:
                place = self._moved(kind, value[kind], value["field"])
                await self.server.command("HSET", place, value["field"], value["stored"])

    def _moved(self, kind: str, name: str, field: str) -> str:
        """Return where a stored state goes: there may be another number of partitions here."""
        agent, version, _, *rest = name.split(":", 3)
        if kind == "state":
            partition = partition_of(field, self.server.partitions) if field else 0
            return self.server.keys.state(agent, version, partition)
        key = rest[0]
        return self.server.keys.snapshots(agent, version, partition_of(key, self.server.partitions) if key else 0, key)

    async def _number(self, name: str) -> int:
        """Return the number of a stream, which is registered where it is not known."""
        lane, topic = name.split("/", 1)
        known = self.streams.number(int(lane), topic)
        if known is not None:
            return known
        count = await self.server.command("HLEN", self.server.keys.streams)
        await self.server.command("HSETNX", self.server.keys.streams, name, count + 1)
        await self.streams.refresh()
        return await self._number(name)

    async def _end(self, header: Mapping[str, Any], report: Imported) -> None:
        keys, gone = self.server.keys, {int(partition): int(seq) for partition, seq in header["floors"].items()}
        if gone and header["partitions"] != self.server.partitions:
            gone = dict.fromkeys(range(self.server.partitions), max(gone.values()))
        for partition, seq in gone.items():
            await self.server.command("HSET", keys.floors, partition, seq)
        report.last_seq = max(await self.reader.head(), report.last_seq, int(header["last"]))
        fault("import.ending")
        await self.server.commands(
            ("SET", keys.seq, report.last_seq),
            ("HSET", keys.meta, "format", FORMAT),
            ("HDEL", keys.meta, "importing", "imported", "imported_sum"),
        )


async def _numbered(lines: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncGenerator[tuple[int, bytes], None]:
    number = 0
    if isinstance(lines, AsyncIterable):
        async for line in lines:
            number += 1
            if line.strip():
                yield number, line
    else:
        for line in lines:
            number += 1
            if line.strip():
                yield number, line


def _decoded(number: int, line: bytes) -> dict[str, Any]:
    if len(line) > 4 * HARD_MAX_BYTES:
        raise InvalidInput(f"line {number} is longer than an event can be")
    try:
        value = msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidInput(f"line {number}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"line {number}: not an object")
    return value


def _event_of(number: int, value: Mapping[str, Any]) -> Line:
    try:
        return from_value(value)
    except InvalidInput as error:
        raise InvalidInput(f"line {number}: {error}") from error
