"""One measurement over a long log, in a process of its own: URL, namespace, what. Prints JSON."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import statistics
import sys
import time
from typing import Any

import redis.asyncio
from pydantic import BaseModel

from spine import Context, Draft, Event, Projection, Spine, reduces
from spine.keys import Keys

EVENTS = 1_000_000
TYPES = tuple(f"figure.type{n:02d}" for n in range(20))
KEYS = EVENTS // 50
LOOKS = 1_000


class Small(BaseModel):
    count: int = 0
    parties: int = 0


class Whole(Projection[Small]):
    """The small fold: over everything."""

    name = "whole"
    scope = "global"

    @reduces("figure.*")
    def count(self, state: Small, event: Event[dict[str, Any]]) -> Small:
        return Small(count=state.count + 1, parties=state.parties + event.payload["party"])


class PerKey(Projection[Small]):
    """The same for each key."""

    name = "per-key"

    @reduces("figure.*")
    def count(self, state: Small, event: Event[dict[str, Any]]) -> Small:
        return Small(count=state.count + 1, parties=state.parties + event.payload["party"])


def draft(number: int) -> Draft:
    """An event whose envelope has about 330 bytes."""
    context = Context(
        correlation=f"c-{number % KEYS:05d}",
        session={"turn": 7, "language": "en", "tier": "gold"},
        constraints={"budget": 250, "party": 4},
    )
    payload = {
        "n": number,
        "service": "Restaurants_2",
        "intent": "ReserveRestaurant",
        "slots": {"restaurant_name": "Benissimo", "time": "19:30", "date": "2026-11-20"},
        "confidence": 0.93,
        "party": number % 7,
        "customer": "Grace Hopper",
        "remark": "near the window, please",
        "source": "conversation",
    }
    return Draft(TYPES[number * 7 % 20], payload, key=f"session-{number % KEYS:05d}", context=context)


async def fill(url: str, namespace: str) -> dict[str, float]:
    began = time.perf_counter()
    async with Spine(url, namespace=namespace) as spine:
        for start in range(0, EVENTS, 1_000):
            await spine.publish_many([draft(number) for number in range(start, start + 1_000)])
    async with redis.asyncio.Redis.from_url(url) as client:
        ((_, fields),) = await client.xrange(Keys(namespace).log(0, 1, TYPES[0]), count=1)
    return {"seconds": time.perf_counter() - began, "bytes": len(next(iter(fields.values())))}


async def raw(url: str, namespace: str) -> dict[str, float]:
    """XRANGE COUNT 1000 and unpack, one stream after another."""
    import msgpack

    keys, count = Keys(namespace), 0
    async with redis.asyncio.Redis.from_url(url) as client:
        began = time.perf_counter()
        for stream in (keys.log(partition, 1, topic) for topic in TYPES for partition in range(8)):
            after = b"-"
            while entries := await client.xrange(stream, min=after, count=1_000):
                for _, fields in entries:
                    for data in fields.values():
                        msgpack.unpackb(memoryview(data)[4:])
                after = b"(" + entries[-1][0]
                count += len(entries)
        return {"rate": count / (time.perf_counter() - began), "events": count}


async def decode(url: str, namespace: str) -> dict[str, float]:
    async with Spine(url, namespace=namespace) as spine:
        began, count, last = time.perf_counter(), 0, 0
        async for event in spine.replay():
            count += 1
            assert event.seq > last
            last = event.seq
        return {"rate": count / (time.perf_counter() - began), "events": count}


async def fold(url: str, namespace: str) -> dict[str, float]:
    async with Spine(url, namespace=namespace) as spine:
        began = time.perf_counter()
        state = await spine.reduce(Whole)
        return {"rate": state.count / (time.perf_counter() - began), "events": state.count}


async def keys(url: str, namespace: str) -> dict[str, float]:
    chance = random.Random(4)
    pings, reads, states = [], [], []
    async with Spine(url, namespace=namespace) as spine:
        for _ in range(LOOKS):
            number = chance.randrange(KEYS)
            began = time.perf_counter()
            await spine.server.command("PING")
            pings.append(time.perf_counter() - began)
            began = time.perf_counter()
            events = [event async for event in spine.replay(key=f"session-{number:05d}")]
            reads.append(time.perf_counter() - began)
            assert len(events) == 50
            at = chance.randrange(EVENTS + 1)
            began = time.perf_counter()
            state = await spine.reduce(PerKey, key=f"session-{number:05d}", at=at)
            states.append(time.perf_counter() - began)
            assert state.count == sum(event.seq <= at for event in events)
    return {
        "ping_p99_ms": 1000 * statistics.quantiles(pings, n=100)[98],
        "read_p50_ms": 1000 * statistics.median(reads),
        "read_p99_ms": 1000 * statistics.quantiles(reads, n=100)[98],
        "state_p50_ms": 1000 * statistics.median(states),
        "state_p99_ms": 1000 * statistics.quantiles(states, n=100)[98],
    }


if __name__ == "__main__":
    what = {"fill": fill, "raw": raw, "decode": decode, "fold": fold, "keys": keys}[sys.argv[3]]
    found = asyncio.run(what(sys.argv[1], sys.argv[2]))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "peak_mb": peak_mb}))
