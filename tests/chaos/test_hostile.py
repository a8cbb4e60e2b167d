"""Rubbish written straight into the streams: no crash, bounded memory, every piece reported, the events unharmed."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import redis.asyncio
from redis.exceptions import ResponseError

from spine import Draft, Event, Priority, Spine, StreamBlocked
from spine.keys import partition_of
from spine.operations.strays import find, repair
from spine.testing.servers import RedisServer
from spine.testing.waiting import wait_until

HERE = Path(__file__).parent
SCALE = float(os.environ.get("SPINE_CHAOS_SCALE", "1"))
SECONDS = max(5.0, 60 * SCALE)
BYTES_A_SECOND = 1_000_000
GROWTH_KB = 50 * 1024
PATIENCE_S = 120 + 300 * SCALE

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240 + 600 * SCALE)]

WORKER = """
import asyncio, logging, sys
from chaos_agents import Copier
from spine import Spine, run
logging.disable(logging.CRITICAL)
async def main(url):
    async with Spine(url, namespace="chaos") as spine:
        await run(spine, Copier)
asyncio.run(main(sys.argv[1]))
"""


def sealed(body: bytes) -> bytes:
    """Return `body` with the checksum that an event of ours would have."""
    return zlib.crc32(body).to_bytes(4, "big") + body


def rubbish(good: bytes) -> Iterator[dict[bytes, bytes]]:
    """Yield entries that nobody should choke on."""
    chance = random.Random(3)
    now = b"%d" % round(time.time() * 1000)
    while True:
        yield {now: chance.randbytes(chance.randrange(1, 5000))}
        yield {now: sealed(msgspec.msgpack.encode([1, "id", "a.b"]))}
        yield {now: sealed(b"\x9a" + b"\x80" * 200_000)}
        yield {now: sealed(msgspec.msgpack.encode({"deep": None}).replace(b"\xc0", b"\x91" * 100_000 + b"\xc0"))}
        yield {now: chance.randbytes(1_500_000)}
        yield {b"%d" % n: b"x" for n in range(500)}
        yield {b"no time": good}
        yield {now: b""}
        yield {now: sealed(good[4:].replace(b"\xa3", b"\xa4", 1))}
        for _ in range(40):
            yield {now: chance.randbytes(100)}


class Vandal:
    """Writes rubbish into the streams of a namespace, under ids that spine has passed."""

    def __init__(self, url: str, spine: Spine) -> None:
        self.client = redis.asyncio.Redis.from_url(url)
        self.keys = spine.server.keys
        self.written: set[tuple[int, str]] = set()
        self.size = 0

    async def write_for(self, seconds: float, good: bytes) -> None:
        partitions = itertools.cycle(range(8))
        began = time.monotonic()
        for fields in rubbish(good):
            self.size += sum(map(len, fields.values())) + sum(map(len, fields))
            partition = next(partitions)
            entry_id = await self.write(partition, fields, stray=len(self.written) % 3 == 0)
            if entry_id is not None:
                self.written.add((partition, entry_id))
            if time.monotonic() - began > seconds:
                return
            await asyncio.sleep(max(0.0, began + self.size / BYTES_A_SECOND - time.monotonic()))

    async def write(self, partition: int, fields: dict[bytes, bytes], *, stray: bool) -> str | None:
        stream = self.keys.log(partition, Priority.NORMAL, "a.b")
        last = (await self.client.xinfo_stream(stream))["last-generated-id"].decode()
        seq, place = map(int, last.split("-"))
        counter = int(await self.client.get(self.keys.seq))
        entry_id = f"{seq}-{place + 1}" if stray or seq + 1 > counter else f"{seq + 1}-0"
        try:
            await self.client.xadd(stream, fields, id=entry_id)  # type: ignore[arg-type]
        except ResponseError:  # an event was quicker
            return None
        return entry_id


def resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


async def publish_until(spine: Spine, done: asyncio.Task[None]) -> list[Event[Any]]:
    sent: list[Event[Any]] = []
    while not done.done():
        sent += await spine.publish_many([Draft("a.b", {"n": len(sent)}, key=f"k{i}") for i in range(20)])
        await asyncio.sleep(0.1)
    return sent


async def copies(spine: Spine) -> list[Event[Any]]:
    return [event async for event in spine.replay(types="a.c")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_rubbish_in_the_streams_is_reported_and_harms_nothing(tmp_path: Path) -> None:
    with RedisServer.start(tmp_path) as server:
        async with Spine(server.url, namespace="chaos") as spine:
            worker = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WORKER, server.url, env={**os.environ, "PYTHONPATH": str(HERE)}
            )
            try:
                await torment(server.url, spine, worker)
            finally:
                if worker.returncode is None:
                    worker.kill()
                await worker.wait()


async def torment(url: str, spine: Spine, worker: asyncio.subprocess.Process) -> None:
    await wait_until(lambda: serving(spine), 20)
    first = await spine.publish_many([Draft("a.b", {}, key=f"k{i}") for i in range(200)])
    await wait_until(lambda: count(spine, 200), PATIENCE_S)
    start_kb = resident_kb(worker.pid)
    vandal = Vandal(url, spine)
    good = (await vandal.client.xrange(spine.server.keys.log(0, Priority.NORMAL, "a.b"), count=1))[0]
    (data,) = good[1].values()
    writing = asyncio.create_task(vandal.write_for(SECONDS, data))
    watching = asyncio.create_task(highest(worker.pid, writing))
    sent = first + await publish_until(spine, writing)
    await writing
    sent += await spine.publish_many([Draft("a.b", {}, key=f"k{i}") for i in range(200)])  # rings every bell
    await wait_until(lambda: count(spine, len(sent)), PATIENCE_S)
    letters = await wait_until(lambda: buried(spine, len(vandal.written)), PATIENCE_S)
    assert {(letter.partition, letter.entry_id) for letter in letters} == vandal.written
    most_kb = await watching
    print(f"{len(vandal.written)} pieces, {vandal.size / 1e6:.0f} MB, in {SECONDS:.0f} s, {len(sent)} events; "
          f"{start_kb / 1024:.0f} MB at first, {most_kb / 1024:.0f} MB at most")  # fmt: skip
    assert vandal.size >= 0.9 * SECONDS * BYTES_A_SECOND
    assert worker.returncode is None
    assert most_kb - start_kb < GROWTH_KB
    await check_copies(spine, sent)
    await mend_a_stray(spine, vandal)
    await vandal.client.aclose()


async def mend_a_stray(spine: Spine, vandal: Vandal) -> None:
    """One entry under an id of the server's own making blocks its stream until it is found and taken out."""
    stream = spine.server.keys.log(partition_of("k1", 8), Priority.NORMAL, "a.b")
    stray = (await vandal.client.xadd(stream, {"x": "y"}, id="*")).decode()
    with pytest.raises(StreamBlocked, match="doctor"):
        await spine.publish("a.b", {}, key="k1")
    findings = await find(vandal.client, spine.server.keys)
    fault = next(fault for fault in findings.faults if fault.key == stream)
    assert fault.blocked
    assert stray in fault.strays
    await repair(vandal.client, spine.server.keys, findings)
    before = len(await copies(spine))
    await spine.publish("a.b", {"n": -1}, key="k1")
    await wait_until(lambda: count(spine, before + 1))


async def check_copies(spine: Spine, sent: list[Event[Any]]) -> None:
    found: dict[str, list[int]] = defaultdict(list)
    for event in await copies(spine):
        found[event.key].append(event.payload["of"])
    for key in {event.key for event in sent}:
        assert found[key] == [event.seq for event in sent if event.key == key]


async def highest(pid: int, done: asyncio.Task[None]) -> int:
    most = 0
    while not done.done():
        most = max(most, resident_kb(pid))
        await asyncio.sleep(0.1)
    return max(most, resident_kb(pid))


async def serving(spine: Spine) -> bool:
    return any(status.workers for status in await spine.agents())


async def count(spine: Spine, wanted: int) -> bool:
    return len(await copies(spine)) >= wanted


async def buried(spine: Spine, wanted: int) -> list[Any]:
    found = await spine.dead_letters("copier")
    return found if len(found) >= wanted else []
