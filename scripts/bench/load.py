"""How arms put load on something and read the clock."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from scripts.bench.arm import Sample, Setup
from scripts.bench.processes import Counter

MICROSECONDS = 1e6
SLICES = 7

Numbered = Callable[[int], Awaitable[object]]


async def in_flight(call: Numbered, numbers: range, flights: int) -> None:
    """Await `call(number)` for all numbers with `flights` calls under way at any time."""
    left = iter(numbers)

    async def caller() -> None:
        for number in left:
            await call(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(flights, len(numbers))):
            group.create_task(caller())


async def rate_in_flight(call: Numbered, setup: Setup, flights: int) -> Sample:
    """Calls per second with `flights` under way, after the warm-up."""
    await in_flight(call, range(setup.warmup), flights)
    start = time.monotonic()
    await in_flight(call, range(setup.warmup, setup.total), flights)
    return {"rate": setup.count / (time.monotonic() - start)}


async def rate_in_batches(call: Callable[[range], Awaitable[object]], setup: Setup, size: int) -> Sample:
    """Events per second when `call` takes a range of up to `size` numbers, one call after the other."""
    for batch in _batches(range(setup.warmup), size):
        await call(batch)
    start = time.monotonic()
    for batch in _batches(range(setup.warmup, setup.total), size):
        await call(batch)
    return {"rate": setup.count / (time.monotonic() - start)}


async def in_turn(measures: Mapping[str, Callable[[range], Awaitable[float]]], numbers: range) -> Sample:
    """What each measures, a slice of `numbers` at a time and in turn, so that a slow moment hits all; medians."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    size = max(1, len(numbers) // SLICES)
    for place, part in enumerate(_batches(numbers, size)):
        for name in list(measures)[:: 1 if place % 2 else -1]:
            found[name].append(await measures[name](part))
    return {name: statistics.median(values) for name, values in found.items()}


def _batches(numbers: range, size: int) -> Iterator[range]:
    return (numbers[place : place + size] for place in range(0, len(numbers), size))


async def latencies_one_by_one(call: Numbered, setup: Setup) -> Sample:
    """Each call's time, one at a time, after the warm-up."""
    for number in range(setup.warmup):
        await call(number)
    times = []
    for number in range(setup.warmup, setup.total):
        start = time.monotonic()
        await call(number)
        times.append(time.monotonic() - start)
    return percentiles(times)


async def paced(call: Numbered, setup: Setup, per_second: float) -> None:
    """Await `call` for all numbers at a fixed rate well below capacity: light load."""
    start = time.monotonic()
    for number in range(setup.total):
        await asyncio.sleep(max(0.0, start + number / per_second - time.monotonic()))
        await call(number)


def percentiles(seconds: Sequence[float]) -> Sample:
    """p50, p99 and p99.9 in microseconds."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * MICROSECONDS

    return {"p50": at(0.50), "p99": at(0.99), "p999": at(0.999)}


async def reach(counters: Sequence[Counter], total: int) -> float:
    """Wait until the counters of some processes add up to `total`; the time when they did."""
    for wait in itertools.chain((0.001,) * 100, itertools.repeat(0.003)):
        if sum(counter.value for counter in counters) >= total:
            return time.monotonic()
        await asyncio.sleep(wait)
    raise AssertionError("unreachable")


async def drain_rate(counters: Sequence[Counter], setup: Setup) -> Sample:
    """Events per second that consumers take off a backlog of `setup.total`, after the warm-up."""
    start = await reach(counters, setup.warmup)
    done_before = sum(counter.value for counter in counters)
    end = await reach(counters, setup.total)
    return {"rate": (setup.total - done_before) / (end - start)}
