"""When a hold ends, and what is known of holds when a partition changes hands."""

from __future__ import annotations

import asyncio
from typing import Any

from spine.delivery.holds import Hold, encode_hold
from spine.delivery.leases import Lease
from spine.delivery.partition import Partition
from spine.keys import Keys
from spine.testing.waiting import wait_until
from spine.worker.held import HeldKeys


class Server:
    """Answers each question for a waiting list with an empty one, after `then` was called."""

    def __init__(self) -> None:
        self.keys = Keys("unit")
        self.asked = 0
        self.then: Any = lambda: None

    def now_ms(self) -> int:
        return 1

    async def command(self, *command: Any) -> list[Any]:
        if command[0] == "LRANGE":
            self.asked += 1
            self.then()
        return []

    async def commands(self, *commands: Any) -> list[Any]:
        return []


async def test_an_event_that_reaches_the_list_just_after_it_was_read_is_not_left_there() -> None:
    server: Any = Server()
    tasks: list[asyncio.Task[Any]] = []

    def spawn(work: Any, name: str) -> None:
        tasks.append(asyncio.create_task(work, name=name))

    held = HeldKeys(server, None, "agent", None, lambda key: False, spawn)  # type: ignore[arg-type]
    lease = Lease("agent", 0, "lease", 1, clean=True, first=True)
    streams: Any = None
    held.opened(Partition(server, streams, lease, lambda topic: 0))
    held.hold("k", 0, Hold())
    found = held.get("k")
    assert found is not None
    found.moving = found.moved = 1

    def arrives() -> None:
        found.moving = 0

    server.then = arrives
    held.stored("k")
    await wait_until(lambda: server.asked == 1)
    await asyncio.gather(*tasks)
    assert "k" in held
    await wait_until(lambda: server.asked == 2)
    await asyncio.gather(*tasks)
    assert "k" not in held


async def test_holds_of_a_partition_that_is_dropped_while_they_are_read_are_not_kept() -> None:
    server: Any = Server()
    held = HeldKeys(server, None, "agent", None, lambda key: False, None)  # type: ignore[arg-type]
    lease = Lease("agent", 0, "lease", 1, clean=True, first=True)
    streams: Any = None
    partition = Partition(server, streams, lease, lambda topic: 0)

    async def command(*command: Any) -> list[Any]:
        return [b"k", encode_hold(Hold(until_ms=1000))]

    async def commands(*commands: Any) -> list[Any]:
        partition.opening += 1
        held.drop_partition(0)
        return [None]

    server.command, server.commands = command, commands
    await held.load(partition, "1")
    assert "k" not in held


async def test_a_key_that_was_due_while_its_partition_was_opened_again_is_worked_off() -> None:
    server: Any = Server()
    tasks: list[asyncio.Task[Any]] = []

    def spawn(work: Any, name: str) -> None:
        tasks.append(asyncio.create_task(work, name=name))

    held = HeldKeys(server, None, "agent", None, lambda key: False, spawn)  # type: ignore[arg-type]
    lease = Lease("agent", 0, "lease", 1, clean=True, first=True)
    streams: Any = None
    held.hold("k", 0, Hold())  # an event fails that ran while the partition was dropped
    held.stored("k")
    await wait_until(lambda: server.asked == 1)
    await asyncio.gather(*tasks)
    assert "k" in held

    async def command(*command: Any) -> list[Any]:
        if command[0] == "LRANGE":
            server.asked += 1
            return []
        return [b"k", encode_hold(Hold())]

    async def commands(*commands: Any) -> list[Any]:
        return [None]

    server.command, server.commands = command, commands
    partition = Partition(server, streams, lease, lambda topic: 0)
    await held.load(partition, "1")
    held.opened(partition)
    await wait_until(lambda: server.asked == 2)
    await asyncio.gather(*tasks)
    assert "k" not in held
