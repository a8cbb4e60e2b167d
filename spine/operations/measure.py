"""What a server does for the spine: rates and latencies of publishing, delivering, asking and replaying.

Everything happens in a namespace of its own, with one worker in a process beside the one that measures, as it would in
production. Latencies from publish to handler are taken from one monotonic clock: both run on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import multiprocessing
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import msgspec

from spine.agent import Agent, on
from spine.client import Spine
from spine.errors import NoHandler, RequestTimeout
from spine.events import Draft, Durability, Event
from spine.handling import Handling

BATCH = 256
KEYS = 1_024
LIGHT_PER_S = 200
START_TIMEOUT_S = 30.0
REPORT_TIMEOUT_S = 300.0

Percentiles = tuple[float, float, float]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure.

    Attributes:
        what: what was done.
        count: how many times, events or requests.
        per_s: how many a second; ``None`` where the pace was given.
        p50_ms: half of them took at most so long; ``None`` where only the whole was timed.
        p99_ms: 99 of 100.
        p999_ms: 999 of 1,000.
    """

    what: str
    count: int
    per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None


class Measured(Agent[Any]):
    """The worker's side: notes when events come, and answers."""

    name = "measured"
    start = "beginning"
    taken: ClassVar[list[tuple[float, float]]] = []

    @on("bench.event")
    async def take(self, event: Event[Any]) -> None:
        """Note how long it was on its way."""
        self.taken.append((time.monotonic(), event.payload["sent"]))

    @on("bench.ask")
    async def answer(self, event: Event[Any], ctx: Handling) -> None:
        """Answer at once."""
        await ctx.reply({})

    @on("bench.report")
    async def report(self, event: Event[Any], ctx: Handling) -> None:
        """Tell what was noted once there are so many, and begin anew."""
        while len(self.taken) < event.payload["count"]:  # noqa: ASYNC110 - an event to set would cost each handler
            await asyncio.sleep(0.02)
        ends = [at for at, _ in self.taken]
        waits = [at - sent for at, sent in self.taken]
        self.taken.clear()
        await ctx.reply({"seconds": max(ends) - min(ends), "ms": percentiles(waits)})


async def measure(
    url: str | None, namespace: str, *, events: int, size: int, in_flight: int, durability: Durability = "memory"
) -> AsyncGenerator[Figure, None]:
    """Yield what `events` events of about `size` bytes give, one figure after the other.

    `in_flight` publishes or requests are awaited at any time. `namespace` has to be new; deleting it is the caller's.
    """
    content = "x" * size
    async with Spine(url, namespace=namespace, name="bench", durability=durability) as spine:

        async def publish(number: int, event_type: str = "bench.event") -> None:
            await spine.publish(event_type, _payload(content), key=_key(number))

        async def publish_batch(number: int) -> None:
            drafts = [Draft("bench.other", _payload(content), key=_key(number * BATCH + i)) for i in range(BATCH)]
            await spine.publish_many(drafts)

        async def ask(number: int) -> None:
            await spine.request("bench.ask", _payload(content), key=_key(number), timeout=REPORT_TIMEOUT_S)

        yield await _timed(f"publish, {in_flight} in flight", publish, events, in_flight)
        yield await _timed("publish, one at a time", _other(publish), _few(events), 1)
        batches = max(1, events // BATCH)
        batched = await _timed(f"publish_many, {BATCH} a call", publish_batch, batches, 1)
        assert batched.per_s is not None
        yield msgspec.structs.replace(batched, count=batches * BATCH, per_s=batched.per_s * BATCH)

        async with _worker(url, namespace, spine):
            seconds, _ = await _report(spine, events)
            yield Figure(what="deliver a backlog, one worker", count=events, per_s=events / max(seconds, 1e-9))
            few = _few(events)
            for number in range(few):
                await publish(number)
                await asyncio.sleep(1 / LIGHT_PER_S)
            _, waits = await _report(spine, few)
            yield _figure(f"publish to handler, {LIGHT_PER_S} a second", few, None, waits)
            yield await _timed("request, one at a time", ask, few, 1)
            yield await _timed(f"request, {in_flight} in flight", ask, max(few, events // 4), in_flight)

        began = time.monotonic()
        count = 0
        async for _ in spine.replay():
            count += 1
        yield Figure(what="replay", count=count, per_s=count / (time.monotonic() - began))


def percentiles(seconds: list[float]) -> Percentiles:
    """Return p50, p99 and p99.9 of `seconds` in ms (nearest rank)."""
    ranked = sorted(seconds)
    p50, p99, p999 = (1000 * ranked[max(0, math.ceil(share * len(ranked)) - 1)] for share in (0.5, 0.99, 0.999))
    return p50, p99, p999


def _few(events: int) -> int:
    return max(20, min(2_000, events // 10))


def _payload(content: str) -> dict[str, Any]:
    return {"sent": time.monotonic(), "content": content}


def _key(number: int) -> str:
    return f"k-{number % KEYS}"


def _other(publish: Callable[[int, str], Awaitable[None]]) -> Callable[[int], Awaitable[None]]:
    """Publish what no agent handles: only the first figure's events are the backlog."""
    return lambda number: publish(number, "bench.other")


async def _timed(what: str, once: Callable[[int], Awaitable[None]], count: int, in_flight: int) -> Figure:
    latencies: list[float] = []
    numbers = iter(range(count))

    async def one_after_the_other(shared: Iterator[int]) -> None:
        for number in shared:
            began = time.monotonic()
            await once(number)
            latencies.append(time.monotonic() - began)

    began = time.monotonic()
    await asyncio.gather(*(one_after_the_other(numbers) for _ in range(min(in_flight, count))))
    return _figure(what, count, count / (time.monotonic() - began), percentiles(latencies))


def _figure(what: str, count: int, per_s: float | None, ms: Percentiles) -> Figure:
    return Figure(what=what, count=count, per_s=per_s, p50_ms=ms[0], p99_ms=ms[1], p999_ms=ms[2])


async def _report(spine: Spine, count: int) -> tuple[float, Percentiles]:
    answer = await spine.request("bench.report", {"count": count}, key="report", timeout=REPORT_TIMEOUT_S)
    p50, p99, p999 = answer.payload["ms"]
    return answer.payload["seconds"], (p50, p99, p999)


@asynccontextmanager
async def _worker(url: str | None, namespace: str, spine: Spine) -> AsyncIterator[None]:
    """Have a worker beside for as long as the block lasts; it ends as well when this process does."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(theirs, url, namespace), daemon=True)
    process.start()
    theirs.close()
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await _answers(spine):  # noqa: ASYNC110 - it is another process that is waited for
                await asyncio.sleep(0.05)
        yield
    finally:
        ours.close()
        await asyncio.to_thread(process.join, START_TIMEOUT_S)


async def _answers(spine: Spine) -> bool:
    try:
        await spine.request("bench.ask", {}, key="start", timeout=2.0)
    except (NoHandler, RequestTimeout):
        return False
    return True


def _work(connection: Connection, url: str | None, namespace: str) -> None:
    import signal

    from spine.worker.process import run

    async def serve() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(connection.fileno(), stop.set)
        async with Spine(url, namespace=namespace) as spine:
            await run(spine, Measured, concurrency=BATCH, stop=stop)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever measures ends us
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve())
