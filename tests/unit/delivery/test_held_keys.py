"""When a hold ends, and what is known of holds when a partition changes hands."""

from __future__ import annotations

import asyncio
from typing import Any

from spine.delivery.holds import FOREVER, Hold, encode_hold
from spine.delivery.leases import Lease
from spine.delivery.partition import Partition
from spine.keys import Keys
from spine.testing.waiting import wait_until
from spine.worker.held import HeldKeys


class Server:
    """Has holds, and an empty waiting list for each; `then` is called before one is given."""

    def __init__(self) -> None:
        self.keys = Keys("unit")
        self.asked = 0
        self.held: dict[bytes, Hold] = {}
        self.then: Any = lambda: None

    def now_ms(self) -> int:
        return 1

    async def command(self, *command: Any) -> list[Any]:
        if command[0] == "LRANGE":
            self.asked += 1
            self.then()
            return []
        return [part for key, hold in self.held.items() for part in (key, encode_hold(hold))]

    async def commands(self, *commands: Any) -> list[Any]:
        return [None for _ in commands]


async def test_an_event_that_reaches_the_list_just_after_it_was_read_is_not_left_there() -> None:
    server: Any = Server()
    tasks: list[asyncio.Task[Any]] = []

    def spawn(work: Any, name: str) -> None:
        tasks.append(asyncio.create_task(work, name=name))

    held = HeldKeys(server, None, "agent", None, lambda key: False, spawn)  # type: ignore[arg-type]
    held.opened(_partition(server))
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
    partition = _partition(server)

    async def commands(*commands: Any) -> list[Any]:
        partition.opening += 1
        held.drop_partition(0)
        return [None]

    server.held, server.commands = {b"k": Hold(until_ms=1000)}, commands
    assert not await held.load(partition, "1", lambda: True)
    assert "k" not in held


async def test_what_was_read_while_something_was_committed_is_not_kept() -> None:
    server: Any = Server()
    held = HeldKeys(server, None, "agent", None, lambda key: False, None)  # type: ignore[arg-type]
    server.held = {b"k": Hold(until_ms=1000)}
    assert not await held.load(_partition(server), "1", lambda: False)
    assert "k" not in held


async def test_holds_are_read_in_place_of_what_was_known_of_an_earlier_lease() -> None:
    server: Any = Server()
    held = HeldKeys(server, None, "agent", None, lambda key: False, None)  # type: ignore[arg-type]
    held.hold("k", 0, Hold(reason="retry"))
    held.hold("gone", 0, Hold(reason="retry"))
    server.held = {b"k": Hold(until_ms=FOREVER, reason="parked")}
    assert await held.load(_partition(server), "1", lambda: True)
    found = held.get("k")
    assert found is not None
    assert found.hold.reason == "parked"
    assert "gone" not in held


async def test_a_key_that_was_due_while_its_partition_was_opened_again_is_worked_off() -> None:
    server: Any = Server()
    tasks: list[asyncio.Task[Any]] = []

    def spawn(work: Any, name: str) -> None:
        tasks.append(asyncio.create_task(work, name=name))

    held = HeldKeys(server, None, "agent", None, lambda key: False, spawn)  # type: ignore[arg-type]
    partition = _partition(server)
    server.held = {b"k": Hold()}
    assert await held.load(partition, "1", lambda: True)
    held.hold("k", 0, Hold())  # an event fails that ran while the partition was opened
    held.stored("k")
    await asyncio.sleep(0.01)  # long enough to begin with what is due
    assert server.asked == 0
    held.opened(partition)
    await wait_until(lambda: server.asked == 1)
    await asyncio.gather(*tasks)
    assert "k" not in held


async def test_what_passed_a_hold_that_ended_meanwhile_holds_its_key_itself() -> None:
    server: Any = Server()
    held = HeldKeys(server, None, "agent", None, lambda key: False, None)  # type: ignore[arg-type]
    held.opened(_partition(server))
    held.passed("k", 0, due_ms=1000)
    found = held.get("k")
    assert found is not None
    assert (found.hold, found.due_ms) == (Hold(), 1000)


def _partition(server: Any) -> Partition:
    lease = Lease("agent", 0, "lease", 1, clean=True, first=True)
    streams: Any = None
    return Partition(server, streams, lease, lambda topic: 0)
