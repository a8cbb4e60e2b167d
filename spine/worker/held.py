"""The held keys of one agent in one worker: what waits, until when, and what comes back from the waiting list."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from spine import clock
from spine.connection import Server
from spine.delivery.holds import FOREVER, Hold, HoldWrites, Listed, decode_hold
from spine.delivery.partition import Partition
from spine.errors import SpineError
from spine.log.reader import Reader

logger = logging.getLogger("spine")

PAGE = 32
AGAIN_S = 0.05


class HeldKey(msgspec.Struct, eq=False):
    """One held key.

    Attributes:
        hold: as it is stored.
        partition: where the key lives.
        head_due_ms: server time at which the head of the waiting list runs, where that is an event that passed the hold
            and failed; 0 where it may be one: it is to be looked at. ``None`` where the hold says when.
        suspect: the head of its waiting list may have been at work when a worker died.
        loading: the list is being read.
        moving: events on their way to the list.
        moved: count of all that ever went there from here.
        settling: the hold itself is on its way to be stored.
        timer: releases it.
    """

    hold: Hold
    partition: int
    head_due_ms: int | None = None
    suspect: bool = False
    loading: bool = False
    moving: int = 0
    moved: int = 0
    settling: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def due_ms(self) -> int:
        """Server time at which the head of the waiting list runs, or is looked at."""
        return self.hold.until_ms if self.head_due_ms is None else self.head_due_ms


class Waiting(msgspec.Struct, frozen=True):
    """An event of a waiting list: its place there, and its entry in the log (``None`` when it was trimmed away)."""

    listed: Listed
    topic: str
    entry: Any


class HeldKeys:
    """Keeps the held keys of the partitions that a worker holds.

    Args:
        server: the way to the server.
        reader: to fetch events by reference.
        agent: name of the agent.
        admit: takes events of a waiting list into hand.
        is_busy: tells whether an event of a key is being handled, or events of its waiting list are in hand.
        spawn: starts a background task.
    """

    def __init__(
        self,
        server: Server,
        reader: Reader,
        agent: str,
        admit: Callable[[list[Waiting], Partition, HeldKey, str], Awaitable[None]],
        is_busy: Callable[[str], bool],
        spawn: Callable[[Any, str], Any],
    ) -> None:
        self._server = server
        self._reader = reader
        self._agent = agent
        self._admit = admit
        self._is_busy = is_busy
        self._spawn = spawn
        self._keys: dict[str, HeldKey] = {}
        self._writes: dict[int, HoldWrites] = {}
        self._partitions: dict[int, Partition] = {}
        clock.after_move(self._set_alarms)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: str) -> HeldKey | None:
        """Return the hold of `key`."""
        return self._keys.get(key)

    def writes(self, partition: int) -> HoldWrites:
        """Return what writes holds of a partition."""
        found = self._writes.get(partition)
        if found is None:
            found = self._writes[partition] = HoldWrites(self._server.keys, self._agent, partition)
        return found

    def has_suspects(self, partition: int) -> bool:
        """Tell whether the head of a waiting list that was not loaded yet may have been at work when a worker died."""
        return any(held.suspect for held in self._keys.values() if held.partition == partition)

    async def load(self, partition: Partition, version: str, is_quiet: Callable[[], bool]) -> bool:
        """Read the holds of a partition that is being opened, in place of all that was known of it. See `opened`.

        Returns false, and keeps nothing, unless `is_quiet` says that nothing was on its way to be committed meanwhile:
        what was read may be older. A key that was parked because a reducer raised is released for another `version` of
        the agent.
        """
        opening = partition.opening
        raw = await self._server.command("HGETALL", self._server.keys.holds(self._agent, partition.number))
        names = [name.decode() for name in raw[::2]]
        waiting = self.writes(partition.number).waiting
        heads = await self._server.commands(*(("LINDEX", waiting(key), 0) for key in names))
        if partition.opening != opening or not is_quiet():
            return False
        self.drop_partition(partition.number)
        for key, encoded, head in zip(names, raw[1::2], heads, strict=True):
            hold = decode_hold(encoded)
            if hold.reason == "reducer" and hold.version != version:
                hold.until_ms = 0
            due_ms = None if head is None else Listed.parse(head).due_ms
            held = self._keys[key] = HeldKey(hold, partition.number, due_ms)
            held.suspect = partition.suspects.cut_off and held.due_ms <= self._server.now_ms()
        return True

    def opened(self, partition: Partition) -> None:
        """Work off the waiting lists of a partition from now on: before it was open, nothing of them could run."""
        self._partitions[partition.number] = partition
        for key, held in list(self._keys.items()):
            if held.partition == partition.number:
                self._arm(key, held)

    def hold(self, key: str, partition: int, hold: Hold) -> None:
        """Hold `key` from now on; nothing is released before `stored` was called."""
        held = self._keys.get(key)
        if held is None:
            held = self._keys[key] = HeldKey(hold, partition)
        if held.timer is not None:
            held.timer.cancel()
        held.hold, held.settling = hold, True
        self.look_at_head(key)

    def passed(self, key: str, partition: int, due_ms: int) -> None:
        """An event that passed the hold of `key` failed: it heads the waiting list now, and runs at `due_ms`."""
        known = self._keys.get(key)
        self.hold(key, partition, Hold() if known is None else known.hold)
        self._keys[key].head_due_ms = due_ms

    def look_at_head(self, key: str) -> None:
        """The waiting list of `key` changes: what heads it then may be another event that passed the hold."""
        held = self._keys.get(key)
        if held is not None and held.head_due_ms is not None:
            held.head_due_ms = 0

    def stored(self, key: str) -> None:
        """The hold of `key` is on the server: its time runs."""
        held = self._keys.get(key)
        if held is not None:
            held.settling = False
            self._arm(key, held)

    def drop_partition(self, partition: int) -> None:
        """Forget the holds of a partition: another worker has it now, or it is opened again."""
        self._partitions.pop(partition, None)
        for key, held in list(self._keys.items()):
            if held.partition == partition:
                self._forget(key)

    def finished(self, key: str) -> None:
        """An event of `key` is done; go on with its waiting list when nothing of it is in hand any more."""
        held = self._keys.get(key)
        if held is not None:
            self._release(key, held)

    def _release(self, key: str, held: HeldKey) -> None:
        """Work off the waiting list of `key`, or end the hold when it is empty; not before its time.

        What keeps it from being worked off now calls again: the opening, the commit, the reading or the event's end.
        """
        if self._keys.get(key) is not held or held.partition not in self._partitions:
            return
        if held.settling or held.loading:
            return
        if held.due_ms > self._server.now_ms():
            self._arm(key, held)
        elif not self._is_busy(key):
            held.loading = True
            self._spawn(self._work_off(key, held), f"spine-release-{self._agent}")

    async def _work_off(self, key: str, held: HeldKey) -> None:
        again = False
        try:
            moving, moved = held.moving, held.moved  # what was on its way may have come after the list was read
            waiting = self.writes(held.partition).waiting(key)
            references = await self._server.command("LRANGE", waiting, 0, PAGE - 1)
            partition = self._partitions.get(held.partition)
            if self._keys.get(key) is not held or partition is None:
                return
            if due := self._due(held, [Listed.parse(raw) for raw in references]):
                found = await self._fetch(held.partition, due)
                await self._admit(found, partition, held, key)
            elif references or held.hold.until_ms >= FOREVER:
                self._arm(key, held)
            elif moving or held.moved != moved:
                again = True
            else:
                self._forget(key)
        except SpineError as error:
            logger.warning("waiting list of %s, key %r: %s", self._agent, key, error)
            again = True
        finally:
            held.loading = False
        if again:
            asyncio.get_running_loop().call_later(AGAIN_S, self._release, key, held)

    def _due(self, held: HeldKey, waiting: list[Listed]) -> list[Listed]:
        """Return what may run at the head of a waiting list, and note when the rest is to be looked at."""
        held.head_due_ms = waiting[0].due_ms if waiting else None
        now_ms = self._server.now_ms()

        def runs(one: Listed) -> bool:
            return (held.hold.until_ms if one.due_ms is None else one.due_ms) <= now_ms

        return list(itertools.takewhile(runs, waiting))

    async def _fetch(self, partition: int, listed: list[Listed]) -> list[Waiting]:
        entries = await self._reader.fetch([(one.seq, partition, one.stream) for one in listed])
        found = {seq: (topic, entry) for seq, topic, entry in entries}
        return [Waiting(one, *found.get(one.seq, ("", None))) for one in listed]

    def _arm(self, key: str, held: HeldKey) -> None:
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        if held.due_ms < FOREVER:
            delay = max(0.0, (held.due_ms - self._server.now_ms()) / 1000)
            held.timer = asyncio.get_running_loop().call_later(delay, self._release, key, held)

    def _set_alarms(self) -> None:
        for key, held in list(self._keys.items()):
            if not held.settling:
                self._arm(key, held)

    def _forget(self, key: str) -> None:
        held = self._keys.pop(key, None)
        if held is not None and held.timer is not None:
            held.timer.cancel()
