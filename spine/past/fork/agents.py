"""The agents of a fork: what they had handled by then stays handled, and what was open is delivered again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from spine.connection import Argument, by_field
from spine.delivery.holds import Listed, decode_hold
from spine.delivery.records import Done, decode_dead
from spine.faults import fault
from spine.keys import Keys
from spine.log.floors import floors
from spine.log.reader import Reader
from spine.log.streams import Stream
from spine.past.fork.gates import waiting_at
from spine.past.fork.timetable import ForkedTimetable
from spine.past.trimming.stakes import PROJECTIONS, read_by, start_of
from spine.scan import scan

SEQS_A_CALL = 1_000
CLAIMED_A_CALL = 2_000


class ForkedAgents:
    """Copies what a namespace knows of its agents, as it was at a seq.

    Args:
        reader: of the log of the original namespace.
        to: keys of the fork.
        at: the last number of the fork's history.
    """

    def __init__(self, reader: Reader, to: Keys, at: int) -> None:
        self._server = reader.server
        self._reader = reader
        self._streams = reader.streams
        self._from = reader.server.keys
        self._to = to
        self._at = at
        self._again: set[tuple[str, int]] = set()

    async def copy(self) -> dict[str, int]:
        """Copy everything; return for each agent how many events are delivered again."""
        for name in ("agents", "handlers", PROJECTIONS):
            await self._server.command("COPY", self._from.own(name), self._to.own(name), "REPLACE")
        found = {}
        for name, raw in (await self._server.hash(self._from.agents)).items():
            declared = json.loads(raw)
            starts = await self._copy_declaration(name)
            await self._find_waiting(name)
            arrivals = await waiting_at(self._reader, name, declared, self._at)
            self._again.update((name, seq) for seq in arrivals)
            found[name] = 0
            for stream in read_by(name, declared, self._streams.all()):
                for partition in range(self._server.partitions):
                    found[name] += await self._copy_group(name, stream, partition, start_of(starts, stream.topic))
                    fault("fork.group")
            await self._copy_dead(name)
        await self._copy_steps()
        await self._copy_gates()
        await ForkedTimetable(self._reader, self._to, self._at, self._again).copy()
        await self._copy_dedupe()
        await self._copy_positions()
        return found

    async def _copy_declaration(self, name: str) -> dict[str, int]:
        """Copy what is known of an agent; returns where topics start.

        Nobody starts after the moment of the fork, and nobody is paused there.
        """
        fields = await self._server.hash(self._from.agent(name))
        fields.pop("paused", None)
        for field, value in fields.items():
            if field == "start" or field.startswith("from:"):
                fields[field] = str(min(int(value), self._at)).encode()
        if fields:
            await self._server.command("HSET", self._to.agent(name), *(x for pair in fields.items() for x in pair))
        return {field.removeprefix("from:"): int(seq) for field, seq in fields.items() if field.startswith("from:")}

    async def _find_waiting(self, name: str) -> None:
        """Note what waits for held keys: redriven events among it have a done record, and are open all the same."""
        for partition in range(self._server.partitions):
            held = await self._server.command("HKEYS", self._from.holds(name, partition))
            names = [self._from.waiting(name, partition, key.decode()) for key in held]
            for listed in await self._server.commands(*(("LRANGE", place, 0, -1) for place in names)):
                self._again.update((name, Listed.parse(raw).seq) for raw in listed)

    # --- consumer groups ---

    async def _copy_group(self, name: str, stream: Stream, partition: int, start: int) -> int:
        """Make the group of an agent on a stream of the fork; return how many events it gets again."""
        place = self._to.log(partition, stream.lane, stream.topic)
        since: list[int] = []
        before: list[int] = []
        after, last_done = start, 0
        while True:
            seqs = await self._server.run("seqs", [place], [after, SEQS_A_CALL])
            if not seqs:
                break
            after = seqs[-1]
            for seq, done in zip(seqs, await self._copy_done(name, partition, seqs), strict=True):
                if done:
                    before += since
                    since, last_done = [], seq
                else:
                    since.append(seq)
        if last_done:
            first = before[:CLAIMED_A_CALL]
            await self._server.run("fork_group", [place], [name, f"p{partition}", last_done, *first])
            for at in range(CLAIMED_A_CALL, len(before), CLAIMED_A_CALL):
                ids = [f"{seq}-0" for seq in before[at : at + CLAIMED_A_CALL]]
                await self._server.command("XCLAIM", place, name, f"p{partition}", 0, *ids, "FORCE", "JUSTID")
        return len(before) + len(since)

    async def _copy_done(self, name: str, partition: int, seqs: Sequence[int]) -> list[bool]:
        """Copy the done records of then; tell of each event whether it was handled."""
        buckets: dict[str, list[int]] = {}
        for seq in seqs:
            buckets.setdefault(self._from.done(name, partition, seq), []).append(seq)
        commands: list[tuple[Argument, ...]] = [("HMGET", place, *wanted) for place, wanted in buckets.items()]
        replies = await self._server.commands(*commands)
        handled: dict[int, bool] = {}
        commands = []
        for wanted, raws in zip(buckets.values(), replies, strict=True):
            kept: list[Argument] = []
            for seq, raw in zip(wanted, raws, strict=True):
                handled[seq] = self._was_done(raw) and (name, seq) not in self._again
                if handled[seq]:
                    kept += (seq, raw)
            if kept:
                commands.append(("HSET", self._to.done(name, partition, wanted[0]), *kept))
        await self._server.commands(*commands)
        return [handled[seq] for seq in seqs]

    def _was_done(self, raw: bytes | None) -> bool:
        return raw is not None and Done.decode(raw).position <= self._at

    async def _done_of(self, name: str, seq: int) -> Done | None:
        """Return the done record of an event whose partition is not known."""
        places = [self._from.done(name, partition, seq) for partition in range(self._server.partitions)]
        for raw in await self._server.commands(*(("HGET", place, seq) for place in places)):
            if raw is not None:
                return Done.decode(raw)
        return None

    # --- what is kept beside ---

    async def _copy_dead(self, name: str) -> None:
        """Copy the dead letters of then, and the holds of the keys that are parked for them.

        What an earlier try copied is dropped: they may have been redriven since.
        """
        holds_there = [self._to.holds(name, partition) for partition in range(self._server.partitions)]
        await self._server.command("DEL", self._to.dead(name), *holds_there)
        for field, raw in (await self._server.hash(self._from.dead(name))).items():
            letter = decode_dead(raw)
            place = self._from.done(name, letter.partition, letter.seq)
            record = await self._server.command("HGET", place, letter.seq)
            if not self._was_done(record):
                continue
            await self._server.command("HSET", self._to.dead(name), field, raw)
            if letter.parked:
                holds = [keys.holds(name, letter.partition) for keys in (self._from, self._to)]
                hold = await self._server.command("HGET", holds[0], letter.order_key)
                if hold is not None and decode_hold(hold).reason == "parked":
                    await self._server.command("HSET", holds[1], letter.order_key, hold)

    async def _copy_steps(self) -> None:
        """Copy the results of steps that were recorded by then; later ones are taken anew."""
        async with aclosing(scan(self._server, self._from.prefix + "steps:")) as pages:
            async for page in pages:
                for name in page:
                    await self._copy_steps_of(name)

    async def _copy_steps_of(self, name: str) -> None:
        place, copy = f"{self._from.prefix}steps:{name}", f"{self._to.prefix}steps:{name}"
        raw, ttl = await self._server.commands(("HGETALL", place), ("PTTL", place))
        fields = by_field(raw)
        kept: list[Argument] = []
        for step, result in fields.items():
            recorded = fields.get("\0" + step)
            if recorded is not None and int(recorded) <= self._at:
                kept += (step, result, "\0" + step, recorded)
        if kept and int(ttl) > 0 and int(name.rpartition(":")[2]) <= self._at:
            await self._server.commands(("HSET", copy, *kept), ("PEXPIRE", copy, ttl))

    async def _copy_gates(self) -> None:
        """Copy what had come to gates by then and was trimmed away since, where they wait for more still."""
        gone = max((await floors(self._server)).values(), default=0)
        async with aclosing(scan(self._server, self._from.prefix + "gate:")) as pages:
            async for page in pages:
                for name in page:
                    agent = name.partition(":")[0]
                    fields = await self._server.hash(f"{self._from.prefix}gate:{name}")
                    kept: list[Argument] = []
                    for field, value in fields.items():
                        seq = msgspec.msgpack.decode(value)[0] if field else 0
                        if 0 < seq <= gone and await self._came(agent, seq):
                            kept += (field, value)
                    if kept and "" in fields:
                        kept += ("", fields[""])
                    if kept:
                        await self._server.command("HSET", f"{self._to.prefix}gate:{name}", *kept)

    async def _came(self, agent: str, seq: int) -> bool:
        done = await self._done_of(agent, seq)
        return done is not None and done.position <= self._at

    async def _copy_dedupe(self) -> None:
        async with aclosing(scan(self._server, self._from.prefix + "dedupe:")) as pages:
            async for page in pages:
                places = [f"dedupe:{name}" for name in page]
                values = await self._server.commands(*(("GET", self._from.prefix + place) for place in places))
                left = await self._server.commands(*(("PTTL", self._from.prefix + place) for place in places))
                for place, value, ttl in zip(places, values, left, strict=True):
                    if value is not None and int(value.partition(b":")[0]) <= self._at and int(ttl) > 0:
                        await self._server.command("SET", self._to.prefix + place, value, "PX", ttl)

    async def _copy_positions(self) -> None:
        """Let projections fold what is left of the log anew: what they had stored may be of later."""
        floor = max((await floors(self._server)).values(), default=0)
        for name in await self._server.command("HKEYS", self._from.own(PROJECTIONS)):
            versions: list[Any] = await self._server.command("HKEYS", self._from.own("position", name.decode()))
            for version in versions:
                await self._server.command("HSET", self._to.own("position", name.decode()), version, floor)
