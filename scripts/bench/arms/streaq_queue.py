"""streaq: a task queue on Redis Streams and Lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripts.bench.arm import Sample, Setup, arm
from scripts.bench.events import Envelopes
from scripts.bench.load import drain_rate, rate_in_batches
from scripts.bench.processes import Counter, beside, new_counter

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

PACKAGES = ("streaq",)
BATCH = 256


def _worker(url: str, counter: Counter) -> tuple[Any, Any]:
    from streaq import Worker

    worker: Any = Worker(redis_url=url, handle_signals=False)

    @worker.task(ttl=0)
    async def handle(event: dict[str, Any]) -> None:
        counter.value += 1

    return worker, handle


def _enqueuer(worker: Any, task: Any) -> Any:
    envelopes = Envelopes()

    async def enqueue(numbers: range) -> None:
        await worker.enqueue_many([task.enqueue(envelopes[number]) for number in numbers])

    return enqueue


@arm("streaq.enqueue", packages=PACKAGES, count=15_000, quick=2_000)
async def enqueue(setup: Setup) -> Sample:
    """`enqueue_many`, 256 a call."""
    worker, task = _worker(setup.redis_url, new_counter())
    async with worker:
        return await rate_in_batches(_enqueuer(worker, task), setup, BATCH)


@arm("streaq.consume", packages=PACKAGES, count=10_000, quick=1_500)
async def consume(setup: Setup) -> Sample:
    """One worker process with a no-op task on a backlog; results are not kept."""
    counter = new_counter()
    worker, task = _worker(setup.redis_url, counter)
    async with worker:
        add = _enqueuer(worker, task)
        for low in range(0, setup.total, BATCH):
            await add(range(low, min(low + BATCH, setup.total)))
        with beside(_consume, setup.timeout, setup.redis_url, counter):
            return await drain_rate([counter], setup)


async def _consume(_: Connection, url: str, counter: Counter) -> None:
    worker, _task = _worker(url, counter)
    await worker.run_async()
