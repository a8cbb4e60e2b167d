"""A stream that is watched while others are being added is listened to at once, not with the next time-out."""

import asyncio

from spine.keys import Keys
from spine.log.listener import Listener
from spine.testing.waiting import wait_until


class SlowServer:
    """Every read and every poke waits until the test lets it end."""

    def __init__(self) -> None:
        self.keys = Keys("acme")
        self.listener = self
        self.reads: list[tuple[frozenset[str], asyncio.Event]] = []
        self.pokes: list[asyncio.Event] = []

    async def call(self, read, _epoch, timeout: float):
        streams = read[read.index("STREAMS") + 1 :]
        done = asyncio.Event()
        self.reads.append((frozenset(streams[: len(streams) // 2]), done))
        await done.wait()
        return [None, b"e-1"]

    async def commands(self, *_commands) -> None:
        done = asyncio.Event()
        self.pokes.append(done)
        await done.wait()


async def test_a_poke_under_way_does_not_stand_for_the_next_one() -> None:
    server = SlowServer()
    listener = Listener(server, "client")
    await listener.watch("a", print, after="0-0")
    await wait_until(lambda: len(server.reads) == 1)
    await listener.watch("b", print, after="0-0")
    await wait_until(lambda: len(server.pokes) == 1)
    server.reads[0][1].set()  # the first read has heard the poke, whose own reply is still on its way
    await wait_until(lambda: len(server.reads) == 2)
    await listener.watch("c", print, after="0-0")
    server.pokes[0].set()
    await wait_until(lambda: len(server.pokes) == 2, 2, "a second poke, for c")
    server.reads[1][1].set()
    await wait_until(lambda: len(server.reads) == 3)
    assert {"a", "b", "c"} < server.reads[2][0]
    server.pokes[1].set()
    await asyncio.gather(listener._poke)
    assert len(server.pokes) == 2
    await listener.close()
