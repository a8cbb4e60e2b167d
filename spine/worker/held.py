"""The held keys of one agent in one worker: what waits, until when, and what comes back from the waiting list."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from spine.connection import Server
from spine.delivery.commits import Held
from spine.delivery.hand import Taken
from spine.delivery.holds import FOREVER, Hold, HoldWrites, decode_hold
from spine.delivery.partition import Partition
from spine.errors import SpineError
from spine.log.reader import Entry, Reader

logger = logging.getLogger("spine")

PAGE = 32


class HeldKey(msgspec.Struct):
    """One held key.

    Attributes:
        hold: as it is stored.
        partition: where the key lives.
        loaded: events of its waiting list that are in hand.
        moving: events on their way to the list.
        loading: the list is being read.
        timer: releases it.
    """

    hold: Hold
    partition: int
    loaded: int = 0
    moving: int = 0
    loading: bool = False
    timer: asyncio.TimerHandle | None = None


class HeldKeys:
    """Keeps the held keys of the partitions that a worker holds.

    Args:
        server: the way to the server.
        reader: to fetch events by reference.
        agent: name of the agent.
        admit: takes events of a waiting list into hand.
        spawn: starts a background task.
    """

    def __init__(
        self,
        server: Server,
        reader: Reader,
        agent: str,
        admit: Callable[[list[tuple[Entry, int]], Partition, HeldKey, str], Any],
        spawn: Callable[[Any, str], Any],
    ) -> None:
        self._server = server
        self._reader = reader
        self._agent = agent
        self._admit = admit
        self._spawn = spawn
        self._keys: dict[str, HeldKey] = {}
        self._writes: dict[int, HoldWrites] = {}
        self._partitions: dict[int, Partition] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: str) -> HeldKey | None:
        """Return the hold of `key`."""
        return self._keys.get(key)

    def of_partition(self, partition: int) -> list[tuple[str, HeldKey]]:
        """Return the held keys of a partition."""
        return [(key, held) for key, held in self._keys.items() if held.partition == partition]

    def writes(self, partition: int) -> HoldWrites:
        """Return what writes holds of a partition."""
        found = self._writes.get(partition)
        if found is None:
            found = self._writes[partition] = HoldWrites(self._server.keys, self._agent, partition)
        return found

    async def load(self, partition: Partition) -> None:
        """Read the holds of a partition that was just acquired, or of which somebody changed one."""
        self._partitions[partition.number] = partition
        raw = await self._server.command("HGETALL", self._server.keys.holds(self._agent, partition.number))
        for i in range(0, len(raw), 2):
            key = raw[i].decode()
            known = self._keys.get(key)
            hold = decode_hold(raw[i + 1])
            if known is None:
                self._put(key, HeldKey(hold, partition.number))
            elif known.hold != hold and not known.loaded:
                known.hold = hold
                self._arm(key, known)

    def hold(self, key: str, partition: int, hold: Hold) -> HeldKey:
        """Hold `key` from now on."""
        known = self._keys.get(key)
        if known is None:
            known = HeldKey(hold, partition)
            self._put(key, known)
        else:
            known.hold = hold
            known.loaded = 0
            self._arm(key, known)
        return known

    def drop_partition(self, partition: int) -> None:
        """Forget the holds of a partition that another worker has now."""
        self._partitions.pop(partition, None)
        for key, held in list(self._keys.items()):
            if held.partition == partition:
                self._forget(key)

    def finished(self, taken: Taken) -> None:
        """An event of a waiting list is done: go on with the list when all that was loaded is."""
        held = self._keys.get(taken.order_key)
        if held is None or taken.source != "waiting":
            return
        held.loaded -= 1
        if held.loaded <= 0:
            held.loaded = 0
            self.release(taken.order_key)

    def release(self, key: str) -> None:
        """Work off the waiting list of `key`, or end the hold when it is empty."""
        held = self._keys.get(key)
        if held is not None and not held.loading and not held.loaded:
            held.loading = True
            self._spawn(self._work_off(key, held), f"spine-release-{self._agent}")

    async def _work_off(self, key: str, held: HeldKey) -> None:
        try:
            waiting = self.writes(held.partition).waiting(key)
            references = await self._server.command("LRANGE", waiting, 0, PAGE - 1)
            partition = self._partitions.get(held.partition)
            if self._keys.get(key) is not held or partition is None:
                return
            if not references:
                if held.moving:
                    self._retry(key)
                else:
                    self._forget(key)
                return
            parsed = [tuple(map(int, reference.split(b":"))) for reference in references]
            entries = await self._reader.fetch([(seq, held.partition, number) for seq, number in parsed])
            found = {seq: (seq, topic, entry) for seq, topic, entry in entries}
            await self._admit(
                [(found.get(seq, (seq, "", [f"{seq}-0".encode(), None])), number) for seq, number in parsed],
                partition,
                held,
                key,
            )
        except SpineError as error:
            logger.warning("waiting list of %s, key %r: %s", self._agent, key, error)
            self._retry(key)
        finally:
            held.loading = False

    def _retry(self, key: str) -> None:
        asyncio.get_running_loop().call_later(0.05, self.release, key)

    def _put(self, key: str, held: HeldKey) -> None:
        self._keys[key] = held
        self._arm(key, held)

    def _arm(self, key: str, held: HeldKey) -> None:
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        if held.hold.until_ms < FOREVER:
            delay = max(0.0, (held.hold.until_ms - self._server.now_ms()) / 1000)
            held.timer = asyncio.get_running_loop().call_later(delay, self.release, key)

    def _forget(self, key: str) -> None:
        held = self._keys.pop(key, None)
        if held is not None and held.timer is not None:
            held.timer.cancel()


def held_as(taken: Taken, agent: str, writes: HoldWrites) -> Held:
    """Return how the commit of `taken` finds it held."""
    if taken.source == "waiting":
        return Held("waiting", writes.waiting(taken.order_key), taken.reference)
    return Held("pending", taken.stream, f"{taken.event.seq}-0", agent)
