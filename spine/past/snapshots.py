"""Snapshots: states of earlier moments, kept so that a replay begins near the moment asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

import msgspec

from spine.connection import Argument, Server
from spine.events import from_ms
from spine.faults import fault
from spine.keys import partition_of
from spine.log.floors import floors, seqs_gone
from spine.scan import scan
from spine.state.fold import split_stored


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A kept state.

    Attributes:
        key: whose state; empty for a global projection.
        seq: the moment: every event up to this is in it.
        events: how many were folded into it.
        ts: time of the last of these.
        size: of what is stored, in bytes.
        needed: the events that made it were trimmed away: without it, the states since could not be had.
        damaged: it cannot be read, and is passed over.
    """

    key: str
    seq: int
    events: int = 0
    ts: datetime | None = None
    size: int = 0
    needed: bool = False
    damaged: bool = False


class Snapshots:
    """The snapshots of one version of an agent or projection.

    Args:
        server: the way to the server.
        name: of the agent or projection.
        version: of it.
    """

    def __init__(self, server: Server, name: str, version: str) -> None:
        self._server = server
        self._name = name
        self._version = version

    async def keep(self, key: str, seq: int, raw: bytes) -> None:
        """Keep a state, as it is stored."""
        fault("snapshot.before")
        await self._server.command("HSET", self._at(key), seq, raw)
        fault("snapshot.after")

    async def find(self, key: str | None = None) -> list[Snapshot]:
        """Return the snapshots (of one key), by key and seq."""
        found: list[Snapshot] = []
        async with aclosing(self._keys(key)) as pages:
            async for page in pages:
                found += await self._of(page)
        unique = {(one.key, one.seq): one for one in found}
        return [unique[place] for place in sorted(unique)]

    async def remove(self, key: str | None = None, *, before: int | None = None) -> int:
        """Remove snapshots (of one key, of before a seq) and return how many; what is `needed` stays."""
        count = 0
        for one in await self.find(key):
            if not one.needed and (before is None or one.seq < before):
                count += int(await self._server.command("HDEL", self._at(one.key), one.seq))
        return count

    def _at(self, key: str) -> str:
        keys, partition = self._server.keys, self._partition(key)
        return keys.snapshots(self._name, self._version, partition, key)

    def _partition(self, key: str) -> int:
        return partition_of(key, self._server.partitions) if key else 0

    async def _keys(self, key: str | None) -> AsyncGenerator[list[str], None]:
        if key is not None:
            yield [key]
            return
        start = self._server.keys.snapshots(self._name, self._version, 0, "").removesuffix("0:")
        async with aclosing(scan(self._server, start)) as pages:
            async for page in pages:
                yield [name.partition(":")[2] for name in page]

    async def _of(self, names: list[str]) -> list[Snapshot]:
        commands: list[tuple[Argument, ...]] = []
        floor = max((await floors(self._server)).values(), default=0)
        for key in names:
            commands += (("HGETALL", self._at(key)), ("HGET", self._server.keys.gone(self._partition(key)), key))
        replies = await self._server.commands(*commands)
        found: list[Snapshot] = []
        for place, key in enumerate(names):
            raw, gone = replies[2 * place : 2 * place + 2]
            snapshots = [_read(key, raw[i], raw[i + 1]) for i in range(0, len(raw), 2) if raw[i].isdigit()]
            found += _marked(snapshots, seqs_gone(gone) if key else {floor})
        return found


def _read(key: str, seq: bytes, raw: bytes) -> Snapshot:
    try:
        at, events, ts_ms, _ = split_stored(raw)
    except ValueError:
        return Snapshot(key=key, seq=int(seq), size=len(raw), damaged=True)
    return Snapshot(key=key, seq=at, events=events, ts=from_ms(ts_ms), size=len(raw))


def _marked(snapshots: list[Snapshot], gone: set[int]) -> list[Snapshot]:
    """Return them with the first one after what is gone of each stream marked as needed: not all may be folded."""
    sound = [one.seq for one in snapshots if not one.damaged]
    needed = {min((seq for seq in sound if seq >= last), default=-1) for last in gone if last}
    return [msgspec.structs.replace(one, needed=one.seq in needed and not one.damaged) for one in snapshots]
